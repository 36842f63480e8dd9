"""Curves on disk stay whole, whenever a run is killed."""

import csv

import pytest

from monkeylib.training.callbacks import ResumedCSVLogger, read_curves

FIRST = {"val/loss": 2.0, "val/exact": 0.5}
SECOND = {"train/loss": 1.0, "train/exact": 0.25}


def logger(folder):
    return ResumedCSVLogger(folder, "", "", flush_logs_every_n_steps=1)


def test_rows_of_other_columns_go_on_from_what_is_there(tmp_path):
    logger(tmp_path).log_metrics(FIRST, 0)
    resumed = logger(tmp_path)
    resumed.log_metrics(SECOND, 1)
    resumed.log_metrics(FIRST | {"val/loss": 1.5}, 1)
    rows = read_curves(tmp_path / "metrics.csv")
    assert [(row["part"], row["step"], row["loss"]) for row in rows] == [
        ("train", 2, 1.0),
        ("val", 1, 2.0),
        ("val", 2, 1.5),
    ]


def test_a_run_killed_while_it_takes_up_columns_loses_no_row(tmp_path, monkeypatch):
    running = logger(tmp_path)
    running.log_metrics(FIRST, 0)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(csv.DictWriter, "writerows", killed)
        running.log_metrics(SECOND, 1)
    assert [row["loss"] for row in read_curves(tmp_path / "metrics.csv")] == [2.0]
    logger(tmp_path).log_metrics(SECOND, 1)
    assert [row["loss"] for row in read_curves(tmp_path / "metrics.csv")] == [1.0, 2.0]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_row_that_was_cut_off_is_left_out(tmp_path):
    logger(tmp_path).log_metrics(FIRST, 0)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.4")
    logger(tmp_path).log_metrics(FIRST, 1)
    assert [row["step"] for row in read_curves(tmp_path / "metrics.csv")] == [1, 2]
