"""The command line: `monkeylib --help`.

What a user can put right (a missing file, an unknown name, a package that isn't installed) is said in one
sentence on standard error, with exit code 2; `monkeylib --debug COMMAND` shows where it arose.
"""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from monkeylib import resources
from monkeylib.cli import assets, caption, checkpoint, data, evaluate, train

if TYPE_CHECKING:
    from monkeylib.inference import Monkey

app = typer.Typer(
    name="monkeylib",
    help="Monkey: a large multimodal model that reads images in tiles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(assets.app, name="assets")
app.command()(train.train)
app.command()(caption.caption)
app.command()(evaluate.evaluate)
app.command()(evaluate.score)
app.add_typer(data.app, name="data")

ProfileOption = Annotated[str, typer.Option(help="Size of everything: smoke, nano, small, paper-896, ...")]
SeedOption = Annotated[int, typer.Option(help="Seed of training and sampling.")]


def main() -> None:
    """Run the command line."""
    debug = "--debug" in sys.argv[1:2]
    try:
        app()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if debug:
            raise
        _complain(error)
        raise SystemExit(2) from error


def _complain(error: Exception) -> None:
    sentence = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        sentence += (
            ": install what monkeylib's optional parts need with `pip install -e '.[all]'` in its folder"
        )
    print(f"monkeylib: {sentence}", file=sys.stderr)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
) -> None:
    """Options before the command; `main` reads --debug, since it also reports what commands raise."""


@app.command()
def answer(
    image: Annotated[Path, typer.Argument(help="The image.")],
    question: Annotated[str, typer.Argument(help="The question; captions need none.")] = "",
    model: checkpoint.Option = None,
    prompt: Annotated[
        str, typer.Option(help="Name of the prompt: vqa, caption, detailed_caption, ...")
    ] = "vqa",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer at most.")] = 128,
    grid: Annotated[str, typer.Option(help="Tiles as ROWSxCOLUMNS; the checkpoint's own by default.")] = "",
) -> None:
    """Answer a question about an image."""
    from monkeylib.images import open_image
    from monkeylib.prompts import build_prompt
    from monkeylib.tiling import parse_grid

    opened = open_image(image)  # what is wrong with the question is said before the model is loaded
    build_prompt(prompt, question)
    tiles = parse_grid(grid) if grid else None
    print(_load(model).answer(opened, question, prompt, max_new_tokens, tiles))


@app.command()
def chat(
    image: Annotated[Path, typer.Argument(help="The image.")],
    model: checkpoint.Option = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer at most.")] = 128,
) -> None:
    """Talk about an image: a question per line, until an empty line or the end of the input."""
    from monkeylib.images import open_image

    opened, monkey, turns = open_image(image), _load(model), []
    while question := _question():
        pieces = []
        for piece in monkey.stream(opened, question, max_new_tokens=max_new_tokens, history=turns):
            print(piece, end="", flush=True)
            pieces.append(piece)
        print()
        turns.append((question, "".join(pieces).strip()))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint folder: the released layout, or monkeylib's.")],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    to: Annotated[
        Literal["monkeylib", "released", "peft"] | None,
        typer.Option(help="Layout to write; the other one of monkeylib and released by default."),
    ] = None,
    grid: Annotated[str, typer.Option(help="Tiles as ROWSxCOLUMNS; 2x2 for Qwen-VL by default.")] = "",
) -> None:
    """Convert a checkpoint: the released Monkey or Qwen-VL to monkeylib's and back, or adapters to peft's."""
    from monkeylib.checkpoints import convert as checkpoints
    from monkeylib.checkpoints.released import is_released
    from monkeylib.tiling import parse_grid

    tiles, progress = parse_grid(grid) if grid else None, sys.stderr.isatty()
    to = to or ("monkeylib" if is_released(source) else "released")
    if to == "monkeylib":
        checkpoints.convert(source, target, tiles, progress)
    elif grid:
        raise ValueError(f"--grid is for reading the released layout, not for writing {to}: leave it out")
    elif to == "released":
        checkpoints.export(source, target, progress)
    else:
        checkpoints.export_lora(source, target)
    print(f"wrote {resources.display_path(target)}")


@app.command()
def reproduce(
    profile: ProfileOption = resources.COMMITTED_PROFILE,
    seed: SeedOption = 0,
    only: Annotated[str, typer.Option(help="Beginning of the name of the notebooks to run, as in 05.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Run also the notebooks that haven't changed.")
    ] = False,
    update_notebooks: Annotated[
        bool,
        typer.Option("--update-notebooks", help="Then write the notebooks and the README's tables anew."),
    ] = False,
) -> None:
    """Run the notebooks in order; those that haven't changed since their last run aren't run again."""
    from rich.console import Console

    from monkeylib import profiles
    from monkeylib.reproduce import series
    from monkeylib.reproduce.tables import update_page

    profiles.load(profile)  # an unknown profile is said before anything runs
    if update_notebooks and (profile, seed) != (resources.COMMITTED_PROFILE, 0):
        raise ValueError(
            f"The committed notebooks are those of profile {resources.COMMITTED_PROFILE} and seed 0."
        )
    try:
        series.run(profile, seed, only=only, force=force, say=partial(print, flush=True))
    except series.NotebookFailed as error:
        print(f"monkeylib: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    if update_notebooks:
        from monkeylib.experiments.variants import TITLES

        readme = resources.REPOSITORY / "README.md"
        written = series.update_notebooks()
        update_page(readme, names=TITLES)
        print("wrote", *(resources.display_path(path) for path in (*written, readme)))
    series.report(profile, Console())


def _question() -> str:
    """The next line of the input; nothing at its end."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _load(model: Path | None) -> "Monkey":
    from transformers.utils import logging

    import monkeylib

    logging.disable_progress_bar()  # of reading the weights, which takes no time that one would watch
    return monkeylib.load_model(checkpoint.chosen(model))


if __name__ == "__main__":
    main()
