"""The curves of a training run, drawn anew while it runs."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import lightning as L
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from monkeylib.plots.style import STYLE
from monkeylib.plots.training import draw_curves
from monkeylib.tables import Row
from monkeylib.training.curves import read_curves

_SECONDS = 2.0  # between two drawings


class LiveCurves(L.Callback):
    """Draws a run's loss and exact match in the cell that trains, and again with every row of its log.

    Its figure is `plots.training.draw_curves`, which notebooks draw once more from the finished run, for
    pages without a kernel.

    Attributes:
        start: rows from before the first step, such as the untrained model's validation.
    """

    def __init__(self, start: Row | None = None) -> None:
        self.start = [start] if start else []
        self._handle: Any = None
        self._drawn = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Draw what has been logged, if the last drawing is old enough."""
        if trainer.is_global_zero and time.monotonic() - self._drawn >= _SECONDS:
            self._update(trainer)

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Draw the last rows."""
        if trainer.is_global_zero:
            self._update(trainer)

    def figure(self, log: Path) -> Figure | None:
        """Return the curves of a `metrics.csv`; None if nothing has been logged yet."""
        rows = [*self.start, *(read_curves(log) if log.exists() else [])]
        if not rows:
            return None
        with plt.rc_context(STYLE):
            fig = draw_curves(rows)
            plt.close(fig)  # or the notebook would show it once more
        return fig

    def _update(self, trainer: L.Trainer) -> None:
        fig = self.figure(Path(trainer.default_root_dir) / "metrics.csv")
        if fig is None:
            return

        # Where there is no notebook, display prints a line each time: nothing is drawn there.
        from IPython import get_ipython
        from IPython.display import Image, display

        if getattr(get_ipython(), "kernel", None) is None:
            return
        file = io.BytesIO()
        fig.savefig(file, format="png", metadata={"Software": None})
        if self._handle is None:
            self._handle = display(Image(file.getvalue()), display_id=True)
        else:
            self._handle.update(Image(file.getvalue()))
        self._drawn = time.monotonic()
