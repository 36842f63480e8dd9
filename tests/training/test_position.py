"""A run goes on with other devices, another micro-batch size or more steps: its progress is one number."""

import csv
import math

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeylib import profiles
from monkeylib.profiles import build, trainable
from monkeylib.training import curves
from monkeylib.training.batches import LengthBuckets, MicroBatches, TrainingData
from monkeylib.training.curves import ResumedCSVLogger
from monkeylib.training.data_parallel import Shard, accumulation_steps
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.optim import cosine_with_warmup
from monkeylib.training.position import Progress, Resume, _cuts
from monkeylib.training.synthetic_records import synthetic_data

SMOKE = profiles.load_profile("smoke")
WITHOUT_DROPOUT = SMOKE.model_copy(update={"lora": SMOKE.lora.model_copy(update={"dropout": 0.0})})


class StoppedError(Exception):
    """The run was stopped by the test."""


class Observer(L.Callback):
    """Note learning rates and batches of a run, and stop it after some step, with a checkpoint."""

    def __init__(self, folder, stop_after):
        self.folder, self.stop_after = folder, stop_after
        self.rates, self.validated = [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_validation_end(self, trainer, module):
        self.validated.append(trainer.global_step)

    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        if trainer.global_step == self.stop_after and (number + 1) % module.accumulation_steps == 0:
            trainer.save_checkpoint(self.folder / "stopped.ckpt")

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.stop_after:
            raise StoppedError


def fit(folder, profile, data=None, stop_after=None, resume=False):
    """Train; return the trained module and what was observed. A stopped run leaves its checkpoint."""
    torch.manual_seed(profile.training.seed)
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)
    module = MonkeyTraining(model, processor, profile, data or synthetic_data(profile))

    accumulation = accumulation_steps(profile, 1)
    observer = Observer(folder, stop_after)
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        use_distributed_sampler=False,
        max_steps=profile.training.steps,
        max_epochs=1,
        accumulate_grad_batches=accumulation,
        gradient_clip_val=profile.training.gradient_clip,
        callbacks=[Resume(), observer],
        logger=ResumedCSVLogger(folder, "", "", flush_logs_every_n_steps=1),
        enable_checkpointing=False,
        val_check_interval=2 * accumulation,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    try:
        trainer.fit(module, ckpt_path=folder / "stopped.ckpt" if resume else None)
    except StoppedError:
        pass
    return module, observer


def losses_of(folder):
    """Return {(part, step): loss}."""
    return {(row["part"], row["step"]): row["loss"] for row in curves.read_curves(folder / "metrics.csv")}


def assert_equal_weights(module, reference):
    weights = dict(reference.named_parameters())
    differing = [name for name, weight in module.named_parameters() if not torch.equal(weight, weights[name])]
    assert differing == []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the folder of an uninterrupted run of six steps in micro-batches of two, and its module."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    profile = WITHOUT_DROPOUT.with_training(steps=6, micro_batch_size=2)
    module, observer = fit(folder, profile)
    assert observer.validated == [2, 4, 6]
    return folder, module


# --- another division


@pytest.mark.parametrize("stop_after", [2, 3])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (None, 1), (2, None)])
def test_another_micro_batch_size_goes_on(uninterrupted, tmp_path, capsys, before, after, stop_after):
    expected, _ = uninterrupted
    profile = WITHOUT_DROPOUT.with_training(steps=6, micro_batch_size=before)
    fit(tmp_path, profile, stop_after=stop_after)

    _, observer = fit(tmp_path, profile.with_training(micro_batch_size=after), resume=True)
    assert len(observer.rates) == 6 - stop_after
    assert observer.validated == [4, 6]

    losses = losses_of(tmp_path)
    assert losses == pytest.approx(losses_of(expected), abs=1e-5)

    error = capsys.readouterr().err
    sizes = [size or 4 for size in (before, after)]
    assert (
        f"resuming after step {stop_after} on 1 device with micro-batches of {sizes[1]} instead of 1 device "
        f"with micro-batches of {sizes[0]}: the result is the same up to rounding" in error
    )


def test_same_division_is_the_same_bit_for_bit(uninterrupted, tmp_path, capsys):
    expected, reference = uninterrupted
    profile = WITHOUT_DROPOUT.with_training(steps=6, micro_batch_size=2)
    fit(tmp_path, profile, stop_after=3)
    module, _ = fit(tmp_path, profile, resume=True)

    assert_equal_weights(module, reference)
    assert losses_of(tmp_path) == losses_of(expected)
    assert "resuming" not in capsys.readouterr().err


@settings(max_examples=60)
@given(
    step=st.integers(0, 9),
    devices=st.sampled_from([1, 2, 4]),
    accumulation=st.sampled_from([1, 2]),
    num_examples=st.integers(33, 40),
)
def test_all_devices_together_go_on_where_the_run_was(step, devices, accumulation, num_examples):
    """The examples of the remaining steps are those of an undivided run that was not interrupted."""
    progress = Progress(0, num_examples, (), 10, 4, 1, None)
    consumed = progress.order().consumed_examples(step)
    resumed_step = Progress(consumed, num_examples, (), 10, 4, 1, None).order().batch_after(consumed)
    assert resumed_step == step

    batches = LengthBuckets(lambda number: number, lambda number: -number % 7, 4, 0, num_examples)
    num_batches = batches.num_batches
    expected = [sorted(batches[index]) for index in range(step, num_batches)]

    resumed = [[] for _ in expected]
    for rank in range(devices):
        shard = Shard(rank, devices, accumulation)
        dataset = MicroBatches(
            batches, lambda examples, *_: {"examples": examples}, num_batches, resumed_step, shard
        )
        for index in range(dataset.first, len(dataset)):
            resumed[index // accumulation - step] += dataset[index]["examples"]
    assert [sorted(examples) for examples in resumed] == expected


# --- more steps


def test_more_steps_after_the_end_follow_the_new_schedule(tmp_path, capsys):
    short = WITHOUT_DROPOUT.with_training(steps=3)
    longer = short.with_training(steps=7)
    fit(tmp_path, short, stop_after=3)
    _, observer = fit(tmp_path, longer, resume=True)

    weight = torch.nn.Parameter(torch.zeros(1))
    schedule = cosine_with_warmup(torch.optim.SGD([weight], lr=1.0), longer.training.warmup_steps, 7)
    factors = [schedule.lr_lambdas[0](step) for step in range(3, 7)]
    assert observer.rates == pytest.approx([factor * max(observer.rates) / factors[0] for factor in factors])
    assert [step for part, step in losses_of(tmp_path) if part == "train"] == list(range(1, 8))
    assert (
        "resuming after step 3, now with 7 steps instead of 3: from here on the learning rate follows the "
        "schedule of 7 steps, so that the model will differ somewhat" in capsys.readouterr().err
    )


def test_more_steps_during_the_warm_up_change_nothing(tmp_path, capsys):
    """The schedules of both numbers of steps agree until then, where as many steps warm up."""
    profile = SMOKE.with_training(steps=4, warmup=0.4)
    fit(tmp_path / "stopped", profile, stop_after=2)
    resumed, _ = fit(tmp_path / "stopped", profile.with_training(steps=6), resume=True)
    assert "as if it had been planned so" in capsys.readouterr().err

    expected, _ = fit(tmp_path / "at once", profile.with_training(steps=6))
    assert_equal_weights(resumed, expected)


def test_logs_of_steps_after_the_checkpoint_are_dropped(tmp_path):
    """The run may take other steps than those that were logged before it was killed."""
    profile = WITHOUT_DROPOUT.with_training(steps=6)
    fit(tmp_path, profile, stop_after=2)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        columns = next(csv.reader(file))
    stale = dict.fromkeys(columns, "") | {"step": "4", "train/loss": "99.0", "train/exact": "0.0"}
    with (tmp_path / "metrics.csv").open("a", newline="") as file:
        csv.DictWriter(file, columns).writerow(stale)

    fit(tmp_path, profile.with_training(steps=3), resume=True)
    assert [step for part, step in losses_of(tmp_path) if part == "train"] == [1, 2, 3]


@settings(max_examples=100)
@given(
    batch_size=st.integers(1, 4),
    first=st.integers(1, 40),
    more=st.integers(1, 40),
    share=st.floats(0, 1),
)
def test_longer_data_leaves_out_and_repeats_no_example(batch_size, first, more, share):
    """A run over `first` examples is stopped at any step, or finished, and then goes on to `first + more`."""

    def batches_of(end, cuts=()):
        return LengthBuckets(lambda number: number, lambda number: -number % 7, batch_size, 0, end, cuts)

    before = batches_of(first)
    step = math.floor(share * before.num_batches)
    consumed = before.consumed_examples(step)
    examples = [example for index in range(step) for example in before[index]]

    saved = Progress(consumed, first, (), before.num_batches, batch_size, 1, None)
    after = batches_of(first + more, _cuts(saved, first + more))
    assert after.batch_after(consumed) == step
    assert [after[index] for index in range(step)] == [before[index] for index in range(step)]

    examples += [example for index in range(step, after.num_batches) for example in after[index]]
    assert sorted(examples) == list(range(first + more))
    assert max(len(after[index]) for index in range(after.num_batches)) <= batch_size

    # A third stretch, after the second was finished.
    finished = Progress(first + more, first + more, _cuts(saved, first + more), 0, batch_size, 1, None)
    third = batches_of(100, _cuts(finished, 100))
    examples += [example for index in range(after.num_batches, third.num_batches) for example in third[index]]
    assert sorted(examples) == list(range(100))


def test_more_epochs_take_all_their_steps(tmp_path):
    """Six records in batches of four are two steps, and twelve are four, however they are counted."""

    def data(count):
        records = synthetic_data(SMOKE)
        return TrainingData(records.train, None, "some", num_records=count)

    profile = WITHOUT_DROPOUT.with_training(steps=2)
    fit(tmp_path, profile, data(6), stop_after=2)
    _, observer = fit(tmp_path, profile.with_training(steps=3), data(12), resume=True)
    assert len(observer.rates) == 2, "steps of four and of two examples"


# --- what cannot go on


@pytest.mark.parametrize(
    ("changes", "count", "message"),
    [
        ({"batch_size": 2}, 12, "has trained with 4 examples per step .*give --batch-size 4"),
        ({}, 5, "has consumed 8 examples and is to go on to 12, but is now to end after 5"),
    ],
)
def test_change_that_cannot_go_on_is_refused(tmp_path, changes, count, message):
    records = synthetic_data(SMOKE)
    profile = WITHOUT_DROPOUT.with_training(steps=3)
    fit(tmp_path, profile, TrainingData(records.train, None, "some", num_records=12), stop_after=2)

    with pytest.raises(ValueError, match=message):
        fewer = TrainingData(records.train, None, "some", num_records=count)
        fit(tmp_path, profile.with_training(**changes), fewer, resume=True)


def test_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    fit(tmp_path, WITHOUT_DROPOUT, stop_after=1)
    checkpoint = torch.load(tmp_path / "stopped.ckpt", weights_only=False)
    del checkpoint["progress"]
    torch.save(checkpoint, tmp_path / "stopped.ckpt")

    with pytest.raises(ValueError, match="saved by an earlier version of monkeylib"):
        fit(tmp_path, WITHOUT_DROPOUT, resume=True)
