"""Runs that learn nothing sensible stop: numbers that are not finite, and records that cannot be used."""

import csv
import json
import math
import time
from types import SimpleNamespace

import pytest
import torch

from monkeylib import profiles
from monkeylib.data.records import BadRecord, Record
from monkeylib.profiles import build
from monkeylib.training import batches, checkpointing, finetune, health
from monkeylib.training.batches import SkippedRecords, TrainingData
from monkeylib.training.checkpointing import SaveCheckpoints
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.synthetic_records import synthetic_data

SMOKE = profiles.load_profile("smoke")


class Records:
    """Synthetic records, of which some have no image and others are too long."""

    def __init__(self, records, without_image=(), too_long=()):
        self.records, self.without_image, self.too_long = records, without_image, too_long

    def __getitem__(self, number):
        record = self.records[number]
        images, turns = record.images, record.turns
        if number in self.without_image:
            images = ("no/such/image.png",)
        if number in self.too_long:
            turns = ((" why? answer: ", "because " * 200),)
        return Record.from_turns(record.id, images, turns, "some", f"some, record {number}")


def data_of(folder, train=(), validation=(), too_long=(), count=32, skip=True):
    """Return training data with bad records at the given positions, which are skipped."""
    records = synthetic_data(SMOKE)
    return TrainingData(
        Records(records.train, train, too_long),
        Records(records.validation, validation),
        "some",
        num_records=count,
        num_validation_records=4,
        skipped=SkippedRecords(folder / "run" / "skipped.jsonl") if skip else None,
    )


def read_rows(file):
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def poison(monkeypatch, step, what, micro_batch=0):
    """Make the loss of a micro-batch, or its gradient alone, infinite."""
    original = MonkeyTraining.training_step

    def training_step(self, batch, number):
        loss = original(self, batch, number)
        if (self.trainer.global_step, number % self.accumulation_steps) != (step - 1, micro_batch):
            return loss
        if what == "loss":
            self.micro_batch_losses[-1] = loss.detach() * math.nan
            return loss * math.nan
        loss.register_hook(lambda gradient: gradient * math.inf)
        return loss

    monkeypatch.setattr(MonkeyTraining, "training_step", training_step)


# --- finite numbers


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("loss", "The loss is nan in step 3, at a learning rate of .* and .*: the step was"),
        ("gradient", r"The loss is \d\.\d+, but the norm of its gradient (nan|inf), in step 3"),
    ],
)
def test_step_that_is_not_finite_is_not_taken(what, message, tmp_path, monkeypatch):
    weights = []
    on_exception = health.Health.on_exception

    def keep_weights(self, trainer, module, error):
        weights.append([weight.detach().clone() for weight in module.parameters()])
        on_exception(self, trainer, module, error)

    monkeypatch.setattr(health.Health, "on_exception", keep_weights)
    poison(monkeypatch, 3, what)
    profile = SMOKE.with_training(steps=12)
    with pytest.raises(ValueError, match=message):
        finetune.run(profile, tmp_path / "run")

    assert all(torch.isfinite(weight).all() for weight in weights[0])
    assert not (tmp_path / "run" / "model").exists()

    rows = [json.loads(line) for line in (tmp_path / "run" / "bad_batch.jsonl").read_text().splitlines()]
    assert len(rows) == profile.training.batch_size
    assert {row["step"] for row in rows} == {3}
    assert {row["loss_is_finite"] for row in rows} == {what == "gradient"}
    assert all(row["id"].startswith("nano-train-") and row["turns"] for row in rows)

    # The run can go on once its cause is gone.
    monkeypatch.undo()
    assert finetune.run(profile, tmp_path / "run").exists()


def test_micro_batch_that_is_not_finite_comes_first(tmp_path, monkeypatch):
    poison(monkeypatch, 1, "loss", micro_batch=2)
    profile = SMOKE.with_training(micro_batch_size=1)
    with pytest.raises(ValueError, match="The loss is nan in step 1"):
        finetune.run(profile, tmp_path / "run")

    rows = [json.loads(line) for line in (tmp_path / "run" / "bad_batch.jsonl").read_text().splitlines()]
    assert [row["micro_batch"] for row in rows] == [2, 0, 1, 3]
    assert [row["loss_is_finite"] for row in rows] == [False, True, True, True]


def test_weights_that_a_step_has_made_infinite_are_not_saved(tmp_path):
    """As with a learning rate far too high: the first step's loss and gradient are finite."""
    profile = SMOKE.with_training(lr=1e38, lora_lr=1e38, gradient_clip=1e30, warmup=0)
    with pytest.raises(ValueError, match=r"infinite or not a number|The loss is nan in step"):
        finetune.run(profile, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_checkpoint_with_infinite_weights_is_not_written(tmp_path, monkeypatch):
    def break_weight(self, *_):
        with torch.no_grad():
            next(weight for weight in self.parameters() if weight.requires_grad).fill_(math.inf)

    monkeypatch.setattr(MonkeyTraining, "on_train_batch_end", break_weight, raising=False)
    with pytest.raises(ValueError, match="has made weights infinite or not a number .*: lower the learning"):
        finetune.run(SMOKE.with_training(steps=2), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_base_model_that_is_not_finite_is_refused(tmp_path, monkeypatch):
    build_model = build.build_model

    def broken(*arguments):
        model = build_model(*arguments)
        with torch.no_grad():
            model.resampler.query[0, 0] = math.nan
        return model

    monkeypatch.setattr(build, "build_model", broken)
    with pytest.raises(ValueError, match=r"base model has weights .* not a number \(resampler\.query\)"):
        finetune.run(SMOKE, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_weights_that_are_not_finite_are_named():
    weights = {
        "whole": torch.tensor([1, 2]),
        "largest": torch.tensor([torch.finfo(torch.float32).max, -1e38]),
        "empty": torch.zeros(0),
        "nan": torch.tensor([0.0, math.nan]),
        "inf": torch.tensor([0.0, -math.inf], dtype=torch.bfloat16),
    }
    assert health.not_finite(weights.items()) == ["nan", "inf"]


# --- records


def test_run_whose_records_are_all_bad_stops_before_the_model_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "build_model", lambda *_: pytest.fail("the model was built"))
    with pytest.raises(ValueError, match="none of the first 32 training records .* there is no image at"):
        finetune.run(SMOKE, tmp_path / "run", data=data_of(tmp_path, train=range(32)))

    with pytest.raises(ValueError, match="none of the first 32 training records .* raise max_length"):
        finetune.run(SMOKE, tmp_path / "run", data=data_of(tmp_path, too_long=range(32)))

    with pytest.raises(ValueError, match="none of the first 4 validation records"):
        finetune.run(SMOKE, tmp_path / "run", data=data_of(tmp_path, validation=range(4)))


@pytest.mark.parametrize("kind", ["train", "too_long"])
def test_run_that_has_learned_from_no_record_is_no_model(kind, tmp_path):
    """Its records are among the first 100 that are usable, but no step has got one."""
    data = data_of(tmp_path, count=100, **{kind: range(99)})
    # A second call goes on from the last checkpoint, after which no step is left to take.
    for _ in range(2):
        with pytest.raises(ValueError, match="none of the 8 records can be used, so nothing was learned"):
            finetune.run(SMOKE.with_training(steps=2), tmp_path / "run", data=data)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("kind", ["train", "too_long"])
def test_step_without_a_usable_record_changes_nothing(kind, tmp_path, monkeypatch):
    """Adam would make a step of its moments, and of the weight decay."""
    monkeypatch.setattr(batches, "BATCHES_PER_BUCKET", 1)
    size = SMOKE.training.batch_size
    bad = range(size, 2 * size)  # those of the second step
    data = data_of(tmp_path, count=3 * size, **{kind: bad})
    folder = tmp_path / "run"
    profile = SMOKE.with_training(steps=3, save_every_steps=1, max_bad_share=1.0)

    states = {}
    save = SaveCheckpoints.save

    def save_and_note(self, trainer):
        save(self, trainer)
        path = checkpointing.checkpoint_path(folder, trainer.global_step)
        states[trainer.global_step] = torch.load(path, weights_only=True)

    monkeypatch.setattr(SaveCheckpoints, "save", save_and_note)
    finetune.run(profile, folder, data=data)

    for name, weight in states[1]["state_dict"].items():
        assert torch.equal(states[2]["state_dict"][name], weight), name
        is_fixed = name == "model.resampler.positions"
        assert torch.equal(states[3]["state_dict"][name], weight) == is_fixed, name
    moments, unchanged = (states[step]["optimizer_states"][0]["state"] for step in (1, 2))
    for number, values in moments.items():
        assert all(torch.equal(unchanged[number][name], value) for name, value in values.items())


def test_run_with_too_many_bad_records_stops(tmp_path):
    data = data_of(tmp_path, train=range(1, 24, 2), count=32)
    with pytest.raises(
        ValueError, match=r"1[12] of the first \d\d records are bad, more than the share of 0.1"
    ):
        finetune.run(SMOKE.with_training(steps=8), tmp_path / "run", data=data)
    assert not (tmp_path / "run" / "model").exists()

    allowed = SMOKE.with_training(steps=8, max_bad_share=0.9)
    assert finetune.run(allowed, tmp_path / "other", data=data).exists()


def test_share_of_bad_records_is_that_of_all_devices_and_kinds():
    """Devices add up what they have skipped; a few bad records are not a share."""

    def step(callback, bad, devices=2):
        batch = {"num_records": 2.0, "num_bad_records": bad}
        strategy = SimpleNamespace(reduce=lambda counts, reduce_op: counts * devices)
        trainer = SimpleNamespace(strategy=strategy, global_step=0)
        weight = torch.nn.Parameter(torch.zeros(1))
        weight.grad = torch.ones(1)
        module = SimpleNamespace(
            accumulation_steps=1,
            micro_batch_losses=[torch.ones(())],
            parameters=lambda: [weight],
            device="cpu",
        )
        callback.on_train_batch_start(trainer, module, batch, 0)
        callback.on_before_optimizer_step(trainer, module, None)

    callback = health.Health(None, 0.1, health.StepTimer())
    for _ in range(10):
        step(callback, 0.5)
    assert (callback.num_records, callback.num_bad) == (40, 10)

    resumed = health.Health(None, 0.1, health.StepTimer())
    resumed.load_state_dict(callback.state_dict())
    with pytest.raises(ValueError, match="11 of the first 44 records are bad"):
        step(resumed, 0.5)


def test_bad_validation_record_is_skipped_in_validation_and_sample_answers(tmp_path, complete_training_runs):
    data = data_of(tmp_path, validation=[1])
    assert finetune.run(SMOKE, tmp_path / "run", data=data).exists()
    assert [error.split(":")[0] for error in data.skipped.errors()] == ["some, record 1, image 1"]

    answers = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert len({answer["id"] for answer in answers}) == 3


def test_bad_validation_record_stops_a_run_that_skips_none(tmp_path):
    with pytest.raises(BadRecord, match="record 1, image 1: there is no image .*--skip-bad$"):
        finetune.run(SMOKE, tmp_path / "run", data=data_of(tmp_path, validation=[1], skip=False))


def test_noting_a_bad_record_costs_the_same_however_many_there_are(tmp_path, monkeypatch):
    skipped = SkippedRecords(tmp_path / "skipped.jsonl")
    skipped.add(BadRecord("record 0"))

    monkeypatch.setattr(SkippedRecords, "errors", lambda self: pytest.fail("the file was read again"))
    start = time.process_time()
    for number in range(5000):
        skipped.add(BadRecord(f"record {number}"))
    assert time.process_time() - start < 5
    monkeypatch.undo()

    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 5000
    assert skipped.errors()[:2] == ["record 0", "record 1"]


def test_bad_records_of_several_processes_are_listed_once(tmp_path):
    file = tmp_path / "skipped.jsonl"
    first, second = SkippedRecords(file), SkippedRecords(file)
    for log in (first, second):
        log.add(BadRecord("record 1"))
    first.add(BadRecord("record 2"))

    with file.open("a") as opened:
        opened.write('{"error": "cut o')
    SkippedRecords(file).add(BadRecord("record 3"))
    assert first.errors() == ["record 1", "record 2", "record 3"]


# --- logs


def test_gradient_norm_and_times_are_logged(tmp_path):
    profile = SMOKE.with_training(micro_batch_size=2)
    finetune.run(profile, tmp_path / "run")
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.csv") if row.get("train/loss")]

    assert len(rows) == 4
    assert all(float(row["grad_norm"]) > 0 for row in rows)
    assert len({row["grad_norm"] for row in rows}) == 4
    assert all(float(row["time/compute"]) > 0 and float(row["time/data"]) >= 0 for row in rows)


def test_logged_norm_is_that_before_clipping(tmp_path):
    clipped = SMOKE.with_training(gradient_clip=1e-6, steps=1)
    finetune.run(clipped, tmp_path / "run")
    (row,) = [row for row in read_rows(tmp_path / "run" / "metrics.csv") if row.get("train/loss")]
    assert float(row["grad_norm"]) > 1e-3
