"""`monkeylib demo`."""

import webbrowser

from monkeylib.cli import demo, options
from monkeylib.serving import http


def test_opens_the_page_and_says_where(call, checkpoint, monkeypatch):
    started, opened = [], []

    def run(app, host, port, on_start):
        started.append((host, port))
        on_start("http://127.0.0.1:1")

    monkeypatch.setattr(http, "run", run)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    code, output, errors = call("demo", "--model", checkpoint, "--port", 0)
    assert (code, output, errors) == (0, "nano-base is at http://127.0.0.1:1 (Ctrl-C ends)\n", "")
    assert started == [("127.0.0.1", 0)] and opened == ["http://127.0.0.1:1"]

    _, _, errors = call("demo", "--model", checkpoint, "--host", "0.0.0.0", "--no-browser")
    assert "everybody who reaches 0.0.0.0" in errors and len(opened) == 1


def test_the_base_of_the_nano_model_answers_beside_it(checkpoint, monkeypatch):
    monkeypatch.setattr(options, "load_checkpoint", lambda folder: folder.name)
    shipped = options.default_checkpoint()
    assert demo._load_base(None, None, shipped) == "nano-base"
    assert demo._load_base(checkpoint, None, checkpoint) is None
    assert demo._load_base(checkpoint, checkpoint, checkpoint) == "nano-base"
