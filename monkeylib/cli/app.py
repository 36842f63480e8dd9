"""The command line's commands, and how it reports errors.

What a user can fix (a missing file, an unknown name, a package that isn't installed) is reported in one
sentence on standard error, with exit code 2. `monkeylib --debug COMMAND` shows the traceback.
"""

import inspect
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from monkeylib import progress, resources, signals
from monkeylib.cli import (
    ablations,
    answer,
    assets,
    caption,
    chat,
    convert,
    data,
    demo,
    doctor,
    evaluate,
    listings,
    notebooks,
    reproduce,
    serve,
    train,
)
from monkeylib.cli.examples import epilog
from monkeylib.cli.verbosity import Quiet, Verbose, set_verbosity, with_verbosity
from monkeylib.errors import is_out_of_memory
from monkeylib.image_errors import ImageWarning
from monkeylib.progress import say, say_error
from monkeylib.redaction import redact

# In the order in which a newcomer meets them.
ORDER = (
    "demo answer chat serve caption train evaluate score convert data models profiles prompts experts assets "
    "notebooks reproduce ablations doctor"
).split()


class _InOrder(TyperGroup):
    """Lists the commands in a newcomer's order, and those that it does not name at the end."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    name="monkeylib",
    cls=_InOrder,
    help="Monkey: a large multimodal model that reads images in tiles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(demo.demo)
app.command()(answer.answer)
app.command()(chat.chat)
app.command()(serve.serve)
app.command()(caption.caption)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(evaluate.score)
app.command()(convert.convert)
app.add_typer(data.app, name="data")
app.command()(listings.models)
app.command()(listings.profiles)
app.command()(listings.prompts)
app.command()(listings.experts)
app.add_typer(assets.app, name="assets")
app.command()(notebooks.notebooks)
app.command()(reproduce.reproduce)
app.command()(ablations.ablations)
app.command()(doctor.doctor)


def _complete_commands(group: typer.Typer, prefix: str = "") -> None:
    """Give each command of a group its examples and the options that all commands have."""
    for info in group.registered_commands:
        name = info.name or info.callback.__name__
        # Help keeps line breaks, which in a docstring are those of the code.
        info.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(info.callback.__doc__ or ""))
        info.epilog = epilog(f"{prefix}{name}")
        info.callback = with_verbosity(info.callback)


_complete_commands(app)
_complete_commands(data.app, "data ")
_complete_commands(assets.app, "assets ")


def main() -> None:
    """Run the command line."""
    # Read here: errors are caught outside of the commands, to which typer hands the options.
    debug = "--debug" in sys.argv[1:2]

    progress.set_verbosity(0)

    # Bars of transformers and of hubs fill a log; these libraries are imported later.
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    try:
        with signals.end_at_once(), _warnings_of_images_as_sentences():
            _run_and_flush()
    except signals.Interrupted as interruption:
        # A process that another one reports for has no sentence.
        if str(interruption):
            print(f"\nmonkeylib: {interruption}", file=sys.stderr)
        raise
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has seen enough; click ends so, too.
        _discard_output()
        raise SystemExit(1) from None
    except (ValueError, OSError, ModuleNotFoundError, MemoryError, RuntimeError) as error:
        # Of the errors of torch, only the lack of memory is the user's to mend.
        is_expected = not isinstance(error, RuntimeError) or is_out_of_memory(error)
        if debug or not is_expected:
            raise
        say_error(_sentence(error))
        raise SystemExit(2) from error


@contextmanager
def _warnings_of_images_as_sentences() -> Iterator[None]:
    """Print warnings of images without the line of code that raised them."""
    show_warning = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if issubclass(category, ImageWarning):
            say(str(message))
        # Pillow's, of an image that is refused in a sentence of our own.
        elif category.__name__ != "DecompressionBombWarning":
            show_warning(message, category, *place, **options)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = show_warning


def _run_and_flush() -> None:
    """Run the command line, and write what it prints: a full disk is reported like any error."""
    try:
        app()
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            # Python would try again when it ends.
            _discard_output()
            raise


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(error: Exception) -> str:
    """Return the message of an error on one line."""
    # An address with a password, or a key that an endpoint repeats, may stand in any message.
    sentence = redact(" ".join(str(error).split())) or type(error).__name__
    if is_out_of_memory(error):
        return (
            f"there is not enough memory ({sentence[:200]}): take less at once (a smaller batch, fewer or "
            "smaller tiles), a smaller model, or a computer with more memory"
        )
    if isinstance(error, OSError) and (unwritable := resources.unwritable_sentence(error)):
        return unwritable
    # Of the system, and no sentence of ours.
    if isinstance(error, PermissionError) and error.errno is not None and error.filename:
        path = resources.display_path(os.fsdecode(error.filename))
        return f"{path} can't be opened ({error.strerror}): check its permissions, or name another"
    if isinstance(error, ModuleNotFoundError):
        from monkeylib.doctor import find_extra, install_command

        # Without a name it says itself what to install.
        if error.name:
            command = install_command(find_extra(error.name) or "all")
            sentence += f": install it, and what else is needed for this, with `{command}`"
    return sentence


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"monkeylib {metadata.version('monkeylib')}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Declare the options before the command; `main` itself reads --debug."""
    set_verbosity(quiet, verbose)
