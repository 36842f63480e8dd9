"""Curves of a training run survive a kill."""

import csv

import pytest

from monkeylib.training.curves import ResumedCSVLogger, read_curves

VALIDATION_ROW = {"val/loss": 2.0, "val/exact": 0.5}
TRAINING_ROW = {"train/loss": 1.0, "train/exact": 0.25}


def open_logger(folder):
    return ResumedCSVLogger(folder, "", "", flush_logs_every_n_steps=1)


def test_resumed_log_keeps_rows_and_adds_columns(tmp_path):
    open_logger(tmp_path).log_metrics(VALIDATION_ROW, 0)

    resumed = open_logger(tmp_path)
    resumed.log_metrics(TRAINING_ROW, 1)
    resumed.log_metrics(VALIDATION_ROW | {"val/loss": 1.5}, 1)

    rows = read_curves(tmp_path / "metrics.csv")
    assert [(row["part"], row["step"], row["loss"]) for row in rows] == [
        ("train", 2, 1.0),
        ("val", 1, 2.0),
        ("val", 2, 1.5),
    ]


def test_kill_while_columns_are_added_loses_no_row(tmp_path, monkeypatch):
    logger = open_logger(tmp_path)
    logger.log_metrics(VALIDATION_ROW, 0)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(csv.DictWriter, "writerows", stop)
        logger.log_metrics(TRAINING_ROW, 1)
    assert [row["loss"] for row in read_curves(tmp_path / "metrics.csv")] == [2.0]

    open_logger(tmp_path).log_metrics(TRAINING_ROW, 1)
    assert [row["loss"] for row in read_curves(tmp_path / "metrics.csv")] == [1.0, 2.0]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_truncated_row_is_left_out(tmp_path):
    open_logger(tmp_path).log_metrics(VALIDATION_ROW, 0)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.4")

    open_logger(tmp_path).log_metrics(VALIDATION_ROW, 1)
    assert [row["step"] for row in read_curves(tmp_path / "metrics.csv")] == [1, 2]
