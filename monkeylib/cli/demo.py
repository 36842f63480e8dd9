"""`monkeylib demo`: a page in the browser."""

import webbrowser
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from monkeylib import resources
from monkeylib.cli import options
from monkeylib.progress import say


def demo(
    model: options.Checkpoint = None,
    base: Annotated[
        Path | None,
        typer.Option(help="A base model that answers beside it. Default: nano-base beside the nano model."),
    ] = None,
    device: options.Device = "",
    dtype: options.Dtype = None,
    bits: options.Bits = None,
    exact: options.Exact = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at. Others than this machine's are seen by others.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 7860,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    max_seconds: Annotated[
        float,
        typer.Option(min=1, help="Longest time of a request that has arrived, waiting included, in seconds."),
    ] = 120,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Requests that may wait while one is answered.")
    ] = 8,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Largest image, in MB.")] = 16,
) -> None:
    """Show in the browser what tiles are worth: one question to one view and to tiles, side by side.

    Attention, chat and the caption pipeline are there, too, and the chat API of `monkeylib serve`.
    """
    try:
        from monkeylib.demo import app
        from monkeylib.serving import http
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the demo needs {error.name}: install it with `pip install 'monkeylib[demo]'`"
        ) from error
    from monkeylib.serving.limits import Limits

    max_bytes = app.IMAGES_OF_A_REQUEST * max_megabytes * 2**20
    limits = Limits(max_bytes=max_bytes, max_seconds=max_seconds, max_waiting=max_waiting)
    http.require_free(host, port)
    folder = options.find_model(model) if model else options.default_checkpoint()
    load = partial(options.load_checkpoint, device=device, dtype=dtype, bits=bits, exact=exact)
    base_folder = _find_base(model, base, folder)
    shown_base = None if base_folder is None else load(base_folder)
    shown = app.Demo(load(folder), options.model_name(folder), limits, shown_base)

    is_local = http.is_loopback(host)
    if not is_local:
        say(f"everybody who reaches {host} can use this page")

    def start(address: str) -> None:
        print(f"{shown.name} is at {address} (Ctrl-C ends)", flush=True)
        if browser:
            webbrowser.open(address)

    http.run(app.build_app(shown, is_local), host, port, start)


def _find_base(model: Path | None, base: Path | None, folder: Path) -> Path | None:
    """Return the folder of the base model that answers beside the model; by default nano's."""
    if base is not None:
        return base
    shipped = resources.models() / "nano-base"
    return shipped if model is None and folder != shipped and shipped.is_dir() else None
