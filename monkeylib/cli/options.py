"""Options that several commands share, and the default checkpoint."""

import contextlib
import gc
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from monkeylib import resources
from monkeylib.progress import say, say_detail

if TYPE_CHECKING:
    from PIL import Image

    from monkeylib import profiles
    from monkeylib.model.answers import Answer
    from monkeylib.monkey import Monkey
    from monkeylib.tiling import AutoGrid, Grid

# How many times more an image is stretched along one side than along the other before that is noted.
_NOTED_DISTORTION = 3

Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="Folder, name of a shipped model (`monkeylib models`), or name on a hub, of a Monkey or a "
        "raised model; with --grid also of a model of transformers, which is raised. Default: the shipped "
        "nano-monkey.",
    ),
]
Device = Annotated[
    str, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps. Default: a GPU if there is one.")
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Data type of the weights. Default: as saved, where that is quick."),
]
Bits = Annotated[
    int | None,
    typer.Option(
        metavar="4|8", help="Quantise the language model to 4 or 8 bits, with bitsandbytes on a GPU."
    ),
]
Exact = Annotated[
    bool | None,
    typer.Option(
        "--exact/--no-exact",
        help="Prepare images to the last bit as the released code does, or in bytes, in about a third of the "
        "time. Default: as the checkpoint says.",
        show_default=False,
    ),
]
Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        help="Preset of all sizes, such as nano (`monkeylib profiles` lists them), or a YAML file.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Another value of a field of the profile, such as training.lr=1e-4. May be repeated.",
    ),
]
GridOption = Annotated[
    str,
    typer.Option(
        "--grid",
        metavar="GRID",
        help="Tiles as ROWSxCOLUMNS; or auto: by the image's shape, auto:6: of up to six tiles. Default: the "
        "checkpoint's grid.",
    ),
]
ImageSource = Annotated[
    str, typer.Argument(help="Image file, or page of a document, such as scan.pdf#3.", metavar="IMAGE")
]
AllowAddress = Annotated[
    bool, typer.Option("--allow-address", help="Fetch the image if it is an http or https address.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")]
Temperature = Annotated[
    float | None, typer.Option(help="Sample at this temperature. Default: the greedy answer.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the samples, which then are the same every time.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print a line of JSON with all that is known of the answer.")
]


def default_checkpoint() -> Path:
    """Return the shipped nano-monkey, whatever has been trained here.

    Where it is missing, its base model answers, with a note on standard error.

    Raises:
        FileNotFoundError: neither is there.
    """
    shipped, base = resources.shipped_monkey(), resources.models() / resources.SHIPPED_BASE
    if resources.is_model(shipped):
        return shipped

    missing = f"{resources.display_path(shipped)} is missing"
    remedy = "clone or install monkeylib anew, or name a model with --model"
    if not resources.is_model(base):
        raise FileNotFoundError(f"{missing}, and so is its base: {remedy}")
    say(f"{missing}, so {resources.display_path(base)} answers: {remedy}")
    return base


def model_name(folder: Path) -> str:
    """Return the name of a checkpoint for those who see it: that of its folder, or its name on a hub.

    In a run's `monkey/model`, both folders tell something.
    """
    if not folder.exists():
        return folder.as_posix()
    path = folder.resolve()
    return f"{path.parent.name}-{path.name}" if path.name == "model" else path.name


def hide_loading_bars() -> None:
    """Hide the bars of transformers, which reads and writes weights too quickly for one."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def import_model_libraries() -> None:
    """Import PyTorch, transformers and what loads a model, with Python's garbage collector at rest.

    These libraries make a million objects that stay. The collector looks through them again and again while
    they are imported, and once more when the process ends: a fifth of the time that an answer takes.
    """
    if "monkeylib.inference" in sys.modules:
        return

    gc.disable()
    try:
        import monkeylib.inference  # noqa: F401
    finally:
        gc.enable()
    gc.freeze()


def find_model(name: Path) -> Path:
    """Return the folder of a model that is named: by its path, or as one that is shipped; or its name on a
    hub as it is."""
    return resources.find_model(name)


def load_checkpoint(
    folder: Path | None,
    grid: "Grid | AutoGrid | None" = None,
    device: str = "",
    dtype: str | None = None,
    bits: int | None = None,
    exact: bool | None = None,
) -> "Monkey":
    """Load a checkpoint, the default one if none is named; with a grid also a model that is raised to it."""
    from monkeylib.inference import load_model
    from monkeylib.raising import loading

    hide_loading_bars()
    start = time.perf_counter()
    path = find_model(folder) if folder else default_checkpoint()
    # Of all others, a grid is checked with the question.
    monkey = load_model(
        path,
        device=device or None,
        dtype=dtype,
        bits=bits,
        exact=exact,
        grid=grid if loading.may_be_raised(path) else None,
    )

    if grid is not None and loading.may_be_raised(path) and not loading.is_raised(path):
        command = f"monkeylib train --base {shlex.quote(str(path))} --grid {grid} --data FILE"
        say(
            f"{model_name(path)} is raised with adapters that are not trained: its answers show what more "
            f"pixels alone give it; `{command}` trains them"
        )

    # Who has named none may take it for a model of photographs.
    if folder is None and sys.stderr.isatty():
        say(
            f"{model_name(path)} answers, which reads synthetic images and guesses at photographs and scans; "
            "--model takes another one"
        )

    parameters = sum(parameter.numel() for parameter in monkey.model.parameters())
    say_detail(
        f"loaded {resources.display_path(path) if path.exists() else path} in "
        f"{time.perf_counter() - start:.1f} s: {parameters:,} parameters in "
        f"{str(monkey.model.dtype).removeprefix('torch.')} on {monkey.model.device}"
    )
    return monkey


def read_questions(source: Path) -> "Iterator[str]":
    """Return the questions of a text file, or of standard input for `-`: one each line, as soon as it comes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: while it is read, it is no text in UTF-8, or has held no question.
    """
    if str(source) != "-" and not source.is_file():
        raise FileNotFoundError(f"there is no file {source}: name a text file with a question each line")
    return _read_lines(source)


def _read_lines(source: Path) -> "Iterator[str]":
    count = 0
    name = "standard input" if str(source) == "-" else str(source)
    with contextlib.ExitStack() as stack:
        lines = sys.stdin
        if str(source) != "-":
            lines = stack.enter_context(source.open(encoding="utf-8-sig"))
        try:
            for line in lines:
                if question := line.strip():
                    count += 1
                    yield question
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is no text in UTF-8: write a question each line") from error
    if not count:
        raise ValueError(f"{name} holds no question: write one each line")


def load_profile(name: str, assignments: Sequence[str] | None) -> "profiles.Profile":
    """Load a profile, with other values of the fields that `--set` gives.

    Raises:
        ValueError: there is no such profile or field, or it cannot have this value.
    """
    from monkeylib import profiles
    from monkeylib.profiles.overrides import override, parse_assignments

    return override(profiles.load_profile(name), parse_assignments(assignments or ()))


def sampling_options(temperature: float | None, seed: int | None) -> dict[str, Any]:
    """Return how to generate answers: greedily without a temperature.

    Raises:
        ValueError: a seed without a temperature.
    """
    if temperature is not None:
        return {"do_sample": True, "temperature": temperature, "seed": seed}
    if seed is not None:
        raise ValueError("--seed is of samples: give a --temperature, such as 0.7, or leave it out")
    return {}


def print_json(fields: dict[str, Any]) -> None:
    """Print one line of JSON."""
    print(json.dumps(fields, ensure_ascii=False))


def lines_of_json_alone(is_json: bool) -> "contextlib.AbstractContextManager[object]":
    """Return a block that leaves standard output to lines of JSON: other lines go to standard error."""
    return contextlib.redirect_stdout(sys.stderr) if is_json else contextlib.nullcontext()


def report_cut(answers: "Sequence[Answer]", max_new_tokens: int) -> None:
    """Say on standard error that answers have reached their maximum length, or have no text at all."""
    count = sum(answer.is_cut for answer in answers)
    if answers and not any(answer.text.strip() for answer in answers):
        if count:
            say(
                f"the model gave no text within {max_new_tokens} tokens: it may need more of them "
                "(--max-new-tokens), or more training"
            )
        else:
            say("the model ended its answer at once, without text: it may need more training")
        return

    if count:
        subject = "the answer was" if len(answers) == 1 else f"{count} of {len(answers)} answers were"
        say(f"{subject} cut after {max_new_tokens} tokens: allow more with --max-new-tokens")


def open_source(source: str, allow_address: bool) -> "Image.Image":
    """Open a file, a page, a shipped image by its name, or an address, or standard input for `-`.

    Raises:
        ImageError: it cannot be read, or is a folder; the second `-` finds nothing to read.
    """
    from monkeylib.images import ImageError, open_image

    if source == "-":
        content = sys.stdin.buffer.read()
        if not content:
            raise ImageError(
                "empty",
                "standard input is empty: `-` reads one image from it, as in `monkeylib answer - QUESTION < "
                "image.png`, and can be given once",
            )
        return open_image(content)
    if source and resources.to_path(source).is_dir():
        raise ImageError(
            "unsupported",
            f"{source} is a folder, and one image is expected: name a file in it; `monkeylib caption "
            f"{shlex.quote(source)} --out captions` describes all images of a folder",
        )
    return open_image(resources.find_sample(source), allow_address=allow_address)


def read_grid(text: str) -> "Grid | AutoGrid | None":
    """Return the grid of ROWSxCOLUMNS, auto or auto:TILES; None for an empty text.

    Raises:
        ValueError: the text is none of these.
    """
    from monkeylib.tiling import parse_grid

    return parse_grid(text) if text else None


def note_distortion(monkey: "Monkey", image: "Image.Image", grid: "Grid | AutoGrid | None") -> None:
    """Note on standard error that the model will see an image squeezed along one side.

    Nothing is said about a grid that was named: whoever names it knows.
    """
    from monkeylib import tiling

    if monkey.resize_mode != "stretch" or isinstance(grid, tiling.Grid):
        return

    selected = monkey.select_grid(image.size, grid)
    # An image of one view is squeezed into a square.
    factor = tiling.distortion(*image.size, selected if selected.tiles else tiling.Grid(1, 1))
    if factor < _NOTED_DISTORTION:
        return

    width, height = image.size
    advice = ""
    if selected.tiles and grid is None:
        advice = "; --grid auto chooses tiles by its shape"
    say(
        f"the image of {width}x{height} pixels is stretched over "
        f"{f'{selected} tiles' if selected.tiles else 'one square view'} (rows x columns), "
        f"{float(factor):.3g} times more along one side than along the other{advice}."
    )
