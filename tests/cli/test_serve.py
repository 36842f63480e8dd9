"""`monkeylib serve`."""

import asyncio
import json
import socket
import urllib.request

import pytest

from monkeylib.cli import options
from monkeylib.serving import http


def test_serves_the_checkpoint_and_says_where(call, checkpoint, monkeypatch):
    """The command runs until a signal comes: here until its first client has been answered."""

    async def serve(application, host, port, on_start):
        def visit(address):
            on_start(address)
            models.append(asyncio.ensure_future(asyncio.to_thread(fetch, f"{address}/v1/models")))

        task = asyncio.ensure_future(serve_until_cancelled(application, host, port, visit))
        while not models:
            await asyncio.sleep(0)
        listed.append(await models[0])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def fetch(address):
        with urllib.request.urlopen(address, timeout=60) as response:
            return json.load(response)

    models, listed = [], []
    serve_until_cancelled = http._serve
    monkeypatch.setattr(http, "_serve", serve)
    code, output, errors = call("serve", "--model", checkpoint, "--port", 0)

    assert (code, errors) == (0, "")
    assert output.startswith("nano-base answers at http://127.0.0.1:")
    assert listed[0]["data"][0]["id"] == "nano-base"


def test_other_machines_need_a_key(call, checkpoint, monkeypatch):
    monkeypatch.delenv("MONKEYLIB_SERVE_KEY", raising=False)
    code, _, errors = call("serve", "--model", checkpoint, "--host", "0.0.0.0")
    assert code == 2 and "set MONKEYLIB_SERVE_KEY" in errors


def test_bad_limits_and_models_are_one_sentence(call, checkpoint):
    assert call("serve", "--model", "gone")[0] == 2
    assert call("serve", "--model", checkpoint, "--max-seconds", 0)[0] == 2


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_port_that_is_taken_is_told_before_a_model_is_loaded(call, command, monkeypatch):
    monkeypatch.setattr(options, "load_checkpoint", pytest.fail)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, errors = call(command, "--port", port)
    assert code == 2 and f"port {port}" in errors and "name another with --port" in errors
