"""Checkpoints of a run: what they hold, when they are saved, and which ones can be read."""

import dataclasses
import errno
import json
import math
import os
import pickle
import re
import signal
import subprocess
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.distributed import checkpoint as sharded
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata

from monkeylib import digests, inference, profiles
from monkeylib.data import synthetic
from monkeylib.profiles import build, trainable
from monkeylib.runs import RunFolder
from monkeylib.training import checkpointing, curves, finetune, strategies
from monkeylib.training.checkpointing import DurableCheckpointIO
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.signals import StopOnSignal
from monkeylib.training.synthetic_records import synthetic_data
from tests.support.training_modules import build_module, read_column

SMOKE = profiles.load_profile("smoke")
LORA_COMPONENTS = {
    "vision": {"train": "lora"},
    "resampler": {"train": "full"},
    "language_model": {"train": "lora"},
}


# --- trained weights


@pytest.fixture()
def profile_with_base(tmp_path):
    """Return the smoke profile on a base model, with LoRA in the language model."""
    torch.manual_seed(3)
    processor = build.build_processor(SMOKE)
    build.build_model(SMOKE, processor).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")

    profile = SMOKE.model_copy(update={"base_checkpoint": str(tmp_path / "base")})
    return profile.with_training(components=LORA_COMPONENTS, language_model_rank=2, lr=0.05, steps=3)


def compute_logits(folder):
    monkey = inference.load_model(folder)
    sample = synthetic.make_sample(0, "val", SMOKE.image_size)
    with torch.no_grad():
        return monkey.model(**monkey.prepare([sample.image], ["what?"])).logits


def test_trained_weights_alone_load_onto_their_base(profile_with_base, tmp_path):
    complete = finetune.run(profile_with_base, tmp_path / "complete")
    trained = finetune.run(profile_with_base.with_training(keep="trained"), tmp_path / "trained")

    assert not (trained / "model.safetensors").exists()
    weights = load_file(trained / "trained.safetensors")
    assert {name.split(".")[0] for name in weights} == {"vision", "resampler", "language_model"}
    assert all(".lora_" in name for name in weights if name.startswith("language_model"))

    # The complete checkpoint has the language model's LoRA merged, the other one has it apart.
    logits = compute_logits(complete)
    assert torch.allclose(compute_logits(trained), logits, atol=1e-4)
    assert not torch.allclose(logits, compute_logits(tmp_path / "base"), atol=1e-2)


def test_trained_weights_of_another_profile_raise(profile_with_base, tmp_path):
    folder = finetune.run(profile_with_base.with_training(keep="trained"), tmp_path / "trained")
    profile = json.loads((folder / "profile.json").read_text())
    profile["training"]["language_model_rank"] = 3
    profile["training"]["components"]["resampler"]["train"] = "frozen"
    (folder / "profile.json").write_text(json.dumps(profile))

    with pytest.raises(ValueError, match="hold resampler.kv_proj.weight .*, which profile.json"):
        inference.load_model(folder)


# --- checkpoints of a run


def note_saved_steps(monkeypatch):
    """Return a list to which the step of each checkpoint is added when it is written."""
    steps = []
    save = DurableCheckpointIO.save_checkpoint

    def save_and_note(io, checkpoint, path, storage_options=None):
        steps.append(checkpoint["global_step"])
        save(io, checkpoint, path, storage_options)

    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", save_and_note)
    return steps


def test_checkpoints_are_removed_only_after_all_processes_have_read_the_best(tmp_path, monkeypatch):
    counts_at_barriers = []
    save_model = finetune._save_model

    def save_and_forget_earlier_barriers(*args):
        counts_at_barriers.clear()
        save_model(*args)

    def count_checkpoints(*_):
        counts_at_barriers.append(len(checkpointing.list_checkpoints(tmp_path)))

    monkeypatch.setattr(SingleDeviceStrategy, "barrier", count_checkpoints)
    monkeypatch.setattr(finetune, "_save_model", save_and_forget_earlier_barriers)
    # The losses fall, so that the last step is the best one too.
    finetune.run(SMOKE.with_training(steps=2, select="best"), tmp_path)
    assert counts_at_barriers == [2, 1]


def test_run_without_validation_saves_as_often(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "_save_model", lambda *_: None)
    run = tmp_path / "run"
    steps = note_saved_steps(monkeypatch)
    profile = SMOKE.with_training(steps=3)
    finetune.run(profile, run, data=dataclasses.replace(synthetic_data(profile), validation=None))

    assert steps == [1, 2, 3]
    assert torch.load(checkpointing.checkpoint_path(run, 3))["global_step"] == 3
    assert not (run / "answers.jsonl").exists()
    assert checkpointing.find_best_checkpoint(run) is None


def test_checkpoint_holds_only_what_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "_save_model", lambda *_: None)
    finetune.run(SMOKE.with_training(steps=2), tmp_path / "run")
    state = torch.load(checkpointing.checkpoint_path(tmp_path / "run", 2))["state_dict"]

    module = build_module(SMOKE)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert state.keys() & {name for name, _ in module.named_parameters()} == trained
    module.load_state_dict(state)

    with pytest.raises(RuntimeError, match="it lacks .*resampler.query"):
        module.load_state_dict({name: value for name, value in state.items() if not name.endswith("query")})
    with pytest.raises(RuntimeError, match="has .*'model.other'.* too many"):
        module.load_state_dict(state | {"model.other": torch.zeros(1)})


def test_best_weights_have_the_lowest_validation_loss(tmp_path, monkeypatch):
    """At a rate that makes training worse and worse, the best validation is not the last."""
    loaded_states = []
    load_state_dict = MonkeyTraining.load_state_dict

    def load_and_note(module, state, *args, **options):
        loaded_states.append(state)
        return load_state_dict(module, state, *args, **options)

    monkeypatch.setattr(MonkeyTraining, "load_state_dict", load_and_note)
    profile = SMOKE.with_training(steps=6, lr=0.3, warmup=0.83, select="best")
    weights = load_file(finetune.run(profile, tmp_path / "run") / "model.safetensors")

    losses = read_column(tmp_path / "run", "val/loss")
    assert losses.index(min(losses)) < len(losses) - 1, losses
    (best_state,) = loaded_states
    assert torch.equal(best_state["model.resampler.query"], weights["resampler.query"])


def test_best_weights_that_cannot_be_read_give_way_to_the_last_ones(tmp_path, monkeypatch, capsys):
    save_model = finetune._save_model

    def break_best_and_save(trainer, trainee, module, run_folder):
        best = checkpointing.find_best_checkpoint(run_folder.path)
        os.truncate(best, best.stat().st_size // 2)
        save_model(trainer, trainee, module, run_folder)

    monkeypatch.setattr(finetune, "_save_model", break_best_and_save)
    profile = SMOKE.with_training(steps=6, lr=0.3, warmup=0.83, select="best")
    model = finetune.run(profile, tmp_path)

    sentence = (
        r"lowest validation loss, \S+, cannot be used, since it is cut off .* last step is saved instead"
    )
    assert re.search(sentence, capsys.readouterr().err)
    (last,) = checkpointing.list_checkpoints(tmp_path)
    assert last.name == "step-000006.ckpt"
    saved = load_file(model / "model.safetensors")["resampler.query"]
    assert torch.equal(torch.load(last)["state_dict"]["model.resampler.query"], saved)


def test_files_of_weights_and_biases_belong_to_the_run(tmp_path):
    with RunFolder.open(tmp_path, "training", {}) as run_folder:
        finetune._start(run_folder, SMOKE, None, wandb=True)
        for start in ("offline-run-20260101_120000-abc", "run-2"):
            for name in ("run-abc.wandb", "files/config.yaml", "logs/debug-internal.log"):
                (tmp_path / "wandb" / start / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "wandb" / start / name).write_text("curves")
        (tmp_path / "wandb" / "run-2" / "files" / "notes.txt").write_text("mine")
        (tmp_path / "wandb" / "latest-run").symlink_to(tmp_path / "wandb" / "run-2")
        (tmp_path / "wandb" / "notes.txt").write_text("mine")

    with RunFolder.open(tmp_path, "training", {}, fresh=True) as run_folder:
        run_folder.start()
        files = [path for path in (tmp_path / "wandb").rglob("*") if not path.is_dir()]
        assert sorted(file.relative_to(tmp_path / "wandb").as_posix() for file in files) == [
            "notes.txt",
            "run-2/files/notes.txt",
        ]


def test_checkpoint_missing_after_saving_stops_the_run(tmp_path, monkeypatch):
    """Lightning hides some failures to write."""
    monkeypatch.setattr("lightning.Trainer.save_checkpoint", lambda *_, **__: None)
    with pytest.raises(OSError, match=r"step-000001\.ckpt could not be written \(it is not there\)"):
        finetune.run(SMOKE, tmp_path / "run")


# --- the trainer


def test_trainer_follows_the_profile(tmp_path):
    profile = SMOKE.with_training(gradient_clip=0.7, precision="bf16-mixed", batch_size=8, micro_batch_size=2)
    run = RunFolder.follow(tmp_path, "training")
    trainer = finetune._trainer(profile, run, True, finetune.Devices(), StopOnSignal())
    assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches) == (0.7, 4)
    assert (trainer.precision, trainer.max_steps) == ("bf16-mixed", profile.training.steps)


def test_optimizer_follows_the_profile():
    module = build_module(SMOKE.with_training(weight_decay=0.1))
    optimizer = module.configure_optimizers()["optimizer"]
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}

    paper = profiles.load_profile("paper-896").training
    assert (paper.betas, paper.weight_decay) == ((0.9, 0.95), 0.1)


@pytest.mark.parametrize("key", [None, "secret"])
def test_weights_and_biases_stay_offline_without_a_key(tmp_path, monkeypatch, key):
    calls = []
    monkeypatch.setattr(finetune, "WandbLogger", lambda *args, **options: calls.append((args, options)))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)

    assert len(finetune._loggers(tmp_path / "run", True)) == 3
    assert calls == [(("run", tmp_path / "run"), {"offline": key is None, "project": "monkeylib"})]


def test_bf16_training_stays_close_to_float32(tmp_path):
    weights, losses = {}, {}
    for precision in ("32-true", "bf16-mixed", "bf16-true"):
        folder = finetune.run(SMOKE.with_training(precision=precision), tmp_path / precision)
        weights[precision] = load_file(folder / "model.safetensors")
        losses[precision] = read_column(folder.parent, "train/loss")

    assert {weight.dtype for weight in weights["bf16-mixed"].values()} == {torch.float32}
    assert {weight.dtype for weight in weights["bf16-true"].values()} == {torch.bfloat16}
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.02)
    assert losses["bf16-mixed"] != losses["32-true"]
    assert losses["bf16-true"] == pytest.approx(losses["32-true"], rel=0.05)


# --- files that are whole, and files that are not


def write_run(run, steps, best=None):
    """Write small checkpoints as a run does, and return their paths."""
    io = DurableCheckpointIO()
    content = {"loops": {}, "callbacks": {}, "profile": "{}", "state_dict": {"weight": torch.rand(3, 50)}}
    paths = [checkpointing.checkpoint_path(run, step) for step in steps]
    for step, path in zip(steps, paths, strict=True):
        io.save_checkpoint(content | {"global_step": step}, path)

    if best is not None:
        (run / "checkpoints" / "best.json").write_text(json.dumps({"step": best}))
    return paths


def cut(data):
    return data[: len(data) // 2]


def flip_a_bit(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


DAMAGES = {
    "cut off": cut,
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "garbage": lambda data: b"what is this?" * 99,
    "bit flip": flip_a_bit,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_broken_last_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage):
    before, last = write_run(tmp_path, [5, 10])
    last.write_bytes(damage(last.read_bytes()))

    with pytest.warns(
        UserWarning, match=r"step-000010\.ckpt cannot be used, since .*step-000005.ckpt is used instead"
    ):
        assert checkpointing.find_last_checkpoint(tmp_path) == before


def test_run_without_a_readable_checkpoint_raises_and_removes_nothing(tmp_path):
    paths = write_run(tmp_path, [5, 10])
    for path in paths:
        path.write_bytes(b"")

    with pytest.raises(
        ValueError, match=r"step-000010\.ckpt cannot .*it is empty; .*step-000005\.ckpt cannot"
    ):
        checkpointing.find_last_checkpoint(tmp_path)
    assert [path.exists() for path in paths] == [True, True]


def test_file_that_another_program_saved_is_no_checkpoint(tmp_path):
    (path,) = write_run(tmp_path, [1])
    torch.save({"weight": torch.zeros(2)}, path)
    assert checkpointing.find_damage(path) == "it is not of a training run"


def test_checkpoint_that_would_run_code_is_not_read(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path.joinpath("harm").touch, ())

    (path,) = write_run(tmp_path, [1])
    torch.save(torch.load(path) | {"harm": Harmful()}, path)
    assert checkpointing.find_damage(path) == "it is cut off or no checkpoint"
    assert not (tmp_path / "harm").exists()


def test_checkpoint_that_the_disk_does_not_give_is_not_damaged(tmp_path, monkeypatch):
    """Or the run would fall back to an earlier one, and later remove it."""
    (file,) = write_run(tmp_path, [1])

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(zipfile.ZipFile, "testzip", fail)
    with pytest.raises(OSError, match=r"step-000001\.ckpt cannot be read \(Input/output error\), though"):
        checkpointing.find_last_checkpoint(tmp_path)
    assert file.exists()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MemoryError(), MemoryError),
        (RuntimeError("unable to mmap 9 bytes from file <a>: Cannot allocate memory (12)"), RuntimeError),
        (RuntimeError("unable to mmap 9 bytes from file <a>: No such device (19)"), OSError),
    ],
)
def test_checkpoint_that_cannot_be_mapped_is_not_damaged(tmp_path, monkeypatch, error, raised):
    (file,) = write_run(tmp_path, [1])

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(raised):
        checkpointing.find_damage(file)


def test_checkpoint_with_impossible_positions_is_damaged(tmp_path, monkeypatch):
    (file,) = write_run(tmp_path, [1])

    def seek_before_the_beginning(archive):
        archive.fp.seek(-5)

    monkeypatch.setattr(zipfile.ZipFile, "testzip", seek_before_the_beginning)
    assert checkpointing.find_damage(file) == "it is cut off or no checkpoint"


def test_run_without_checkpoints_has_none(tmp_path):
    assert checkpointing.find_last_checkpoint(tmp_path) is None
    assert checkpointing.find_best_checkpoint(tmp_path) is None


def test_steps_are_ordered_by_their_number(tmp_path):
    paths = write_run(tmp_path, [999_999, 1_000_000])
    assert checkpointing.list_checkpoints(tmp_path) == paths


def test_run_goes_on_from_the_checkpoint_before_a_broken_one(tmp_path, monkeypatch):
    """The run ends as an uninterrupted one, and the broken file is gone."""
    profile = SMOKE.with_training(steps=4)
    reference = load_file(finetune.run(profile, tmp_path / "reference") / "model.safetensors")

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(finetune, "_save_model", lambda *_: None)
        finetune.run(profile, run)
    last = checkpointing.checkpoint_path(run, 4)
    last.write_bytes(cut(last.read_bytes()))

    with pytest.warns(UserWarning, match=r"step-000004\.ckpt cannot be used"):
        weights = load_file(finetune.run(profile, run) / "model.safetensors")
    assert all(torch.equal(weights[name], weight) for name, weight in reference.items())
    assert checkpointing.find_damage(last) is None


@pytest.fixture()
def run_folder(tmp_path):
    """Return the folder of a training run that has been started."""
    with RunFolder.open(tmp_path, "training", {}) as run:
        run.start()
        yield run


def write_owned(run, step):
    """Write a small checkpoint that belongs to the run."""
    run.own_all(checkpointing.file_names(step))
    return write_run(run.path, [step])[0]


def test_broken_checkpoint_stays_until_the_run_has_passed_its_step(run_folder):
    """Its content may still be recovered, and it is not among the last ones that are kept."""
    for step in (4, 5, 7):
        write_owned(run_folder, step)
    callback = checkpointing.SaveCheckpoints(run_folder, every_steps=1)
    callback.on_train_start(SimpleNamespace(global_step=5), None)

    kept = []
    for step in (6, 8):
        write_owned(run_folder, step)
        callback._remove_old(step)
        kept.append([path.name for path in checkpointing.list_checkpoints(run_folder.path)])
    assert kept == [
        ["step-000005.ckpt", "step-000006.ckpt", "step-000007.ckpt"],
        ["step-000006.ckpt", "step-000008.ckpt"],
    ]


def test_only_checkpoints_of_the_run_are_removed(run_folder, tmp_path_factory):
    """Whatever a user has put beside them."""
    folder = run_folder.path / "checkpoints"
    write_owned(run_folder, 3)
    write_run(run_folder.path, [2])
    mine = [folder / "step-000001-good.ckpt", folder / ".step-000001", folder / "step-000001-old.ckpt" / "a"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")

    # What a user has moved elsewhere.
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "meta.pt").write_text("1")
    run_folder.own_all(checkpointing.file_names(1))
    (folder / "step-000001.ckpt").symlink_to(elsewhere)

    # Sharded ones of a killed process.
    run_folder.own_all(checkpointing.file_names(4, sharded=True))
    leftovers = [folder / ".step-000004.ckpt.partial", folder / ".step-000004.ckpt.previous"]
    for path in leftovers:
        path.mkdir()

    checkpointing.remove_checkpoints(run_folder, keep=[])
    left = [folder / "step-000002.ckpt", *mine]
    assert all(path.exists() for path in left)
    assert {path for path in folder.rglob("*") if path.is_file()} == set(left)
    assert (elsewhere / "meta.pt").exists()
    assert run_folder.manifest.files == []


def test_fresh_run_leaves_checkpoints_of_a_user(tmp_path):
    profile = SMOKE.with_training(steps=1)
    finetune.run(profile, tmp_path)
    copy = tmp_path / "checkpoints" / "step-000001-good.ckpt"
    copy.write_text("mine")
    folder = tmp_path / "checkpoints" / "step-000001-old.ckpt"
    folder.mkdir()
    (folder / "notes").write_text("mine")

    finetune.run(profile, tmp_path, fresh=True)
    assert copy.read_text() == (folder / "notes").read_text() == "mine"


def test_checkpoint_of_a_user_is_not_overwritten(tmp_path, monkeypatch):
    path = checkpointing.checkpoint_path(tmp_path, 2)
    save = DurableCheckpointIO.save_checkpoint

    def save_and_put_another(*args, **options):
        save(*args, **options)
        path.write_text("mine")

    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", save_and_put_another)
    with pytest.raises(
        OSError, match=r"step-000002\.ckpt could not be written \(.* was not written by the run"
    ):
        finetune.run(SMOKE.with_training(steps=2), tmp_path)
    assert path.read_text() == "mine"


# --- which checkpoints are kept, and when they are saved


def test_last_two_and_the_best_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "_save_model", lambda *_: None)
    losses = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])

    on_validation_end = checkpointing.SaveCheckpoints.on_validation_end

    class WithLoss:
        """A trainer that has another validation loss."""

        def __init__(self, trainer):
            self.trainer, self.callback_metrics = trainer, {"val/loss": next(losses)}

        def __getattr__(self, name):
            return getattr(self.trainer, name)

    monkeypatch.setattr(
        checkpointing.SaveCheckpoints,
        "on_validation_end",
        lambda callback, trainer, module: on_validation_end(callback, WithLoss(trainer), module),
    )
    finetune.run(SMOKE.with_training(steps=6), tmp_path)

    steps = [2, 5, 6]
    assert checkpointing.list_checkpoints(tmp_path) == [
        checkpointing.checkpoint_path(tmp_path, step) for step in steps
    ]
    assert checkpointing.find_best_checkpoint(tmp_path) == checkpointing.checkpoint_path(tmp_path, 2)


def test_best_checkpoint_that_is_gone_is_chosen_anew(tmp_path):
    callback = checkpointing.SaveCheckpoints(RunFolder.follow(tmp_path, "training"), every_steps=1)
    callback.load_state_dict({"best": 0.5, "best_step": 3})
    assert callback.state_dict() == {"best": math.inf, "best_step": None}

    write_run(tmp_path, [3])
    callback.load_state_dict({"best": 0.5, "best_step": 3})
    assert callback.state_dict() == {"best": 0.5, "best_step": 3}


def test_saving_follows_the_profile_and_changes_nothing_else(tmp_path, monkeypatch):
    """Neither weights nor losses nor how often is validated."""
    steps = note_saved_steps(monkeypatch)
    profile = SMOKE.with_training(steps=6)
    reference = finetune.run(profile, tmp_path / "reference")
    assert steps == [1, 2, 3, 4, 5, 6]

    steps.clear()
    often = finetune.run(profile.with_training(save_every_steps=5), tmp_path / "often")
    assert {1, 5, 6} <= set(steps)

    assert curves.read_curves(often.parent / "metrics.csv") == curves.read_curves(
        reference.parent / "metrics.csv"
    )
    weights, expected = (load_file(folder / "model.safetensors") for folder in (often, reference))
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


def test_minutes_save_between_the_steps(tmp_path, monkeypatch):
    """A step takes a minute on this clock."""
    steps = note_saved_steps(monkeypatch)
    clock = SimpleNamespace(minutes=0)
    training_step = MonkeyTraining.training_step

    def slow_training_step(module, *args):
        clock.minutes += 1
        return training_step(module, *args)

    monkeypatch.setattr(MonkeyTraining, "training_step", slow_training_step)
    # This module's alone: processes that wait for each other on a clock that stands still wait forever.
    monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=lambda: 60.0 * clock.minutes))
    profile = SMOKE.with_training(steps=6, save_every_steps=100, save_every_minutes=2)
    finetune.run(profile, tmp_path, data=dataclasses.replace(synthetic_data(profile), validation=None))
    assert steps == [1, 3, 5, 6]


@pytest.mark.parametrize(("is_first", "others_are_late"), [(True, False), (False, True)])
def test_the_clock_of_the_first_process_decides(tmp_path, is_first, others_are_late):
    """All processes have to save at the same step."""
    asked = []

    def reduce(is_late, all):
        asked.append(is_late)
        return is_late or others_are_late

    trainer = SimpleNamespace(
        global_step=3,
        max_steps=9,
        is_global_zero=is_first,
        strategy=SimpleNamespace(reduce_boolean_decision=reduce),
    )
    run = RunFolder.follow(tmp_path, "training")
    callback = checkpointing.SaveCheckpoints(run, every_steps=100, every_minutes=1)
    callback.saved_at -= 61
    assert callback._is_due(trainer)
    assert asked == [is_first]


# --- disks that are full or read-only, kills


def fail_to_write(monkeypatch, after, error):
    """Let the disk take so many bytes, and then raise an error, or kill the process where there is none."""
    save = torch.save

    class Disk:
        def __init__(self, file):
            self.file, self.left = file, after

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                # As many of these bytes as there is room for.
                self.file.write(data[: self.left])
                self.file.flush()
                if error is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise error
            return self.file.write(data)

        def flush(self):
            self.file.flush()

    monkeypatch.setattr(torch, "save", lambda content, file: save(content, Disk(file)))


@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.6, 0.99])
def test_full_disk_leaves_the_previous_checkpoint_alone(tmp_path, monkeypatch, share):
    (path,) = write_run(tmp_path, [1])
    content = path.read_bytes()

    fail_to_write(monkeypatch, int(share * len(content)), OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left on device"):
        write_run(tmp_path, [1])
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "sentence", ["CUDA error: device-side assert triggered", "DefaultCPUAllocator: can't allocate memory"]
)
def test_failing_device_is_not_taken_for_a_full_disk(tmp_path, monkeypatch, sentence):
    def fail(*_):
        raise RuntimeError(sentence)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match=sentence):
        write_run(tmp_path, [1])


def test_full_disk_ends_the_run_in_one_sentence(tmp_path, monkeypatch):
    save = DurableCheckpointIO.save_checkpoint

    def fill_the_disk(io, checkpoint, path, storage_options=None):
        if checkpoint["global_step"] == 2:
            fail_to_write(monkeypatch, 3000, OSError(errno.ENOSPC, "No space left on device"))
        save(io, checkpoint, path, storage_options)

    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", fill_the_disk)
    sentence = r"step-000002\.ckpt could not be written \(No space left on device\).*goes on from step-000001"
    with pytest.raises(OSError, match=sentence):
        finetune.run(SMOKE.with_training(steps=4), tmp_path)

    monkeypatch.undo()
    finetune.run(SMOKE.with_training(steps=4), tmp_path)
    assert (tmp_path / "model").is_dir()


def test_kill_at_any_byte_leaves_the_checkpoint_before(run_folder):
    """A forked process ends itself after so many bytes."""
    tmp_path = run_folder.path
    first = write_owned(run_folder, 1)
    run_folder.own_all(checkpointing.file_names(2))
    size = first.stat().st_size

    for allowed in np.random.default_rng(7).integers(0, size - 1, 40):
        child = os.fork()
        if child == 0:
            with pytest.MonkeyPatch.context() as patched:
                fail_to_write(patched, int(allowed), None)
                write_run(tmp_path, [2])
            os._exit(0)

        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert checkpointing.find_last_checkpoint(tmp_path) == first

    # The next run removes what is left over.
    assert len(list(first.parent.iterdir())) == 41
    run_folder.close()
    with RunFolder.open(tmp_path, "training", {}) as run:
        run.start()
    assert list(first.parent.iterdir()) == [first]


@pytest.fixture()
def small_disk(tmp_path):
    """Return a folder on another file system than that of temporary files, with room for one checkpoint."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems can't be mounted here")

    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def remount(disk, options):
    subprocess.run(["mount", "-o", f"remount,{options}", "tmpfs", disk], check=True)


def test_run_on_a_full_disk_goes_on_when_there_is_room(small_disk, tmp_path):
    """The disk is another file system than that of the temporary files."""
    profile = SMOKE.with_training(steps=6)
    expected = load_file(finetune.run(profile, tmp_path / "reference") / "model.safetensors")

    with pytest.raises(OSError, match=r"could not be written \(No space left on device\)"):
        finetune.run(profile, small_disk / "run")
    assert checkpointing.find_last_checkpoint(small_disk / "run"), "the first checkpoint is whole"

    remount(small_disk, "size=20m")
    weights = load_file(finetune.run(profile, small_disk / "run") / "model.safetensors")
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


def test_model_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    """The library that writes weights has an error of its own."""

    def fail(*_):
        raise SafetensorError("I/O error: No space left on device")

    profile = SMOKE.with_training(steps=1)
    with monkeypatch.context() as patched, pytest.raises(OSError, match=r"model could not .*No space left"):
        patched.setattr(trainable, "save_trained", fail)
        finetune.run(profile, tmp_path / "run")

    assert finetune.run(profile, tmp_path / "run").is_dir()


def test_run_on_a_read_only_disk_is_said(small_disk):
    write_run(small_disk, [1])
    remount(small_disk, "ro")
    with pytest.raises(OSError, match="Read-only file system"):
        write_run(small_disk, [2])
    assert [path.name for path in checkpointing.list_checkpoints(small_disk)] == ["step-000001.ckpt"]


# --- sharded checkpoints


class SingleProcessStrategy(strategies.ShardedStrategy):
    """Sharding of one process, without a process group."""

    is_global_zero, global_rank = True, 0

    def __init__(self):
        pass

    def broadcast(self, value):
        return value


@pytest.fixture()
def write_shards(monkeypatch):
    """Let sharded checkpoints consist of three files, one of which holds the content; return a strategy."""

    def write(self, content, folder, _=None):
        for name in ("__0_0.distcp", "meta.pt"):
            (folder / name).write_text(content)
        (folder / ".metadata").write_bytes(pickle.dumps(Metadata({})))

    monkeypatch.setattr(strategies.ModelParallelStrategy, "save_checkpoint", write)
    return SingleProcessStrategy()


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("__0_0.distcp", cut, "its file __0_0.distcp is broken"),
        ("meta.pt", None, "its file meta.pt is missing"),
        ("digests.json", cut, "its digests.json is broken"),
        ("digests.json", None, "it has no digests.json"),
    ],
)
def test_broken_sharded_checkpoint_is_named(write_shards, tmp_path, name, damage, complaint):
    before, last = (checkpointing.checkpoint_path(tmp_path, step) for step in (1, 2))
    for path in (before, last):
        write_shards.save_checkpoint("some content", path)
    assert checkpointing.find_damage(last) is None

    file = last / name
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))

    with pytest.warns(UserWarning, match=f"step-000002.ckpt cannot be used, since {complaint}"):
        assert checkpointing.find_last_checkpoint(tmp_path) == before


def test_sharded_checkpoint_survives_a_kill_while_the_next_one_is_saved(write_shards, tmp_path, monkeypatch):
    first, second = (checkpointing.checkpoint_path(tmp_path, step) for step in (1, 2))
    write_shards.save_checkpoint("first", first)

    for allowed_changes in range(3):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            stop_after(patched, allowed_changes)
            # The step is saved twice, before and after its validation.
            write_shards.save_checkpoint("second", second)
            write_shards.save_checkpoint("second again", second)
        assert checkpointing.find_last_checkpoint(tmp_path) in (first, second)

    write_shards.save_checkpoint("second", second)
    assert (second / "meta.pt").read_text() == "second"
    with RunFolder.open(tmp_path / "run", "training", {}) as run:
        run.start()
        for step in (1, 2):
            run.own_all(checkpointing.file_names(step, sharded=True))
        (tmp_path / "checkpoints").rename(run.path / "checkpoints")
        checkpointing.remove_checkpoints(run, keep=[checkpointing.checkpoint_path(run.path, 2)])
        assert [path.name for path in (run.path / "checkpoints").iterdir()] == [second.name]


def test_sharded_checkpoint_that_would_run_code_is_not_read(write_shards, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path.joinpath("harm").touch, ())

    path = checkpointing.checkpoint_path(tmp_path, 1)
    write_shards.save_checkpoint("content", path)
    (path / ".metadata").write_bytes(pickle.dumps(Harmful()))
    digests_of_files = json.loads((path / "digests.json").read_text())
    digests_of_files[".metadata"] = digests.file_digest(path / ".metadata")
    (path / "digests.json").write_text(json.dumps(digests_of_files))

    assert checkpointing.find_damage(path) == "its file .metadata is not one of PyTorch's"
    assert not (tmp_path / "harm").exists()


def test_sharded_checkpoint_of_pytorch_is_whole(tmp_path, monkeypatch):
    """With the tensors, numbers and dtypes that weights and optimisers have."""

    def write(self, content, folder, _=None):
        sharded.save(content, checkpoint_id=folder, no_dist=True)
        torch.save({}, folder / "meta.pt")

    monkeypatch.setattr(strategies.ModelParallelStrategy, "save_checkpoint", write)
    path = checkpointing.checkpoint_path(tmp_path, 1)
    tensors = {str(dtype): torch.zeros(2, 3, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    content = {
        "state_dict": tensors,
        "optimizer_0": {"state": {"step": torch.tensor(1.0)}, "lr": [0.1, None]},
    }
    SingleProcessStrategy().save_checkpoint(content, path)
    assert checkpointing.find_damage(path) is None


def stop_after(monkeypatch, allowed_changes):
    """Interrupt the process when it moves a file or folder after so many allowed moves."""
    replace, moves = os.replace, iter(range(9))

    def move(*args):
        if next(moves) == allowed_changes:
            raise KeyboardInterrupt
        replace(*args)

    monkeypatch.setattr(os, "replace", move)


def test_process_that_cannot_write_its_shard_fails_all(write_shards, tmp_path, monkeypatch):
    """PyTorch's own error is no OSError, not even an Exception."""
    path = checkpointing.checkpoint_path(tmp_path, 1)

    def fail(*_):
        error = OSError(errno.ENOSPC, "No space left on device")
        raise CheckpointException("save failed", {1: (error, None)})

    monkeypatch.setattr(strategies.ModelParallelStrategy, "save_checkpoint", fail)
    with pytest.raises(OSError, match="No space left on device"):
        write_shards.save_checkpoint("content", path)
    assert checkpointing.list_checkpoints(tmp_path) == []


@pytest.mark.parametrize("strategy", [strategies.ReplicatedStrategy, strategies.ShardedStrategy])
def test_process_fails_with_another_one(monkeypatch, strategy):
    """Or it would wait for it at the next barrier."""
    monkeypatch.setattr(strategies, "gather_objects", lambda problem: [None, "Read-only file system"])
    with pytest.raises(OSError, match="Read-only file system"), strategy.fails_together(None):
        pass
