"""Training on files: the command line reads a mixture, and an interrupted run goes on where it was."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from monkeylib.cli import app
from monkeylib.training import callbacks
from monkeylib.training.module import MonkeyTraining
from tests.support import record_files as files


@pytest.fixture()
def mixture(tmp_path):
    """Ten rows of two formats, of which two cannot be trained on; one set of images for validation."""
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(files.png(40 + number, 30))
    rows = [files.conversation(f"<img>{n}.png</img> which? Answer: ", f"number {n}") for n in range(5)]
    rows[1] = files.conversation("<img>gone.png</img> which? Answer: ", "none")
    files.write_list(tmp_path / "rows.json", rows)
    lines = [files.example(f"which is {n}?", f"image {n}", f"{n}.png") for n in range(5)]
    lines[3]["answer"] = ""
    files.write_lines(tmp_path / "rows.jsonl", lines)
    asked = [files.example(f"what is {n}?", f"image {n}", f"{n}.png", question_id=n) for n in (7, 8)]
    files.write_lines(tmp_path / "val.jsonl", asked)
    sets = [
        {"name": "talks", "format": "conversations", "path": "rows.json"},
        {"name": "questions", "format": "evaluation", "path": "rows.jsonl"},
    ]
    validation = {"sets": [{"name": "val", "format": "evaluation", "path": "val.jsonl"}]}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"sets": sets, "validation": validation}))
    return tmp_path / "mix.yaml"


def train(mixture, out, *more):
    command = ["train", "--profile", "smoke", "--data", str(mixture), "--out", str(out), "--epochs", "2"]
    return CliRunner().invoke(app.app, [*command, "--batch-size", "4", *more])


def test_an_interrupted_run_on_records_ends_as_one_in_one_go(mixture, tmp_path, monkeypatch):
    straight = train(mixture, tmp_path / "straight", "--skip-bad")
    assert straight.exit_code == 0, straight.output
    assert "skipped 2 bad records, listed in" in straight.output
    step = MonkeyTraining.training_step

    def stopping(self, batch, number):
        if self.trainer.global_step == 3:
            raise RuntimeError("the machine went down")
        return step(self, batch, number)

    with monkeypatch.context() as patched:
        patched.setattr(MonkeyTraining, "training_step", stopping)
        stopped = train(mixture, tmp_path / "run", "--skip-bad")
    assert "went down" in str(stopped.exception)
    assert train(mixture, tmp_path / "run", "--skip-bad").exit_code == 0
    ours, theirs = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "straight")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (callbacks.read_curves(tmp_path / name / "metrics.csv") for name in ("run", "straight"))
    assert ours == theirs
    assert [row["step"] for row in theirs if row["part"] == "train"] == [1, 2, 3, 4, 5]
    listed = [json.loads(line)["error"] for line in (tmp_path / "run" / "skipped.jsonl").open()]
    assert sorted(error.split(",")[0] for error in listed) == [
        "dataset questions: rows.jsonl",
        "dataset talks: rows.json",
    ]
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").open()]
    assert {row["id"] for row in answers} == {"7", "8"}


def test_a_bad_record_stops_the_run_with_its_sentence(mixture, tmp_path):
    done = train(mixture, tmp_path / "run")
    assert done.exit_code != 0
    assert str(done.exception).startswith("dataset ") and "--skip-bad" in str(done.exception)
    assert not (tmp_path / "run" / "model").exists()
