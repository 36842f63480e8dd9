"""`monkeylib chat`: a conversation about one image."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from monkeylib.cli import options

if TYPE_CHECKING:
    from PIL.Image import Image

    from monkeylib.model.generation import Answer
    from monkeylib.model.streaming import AnswerStream
    from monkeylib.monkey import Monkey
    from monkeylib.processing import GridInput


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

    conversation = _conversation(monkey, opened, tiles)
    while question := _read_question():
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
    monkey: "Monkey", image: "Image", grid: "GridInput | None"
) -> "Callable[..., AnswerStream]":
    """Return a function that streams the answer to the next question of a conversation about an image."""
    from monkeylib.raised_monkey import RaisedMonkey

    # Monkey encodes and reads the image once. A raised model has the chat template of its base, which says
    # where the image stands, and reads everything for each question.
    if not isinstance(monkey, RaisedMonkey):
        return monkey.session(image, grid).stream

    history: list[tuple[str, Answer]] = []

    def stream(question: str, **settings: Any) -> "AnswerStream":
        return monkey.stream(
            image,
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
