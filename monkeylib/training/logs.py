"""The curves of a training run on disk, whole even where the run was interrupted."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from monkeylib import paths

PARTS = ("train", "val")


class ResumedCSVLogger(CSVLogger):
    """Goes on with the `metrics.csv` that an interrupted run has left, which Lightning's own logger deletes.

    Steps that the interrupted run had logged after its last checkpoint are then logged again, with the same
    numbers; `read_curves` takes them once. A row is missing in two cases: a preempted run that was killed
    before the validation of its last step was done lacks that validation; and where nothing is validated, one
    killed in the moment between a checkpoint and its row lacks the row.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the file, which keeps the earlier rows."""
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Writer(str(self.log_dir))
        return self._experiment


class _Writer(ExperimentWriter):
    """Keeps the rows that are there, and takes up new columns in one move: Lightning's own deletes the ones,
    and loses all rows when it is killed during the other."""

    def _check_log_dir_exists(self) -> None:
        file = Path(self.metrics_file_path)
        rows = [row for row in _rows(file) if None not in row.values()] if file.exists() else []  # none torn
        if rows:
            self.metrics_keys = list(rows[0])
            self._write(rows, self.metrics_keys)
        else:
            file.unlink(missing_ok=True)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(_rows(Path(self.metrics_file_path)), fieldnames)

    def _write(self, rows: Sequence[dict[str, str]], columns: list[str]) -> None:
        with paths.replacing(Path(self.metrics_file_path)) as unfinished:
            with unfinished.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)


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
