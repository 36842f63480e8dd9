"""Curves that are drawn while a run trains."""

from types import SimpleNamespace

import IPython
import IPython.display
import matplotlib.pyplot as plt

from monkeylib import explore
from monkeylib.explore.widgets import training
from monkeylib.training.curves import ResumedCSVLogger


class Handle:
    """Counts what is displayed."""

    def __init__(self):
        self.images = []

    def update(self, image):
        self.images.append(image)


def test_curves_grow_in_one_output_of_the_cell(tmp_path, monkeypatch):
    handle = Handle()

    def display(image, display_id):
        assert display_id
        handle.images.append(image)
        return handle

    # Once it has a backend, pyplot looks no more for the events of the shell, which this one lacks.
    plt.switch_backend("agg")

    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=tmp_path)
    live = explore.watch_training()
    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    live.on_train_batch_end(trainer)
    assert handle.images == []  # nothing has been logged

    logger = ResumedCSVLogger(tmp_path, "", "", flush_logs_every_n_steps=1)
    logger.log_metrics({"train/loss": 1.0, "train/exact": 0.25}, 9)
    live.on_train_batch_end(trainer)
    live.on_train_batch_end(trainer)  # at once: not drawn again
    assert len(handle.images) == 1

    logger.log_metrics({"train/loss": 0.5, "train/exact": 0.5}, 19)
    live.on_train_end(trainer)
    first, last = (image.data for image in handle.images)
    assert first != last and last.startswith(b"\x89PNG")


def test_nothing_is_drawn_without_a_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: 1 / 0)
    start = {"part": "val", "step": 0, "loss": 2.0, "exact": 0.1}
    live = training.LiveCurves(start)
    live.on_train_end(SimpleNamespace(is_global_zero=True, default_root_dir=tmp_path))
    loss, _ = live.figure(tmp_path / "metrics.csv").axes
    assert loss.lines[0].get_xydata().tolist() == [[0, 2]]
