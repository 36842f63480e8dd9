"""`monkeylib demo`."""

import webbrowser

import torch

from monkeylib import resources
from monkeylib.cli import demo, options
from monkeylib.demo import app
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


def test_the_base_of_the_nano_model_answers_beside_it(checkpoint):
    shipped = options.default_checkpoint()
    assert demo._find_base(None, None, shipped) == resources.models() / "nano-base"
    assert demo._find_base(checkpoint, None, checkpoint) is None
    assert demo._find_base(checkpoint, checkpoint, checkpoint) == checkpoint


def test_both_models_run_where_and_how_is_said(call, checkpoint, monkeypatch):
    shown = []
    monkeypatch.setattr(http, "run", lambda *arguments: None)
    monkeypatch.setattr(app, "build_app", lambda page, is_local: shown.append(page))
    options_given = ("--device", "cpu", "--dtype", "bfloat16", "--no-exact", "--no-browser")
    assert call("demo", "--model", checkpoint, "--base", checkpoint, *options_given)[0] == 0

    models = [monkey for monkey, _ in shown[0].side_by_side.models.values()]
    assert len(models) > 1
    for monkey in models:
        assert monkey.model.dtype == torch.bfloat16 and not monkey.processor.image_processor.exact
