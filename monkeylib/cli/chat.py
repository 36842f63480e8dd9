"""`monkeylib chat`: a conversation about one image."""

import sys

from monkeylib.cli import options


def chat(
    image: options.ImageSource,
    model: options.Checkpoint = None,
    max_new_tokens: options.MaxNewTokens = 128,
    grid: options.GridOption = "",
    allow_address: options.AllowAddress = False,
) -> None:
    """Chat about an image: one question per line, until an empty line or the end of the input."""
    from monkeylib.images import open_image

    opened = open_image(image, allow_address=allow_address)
    tiles = options.read_grid(grid)
    monkey = options.load_checkpoint(model)
    options.note_distortion(monkey, opened, tiles)

    history: list[tuple[str, str]] = []  # questions with their answers
    while question := _read_question():
        answer = ""
        # Print pieces as they come; the whole answer joins the history.
        for text in monkey.stream(
            opened, question, max_new_tokens=max_new_tokens, history=history, grid=tiles
        ):
            print(text, end="", flush=True)
            answer += text
        print()
        history.append((question, answer.strip()))


def _read_question() -> str:
    """Return the next line of the input; an empty string at its end."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
