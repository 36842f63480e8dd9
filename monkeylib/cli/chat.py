"""`monkeylib chat`: a conversation about one image, or several."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monkeylib.cli import options

if TYPE_CHECKING:
    from PIL.Image import Image

    from monkeylib.model.generation import Answer
    from monkeylib.model.streaming import AnswerStream
    from monkeylib.monkey import Monkey
    from monkeylib.processing import GridInput


_HOW = "One question per line; an empty line, or Ctrl-D, ends the conversation."


def chat(
    image: options.ImageSource,
    more_images: Annotated[
        list[str] | None,
        typer.Option("--image", help="Another image, which follows the first one. May be repeated."),
    ] = None,
    model: options.Checkpoint = None,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    device: options.Device = "",
    dtype: options.Dtype = None,
    bits: options.Bits = None,
    exact: options.Exact = None,
    json: options.Json = False,
    grid: options.GridOption = "",
    allow_address: options.AllowAddress = False,
) -> None:
    """Chat about an image, or several: one question per line, until an empty line or the end of the input."""
    options.import_model_libraries()
    from monkeylib.images import open_image
    from monkeylib.model.generation_options import check_options

    generation = options.sampling_options(temperature, seed)
    check_options(max_new_tokens, generation)
    sources = [image, *(more_images or [])]
    images = [open_image(source, allow_address=allow_address) for source in sources]
    tiles = options.read_grid(grid)
    monkey = options.load_checkpoint(model, tiles, device, dtype, bits, exact)
    for opened in images:
        options.note_distortion(monkey, opened, tiles)

    conversation = _conversation(monkey, images, tiles)
    if sys.stdin.isatty():
        print(_HOW, file=sys.stderr)

    while question := _read_question():
        # What other programs take for a command is no question either.
        if sys.stdin.isatty() and question.startswith("/"):
            print(_HOW, file=sys.stderr)
            continue

        # Ctrl-C in the middle of an answer ends its thread, too.
        with conversation(question, max_new_tokens=max_new_tokens, **generation) as stream:
            for part in stream:
                if not json:
                    print(part, end="", flush=True)
            answer = stream.answer

        if json:
            options.print_json({"question": question, **answer.to_dict()})
        else:
            print()
        options.report_cut([answer], max_new_tokens)


def _conversation(
    monkey: "Monkey", images: "list[Image]", grid: "GridInput | None"
) -> "Callable[..., AnswerStream]":
    """Return a function that streams the answer to the next question of a conversation about images."""
    from monkeylib.raised_monkey import RaisedMonkey

    # Monkey encodes and reads the images once. A raised model has the chat template of its base, which says
    # where the images stand, and reads everything for each question.
    if not isinstance(monkey, RaisedMonkey):
        return monkey.session(images, grid).stream

    history: list[tuple[str, Answer]] = []

    def stream(question: str, **settings: Any) -> "AnswerStream":
        return monkey.stream(
            images,
            question,
            history=history,
            grid=grid,
            on_end=lambda answer: history.append((question, answer)),
            **settings,
        )

    return stream


def _read_question() -> str:
    """Return the next line of the input; an empty string at its end."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
