"""Training on files: the command line reads a mixture, and an interrupted run resumes."""

import json
import signal
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from monkeylib.cli import app
from monkeylib.training.curves import read_curves
from monkeylib.training.module import MonkeyTraining
from tests.support import record_files as files
from tests.support.training_processes import DDP, TrainingRun


@pytest.fixture()
def mixture(tmp_path):
    """Return a mixture of ten records in two formats, two of them bad, with validation data."""
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(files.png(40 + number, 30))

    conversations = [
        files.conversation(f"<img>{number}.png</img> which? Answer: ", f"number {number}")
        for number in range(5)
    ]
    conversations[1] = files.conversation("<img>gone.png</img> which? Answer: ", "none")
    files.write_list(tmp_path / "rows.json", conversations)

    questions = [
        files.example(f"which is {number}?", f"image {number}", f"{number}.png") for number in range(5)
    ]
    questions[3]["answer"] = ""
    files.write_lines(tmp_path / "rows.jsonl", questions)

    validation_questions = [
        files.example(f"what is {number}?", f"image {number}", f"{number}.png", question_id=number)
        for number in (7, 8)
    ]
    files.write_lines(tmp_path / "val.jsonl", validation_questions)

    sets = [
        {"name": "talks", "format": "conversations", "path": "rows.json"},
        {"name": "questions", "format": "evaluation", "path": "rows.jsonl"},
    ]
    validation = {"sets": [{"name": "val", "format": "evaluation", "path": "val.jsonl"}]}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"sets": sets, "validation": validation}))
    return tmp_path / "mix.yaml"


def train(mixture, out, *options):
    command = ["train", "--profile", "smoke", "--data", str(mixture), "--out", str(out), "--epochs", "2"]
    return CliRunner().invoke(app.app, [*command, "--batch-size", "4", *options])


def test_interrupted_run_on_records_ends_as_an_uninterrupted_one(
    mixture, tmp_path, monkeypatch, complete_training_runs
):
    uninterrupted = train(mixture, tmp_path / "uninterrupted", "--skip-bad")
    assert uninterrupted.exit_code == 0, uninterrupted.output
    assert "skipped 2 bad records, listed in" in uninterrupted.output

    training_step = MonkeyTraining.training_step

    def fail_at_step_3(self, batch, number):
        if self.trainer.global_step == 3:
            raise RuntimeError("the machine went down")
        return training_step(self, batch, number)

    with monkeypatch.context() as patched:
        patched.setattr(MonkeyTraining, "training_step", fail_at_step_3)
        interrupted = train(mixture, tmp_path / "run", "--skip-bad")
    assert "went down" in str(interrupted.exception)
    assert train(mixture, tmp_path / "run", "--skip-bad").exit_code == 0

    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    expected_weights = load_file(tmp_path / "uninterrupted" / "model" / "model.safetensors")
    assert all(torch.equal(weights[name], weight) for name, weight in expected_weights.items())

    curves = read_curves(tmp_path / "run" / "metrics.csv")
    assert curves == read_curves(tmp_path / "uninterrupted" / "metrics.csv")
    assert [row["step"] for row in curves if row["part"] == "train"] == [1, 2, 3, 4, 5]

    errors = [json.loads(line)["error"] for line in (tmp_path / "run" / "skipped.jsonl").open()]
    assert sorted(error.split(",")[0] for error in errors) == [
        "dataset questions: rows.jsonl",
        "dataset talks: rows.json",
    ]
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").open()]
    assert {row["id"] for row in answers} == {"7", "8"}


def test_bad_record_stops_the_run_with_its_message(mixture, tmp_path):
    result = train(mixture, tmp_path / "run")
    assert result.exit_code != 0
    assert str(result.exception).startswith("dataset ")
    assert "--skip-bad" in str(result.exception)
    assert not (tmp_path / "run" / "model").exists()


def test_bad_record_ends_all_processes_with_one_sentence(mixture, tmp_path):
    """Its image is opened by one of them alone; the others would wait for it."""
    questions = [files.example("which?", "image", f"{number}.png") for number in range(5)]
    files.write_lines(tmp_path / "rows.jsonl", questions)
    run = TrainingRun(tmp_path / "two", data=mixture, steps=4, **DDP)
    deadline = time.monotonic() + 120
    while not run.has_ended() and time.monotonic() < deadline:
        time.sleep(0.05)

    is_over = run.has_ended()
    run.send_signal(signal.SIGKILL)
    assert is_over, run.output()
    assert [process.exitcode for process in run.processes] == [2, 2], run.output()
    assert run.output().count("gone.png: check the path") == 1
    assert "Traceback" not in run.output()


def test_records_without_images_are_trained_on(tmp_path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    files.write_lines(tmp_path / "texts.jsonl", [{"messages": turns}] * 8)

    result = train(tmp_path / "texts.jsonl", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "model" / "config.json").exists()
