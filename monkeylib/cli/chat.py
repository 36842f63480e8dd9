"""`monkeylib chat`: a conversation about one image, or several."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monkeylib import resources
from monkeylib.cli import options

if TYPE_CHECKING:
    from PIL.Image import Image

    from monkeylib.model.answers import Answer
    from monkeylib.model.streaming import AnswerStream
    from monkeylib.monkey import Monkey
    from monkeylib.processing import GridInput


_HOW = "One question per line; an empty line, Ctrl-D or /exit ends the conversation."

# What other programs take for a command is no question either.
_COMMAND = re.compile(r"/(\?|[a-z]+)")
_ENDS = ("/exit", "/quit", "/bye", "exit", "quit")


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
    """Chat about an image, or several: one question per line, until the end of the input.

    On a terminal an empty line ends the conversation, too; in a file it is left out.
    """
    from monkeylib.images import open_image

    # A wrong path is reported at once.
    sources = map(resources.find_sample, [image, *(more_images or [])])
    images = [open_image(source, allow_address=allow_address) for source in sources]

    options.import_model_libraries()
    from monkeylib.model.generation_options import check_options

    tiles = options.read_grid(grid)
    generation = options.sampling_options(temperature, seed)
    check_options(max_new_tokens, generation)
    monkey = options.load_checkpoint(model, tiles, device, dtype, bits, exact)
    for opened in images:
        options.note_distortion(monkey, opened, tiles)

    conversation = _conversation(monkey, images, tiles)
    if sys.stdin.isatty():
        print(_HOW, file=sys.stderr)

    for question in _read_questions():
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
    # The images are encoded once, but for raised models that generate in a way of their own.
    if monkey.has_sessions:
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


def _read_questions() -> Iterator[str]:
    """Yield the questions of the conversation, each when it is typed."""
    is_terminal = sys.stdin.isatty()
    while True:
        line = _read_line() if is_terminal else sys.stdin.readline()
        question = line.strip()

        if not line or question in _ENDS or (is_terminal and not question):
            return
        if _COMMAND.fullmatch(question):
            print(_HOW, file=sys.stderr)
        elif question:
            yield question


def _read_line() -> str:
    """Return a line of a terminal, empty at the end of the input; arrow keys edit it."""
    print("> ", end="", file=sys.stderr, flush=True)
    if sys.stdin is not sys.__stdin__:
        return sys.stdin.readline()

    with contextlib.suppress(ImportError):  # Pythons without it have no arrows
        import readline  # noqa: F401
    try:
        return input() + "\n"
    except EOFError:
        return ""
