"""A running server of `monkeylib serve` in a thread, on a free port, and requests to it."""

import asyncio
import base64
import contextlib
import io
import threading
from collections.abc import Callable, Iterator

from aiohttp import web
from PIL import Image

from monkeylib.serving.app import build_app
from monkeylib.serving.engine import Engine
from monkeylib.serving.limits import Limits

MODEL = "a-monkey"


@contextlib.contextmanager
def running(build: Callable[[], web.Application]) -> Iterator[str]:
    """Run the application that a function builds; yield the server's address."""
    loop = asyncio.new_event_loop()

    async def start():
        runner = web.AppRunner(build(), handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    # All of it in the other thread: this one may have a loop of its own, as with a browser.
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        runner = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def serving(
    monkey, *, limits: Limits | None = None, key: str = "", **options
) -> Iterator[tuple[str, Engine]]:
    """Serve a model; yield the server's address, and its engine."""
    engines = []

    def build():
        engines.append(Engine(monkey, MODEL, limits or Limits(), **options))
        return build_app(engines[0], key)

    with running(build) as address:
        yield address, engines[0]


def data_url(image: Image.Image) -> str:
    """Return an image as a client sends it."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def image_part(image: Image.Image | str) -> dict:
    """Return an image, or an address of one, as a part of a message."""
    return {"type": "image_url", "image_url": {"url": image if isinstance(image, str) else data_url(image)}}


def user(*parts) -> dict:
    """Return a message of the user: texts, and images in their places."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else image_part(part) for part in parts
    ]
    return {"role": "user", "content": content}
