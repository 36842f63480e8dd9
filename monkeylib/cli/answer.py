"""`monkeylib answer`: questions about one image, or several."""

import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monkeylib import resources
from monkeylib.cli import options
from monkeylib.progress import say_detail

if TYPE_CHECKING:
    from PIL.Image import Image

    from monkeylib.model.answers import Answer
    from monkeylib.model.streaming import AnswerStream
    from monkeylib.monkey import Monkey
    from monkeylib.processing import GridInput


def answer(
    image: options.ImageSource,
    question: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUESTION]", help="The question, between quotes; prompts for captions need none."
        ),
    ] = None,
    more_images: Annotated[
        list[str] | None,
        typer.Option("--image", help="Another image, which follows the first one. May be repeated."),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Text file with a question each line, in place of QUESTION; - reads standard input. The "
            "model is loaded once. Answers come in the order of the questions: on a terminal behind them, "
            "elsewhere alone, and with --json with them."
        ),
    ] = None,
    model: options.Checkpoint = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="Prompt template (`monkeylib prompts` lists them). Default: vqa; of a raised chat model, "
            "the question as it is."
        ),
    ] = "",
    max_new_tokens: options.MaxNewTokens = 128,
    grid: options.GridOption = "",
    samples: Annotated[
        int,
        typer.Option(
            help="Number of answers to sample, one per line. For more than one, give a --temperature."
        ),
    ] = 1,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Print the answer while it is generated. Default: on a terminal.",
            show_default=False,
        ),
    ] = None,
    device: options.Device = "",
    dtype: options.Dtype = None,
    bits: options.Bits = None,
    exact: options.Exact = None,
    json: options.Json = False,
    allow_address: options.AllowAddress = False,
) -> None:
    """Answer a question about an image, or many of a file; - reads the image from standard input."""
    # What is quickly checked comes first, so that a wrong argument is reported at once.
    sources = [image, *(more_images or [])]
    text = _check_question(question or [], questions, prompt, sources)
    images = [options.open_source(source, allow_address) for source in sources]
    asked = [text] if questions is None else options.read_questions(resources.to_path(questions))

    # Imported here, so that `monkeylib --help` starts at once.
    options.import_model_libraries()
    from monkeylib.model.generation_options import check_options

    tiles = options.read_grid(grid)
    generation = options.sampling_options(temperature, seed)
    if samples < 1:
        raise ValueError(f"--samples is {samples}: expected at least 1")
    if samples > 1:
        if temperature is None:
            raise ValueError(
                f"--samples is {samples}: greedy answers are all the same, so give a --temperature, such as "
                "0.7"
            )
        generation["num_return_sequences"] = samples
    if stream and (json or samples > 1):
        raise ValueError("--stream prints one answer as text: leave it out with --json and --samples")
    if stream is None:
        stream = sys.stdout.isatty() and not json and samples == 1
    check_options(max_new_tokens, generation)

    monkey = options.load_checkpoint(model, tiles, device, dtype, bits, exact)
    for opened in images:
        options.note_distortion(monkey, opened, tiles)

    settings = {"prompt": prompt or monkey.default_prompt, "max_new_tokens": max_new_tokens, **generation}
    respond, begin_stream = _responders(monkey, images, tiles, is_one=questions is None)
    for text in asked:
        start = time.perf_counter()
        # Who reads a terminal has not seen the questions of the file.
        if questions is not None and sys.stdout.isatty() and not json:
            print(text, end="  " if samples == 1 else "\n", flush=True)
        result = _print_stream(begin_stream(text, **settings)) if stream else respond(text, **settings)
        say_detail(f"answered in {time.perf_counter() - start:.1f} s")

        if json:
            fields = {} if questions is None else {"question": text}
            options.print_json(fields | result.to_dict())
        elif not stream:
            for sample in result.samples or [result]:
                print(sample.text, flush=True)
        options.report_cut(result.samples or [result], max_new_tokens)


def _check_question(question: list[str], questions: Path | None, prompt: str, sources: list[str]) -> str:
    """Return the question, empty where there is none, if it agrees with the other arguments.

    Raises:
        ValueError: it does not.
    """
    from monkeylib.prompts import get_template

    takes_question = get_template(prompt or "vqa").takes_question
    if len(question) > 1:
        raise ValueError(_explain_parts(question, sources[0]))

    if questions is None:
        text = question[0] if question else ""
        if takes_question and not text.strip():
            raise ValueError(
                'there is no question; give one behind the image: monkeylib answer IMAGE "QUESTION"'
            )
        return text

    if question:
        raise ValueError("QUESTION and --questions are both given: leave one of them out")
    if not takes_question:
        raise ValueError(f"the prompt {prompt!r} takes no questions: leave out --questions")
    if str(questions) == "-" and "-" in sources:
        raise ValueError("the image and the questions cannot both come from standard input: name a file")
    return ""


def _explain_parts(parts: list[str], image: str) -> str:
    """Return what to do about several arguments where one question is expected."""
    command = f"monkeylib answer {shlex.quote(image)}"
    number_of_images = next(
        (number for number, part in enumerate(parts) if not Path(part).is_file()), len(parts)
    )
    if number_of_images:
        return (
            f"{number_of_images + 1} images came, and one is expected: name others of the same question "
            f'by --image, as in: {command} "QUESTION" --image {shlex.quote(parts[0])}; and where it is about '
            "each alone, call the command for each"
        )

    # Words that a shell has split have no spaces.
    if all(" " in part.strip() for part in parts):
        return (
            f"{len(parts)} questions came, and one is expected: write each into a line of a file, as in: "
            f"{command} --questions FILE"
        )
    return (
        f"the question came in {len(parts)} parts: put it between quotes, as in: {command} "
        f'"{" ".join(parts)}"'
    )


def _responders(
    monkey: "Monkey", images: "list[Image]", grid: "GridInput | None", *, is_one: bool
) -> "tuple[Callable[..., Answer], Callable[..., AnswerStream]]":
    """Return functions that answer a question about images, at once and part by part.

    Many questions share one encoding of the images, and each is answered by itself.
    """
    # Some raised models generate in a way of their own, which encodes an image with each question.
    if is_one or not monkey.has_sessions:
        return partial(monkey.answer, images, grid=grid), partial(monkey.stream, images, grid=grid)

    session = monkey.session(images, grid)

    def stream_alone(question: str, **settings: Any) -> "AnswerStream":
        session.forget()  # a stream is a turn of the session's chat
        return session.stream(question, **settings)

    return session.answer, stream_alone


def _print_stream(stream: "AnswerStream") -> "Answer":
    """Print an answer while it is generated, and return it."""
    # Ctrl-C in the middle of an answer ends its thread, too.
    with stream as parts:
        for part in parts:
            print(part, end="", flush=True)
    print(flush=True)
    return parts.answer
