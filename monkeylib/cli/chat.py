"""`monkeylib chat`: a conversation about one image."""

import sys

from monkeylib.cli import options


def chat(
    image: options.ImageSource,
    model: options.Checkpoint = None,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    json: options.Json = False,
    grid: options.GridOption = "",
    allow_address: options.AllowAddress = False,
) -> None:
    """Chat about an image: one question per line, until an empty line or the end of the input."""
    from monkeylib.images import open_image
    from monkeylib.model.generation_options import check_options

    generation = options.sampling_options(temperature, seed)
    check_options(max_new_tokens, generation)
    opened = open_image(image, allow_address=allow_address)
    tiles = options.read_grid(grid)
    monkey = options.load_checkpoint(model, tiles)
    options.note_distortion(monkey, opened, tiles)

    history: list[tuple[str, str]] = []  # questions with their answers
    while question := _read_question():
        # Ctrl-C in the middle of an answer ends its thread, too.
        with monkey.stream(
            opened, question, max_new_tokens=max_new_tokens, history=history, grid=tiles, **generation
        ) as stream:
            for part in stream:
                if not json:
                    print(part, end="", flush=True)
            answer = stream.answer

        if json:
            options.print_json({"question": question, **answer.to_dict()})
        else:
            print()
        options.report_cut([answer], max_new_tokens)
        history.append((question, answer.text))


def _read_question() -> str:
    """Return the next line of the input; an empty string at its end."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
