"""The curves of a training run on disk, whole even where the run was interrupted."""

import csv
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

PARTS = ("train", "val")


class ResumedCSVLogger(CSVLogger):
    """Goes on with the `metrics.csv` that an interrupted run has left, which Lightning's own logger deletes.

    Steps that the interrupted run had logged after its last checkpoint are then logged again, with the same
    numbers; `read_curves` takes them once. A row is missing in two cases: a preempted run that was killed
    before the validation of its last step was done lacks that validation; and where nothing is validated, one
    killed in the moment between a checkpoint and its row lacks the row.
    """

    @property
    def experiment(self) -> Any:
        """The writer of the file, which holds the earlier rows from the start."""
        file = Path(self.log_dir) / "metrics.csv"
        earlier = _rows(file) if self._experiment is None and file.exists() else []
        with warnings.catch_warnings():  # about the rows that are kept here
            warnings.filterwarnings("ignore", message="Experiment logs directory")
            writer = super().experiment
        if earlier:
            writer.metrics = earlier
            writer.save()
        return writer


def read_curves(file: Path) -> list[dict[str, str | int | float]]:
    """Rows `part` (train or val), `step`, `loss` and `exact` of a `metrics.csv`, in the order of steps.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not file.exists():
        raise FileNotFoundError(f"There are no curves at {file}: train first.")
    found = {
        (part, int(row["step"])): row
        for row in _rows(file)
        for part in PARTS
        if row.get(f"{part}/loss")  # a row holds what was logged at once: training or validation
    }
    return [
        {
            "part": part,
            "step": step + 1,  # steps taken: Lightning counts from 0
            "loss": float(row[f"{part}/loss"]),
            "exact": float(row[f"{part}/exact"]),
        }
        for (part, step), row in sorted(found.items())
    ]


def _rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))
