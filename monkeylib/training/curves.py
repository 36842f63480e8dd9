"""Curves of a training run: a CSV file that survives kills, and how it is read."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from monkeylib import resources

SPLITS = ("train", "val")


class ResumedCSVLogger(CSVLogger):
    """CSV logger that continues the `metrics.csv` of an interrupted run, which Lightning's own deletes.

    Steps that the interrupted run had logged after its last checkpoint are logged again; `drop_after` removes
    them first.

    A row is missing in two cases. A preempted run that was killed before the validation of its last step was
    complete lacks that validation. Where nothing is validated, a run that was killed between a checkpoint
    and its row lacks the row.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the writer of the file, which keeps the rows that it finds."""
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _ResumedWriter(str(self.log_dir))
        return self._experiment

    def drop_after(self, step: int) -> None:
        """Remove the rows of later steps than the `step` steps that are complete.

        The interrupted run had logged them after its last checkpoint. The resumed run may take other steps,
        or log others.
        """
        self.experiment.drop_after(step)


class _ResumedWriter(ExperimentWriter):
    """Writer that keeps existing rows and adds columns in one move.

    Lightning's own deletes existing rows, and loses all of them when it is killed while it adds a column.
    """

    def _check_log_dir_exists(self) -> None:
        file = Path(self.metrics_file_path)
        # The last line of a killed run may be cut off: DictReader gives None for what it lacks.
        rows = [row for row in _read_rows(file) if None not in row.values()] if file.exists() else []
        if rows:
            # Lightning compares new rows with these columns.
            self.metrics_keys = list(rows[0])
            self._write(rows, self.metrics_keys)
        else:
            file.unlink(missing_ok=True)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(_read_rows(Path(self.metrics_file_path)), fieldnames)

    def drop_after(self, step: int) -> None:
        """Remove the rows of later steps; rows count steps from 0."""
        file = Path(self.metrics_file_path)
        rows = _read_rows(file) if file.exists() else []
        remaining = [row for row in rows if int(row["step"]) < step]
        if len(remaining) < len(rows):
            self._write(remaining, self.metrics_keys)

    def _write(self, rows: Sequence[dict[str, str]], columns: list[str]) -> None:
        with (
            resources.atomic_write(Path(self.metrics_file_path)) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def read_curves(file: str | Path) -> list[dict[str, str | int | float]]:
    """Return rows of `part` (train or val), `step`, `loss` and `exact` from a `metrics.csv`, by step.

    Raises:
        FileNotFoundError: there is no such file.
    """
    file = resources.to_path(file)
    if not file.exists():
        raise FileNotFoundError(f"There are no curves at {file}: train first.")

    # A row holds what was logged at once: training or validation, or neither.
    row_of_step: dict[tuple[str, int], dict[str, str]] = {}
    for row in _read_rows(file):
        for split in SPLITS:
            if row.get(f"{split}/loss"):
                row_of_step[split, int(row["step"])] = row

    return [
        {
            "part": split,
            "step": step + 1,  # Lightning counts steps from 0
            "loss": float(row[f"{split}/loss"]),
            "exact": float(row[f"{split}/exact"]),
        }
        for (split, step), row in sorted(row_of_step.items())
    ]


def _read_rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))
