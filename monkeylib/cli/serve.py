"""`monkeylib serve`: answers for any client of OpenAI's chat API."""

import os
from typing import Annotated

import typer

from monkeylib.cli import options

_KEY = "MONKEYLIB_SERVE_KEY"


def serve(
    model: options.Checkpoint = None,
    grid: options.GridOption = "",
    name: Annotated[
        str, typer.Option(help="Name of the model for clients. Default: that of its folder.")
    ] = "",
    device: options.Device = "",
    dtype: options.Dtype = None,
    bits: options.Bits = None,
    exact: options.Exact = None,
    host: Annotated[
        str, typer.Option(help=f"Address to listen at. Others than this machine's need a key in {_KEY}.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 8000,
    max_new_tokens: options.MaxNewTokens = 512,
    max_seconds: Annotated[
        float,
        typer.Option(min=1, help="Longest time of a request that has arrived, waiting included, in seconds."),
    ] = 120,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Requests that may wait while one is answered; others get status 503.")
    ] = 8,
    max_megabytes: Annotated[
        int, typer.Option(min=1, help="Largest request, in MB; its images stand in it.")
    ] = 32,
    max_images: Annotated[int, typer.Option(min=1, help="Most images of a conversation.")] = 8,
    allow_address: Annotated[
        bool,
        typer.Option(
            "--allow-address",
            help="Fetch images from http and https addresses that clients name, also on your network.",
        ),
    ] = False,
) -> None:
    """Serve /v1/chat/completions with images, as OpenAI's chat API has it.

    Images come as data URLs; no path of a client is opened. A client in Python:
    OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none").
    """
    try:
        from monkeylib.serving import app, http
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the server needs {error.name}: install it with `pip install 'monkeylib[serve]'`"
        ) from error
    from monkeylib.serving.engine import Engine
    from monkeylib.serving.limits import Limits

    key = os.environ.get(_KEY, "")
    is_local = http.is_loopback(host)
    if not is_local and not key:
        raise ValueError(
            f"at {host} others than you can reach the server: set {_KEY} to a key that clients have to send, "
            "or leave out --host"
        )
    limits = Limits(max_megabytes * 2**20, max_images, max_new_tokens, max_seconds, max_waiting)
    http.require_free(host, port)
    tiles = options.read_grid(grid)
    folder = options.find_model(model) if model else options.default_checkpoint()
    monkey = options.load_checkpoint(folder, tiles, device, dtype, bits, exact)
    if tiles is not None:
        monkey = monkey.with_grid(tiles)

    engine = Engine(monkey, name or options.model_name(folder), limits, allow_address)
    http.run(
        app.build_app(engine, key, is_local),
        host,
        port,
        lambda address: print(f"{engine.name} answers at {address}/v1 (Ctrl-C ends)", flush=True),
    )
