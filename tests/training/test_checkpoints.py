"""What a run writes: checkpoints of what was trained, logs, sample answers."""

import csv
import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from safetensors.torch import load_file

from monkeylib import inference, profiles
from monkeylib.data import synthetic
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.profiles import build, trainable
from monkeylib.training import finetune, strategies
from monkeylib.training.batches import synthetic_data
from monkeylib.training.callbacks import SampleAnswers
from monkeylib.training.checkpointing import SaveCheckpoints
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.signals import StopOnSignal

SMOKE = profiles.load_profile("smoke")
LORA_COMPONENTS = {
    "vision": {"train": "lora"},
    "resampler": {"train": "full"},
    "language_model": {"train": "lora"},
}


def build_module(profile):
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)
    return MonkeyTraining(model, processor, profile, synthetic_data(profile))


def read_column(run, name):
    """Return the numbers in a column of a run's log."""
    with open(run / "metrics.csv") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


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

    with pytest.raises(ValueError, match="does not hold what its profile trains, for example resampler"):
        inference.load_model(folder)


# --- checkpoints of a run


def test_best_checkpoint_is_removed_only_after_all_processes_have_read_it(tmp_path, monkeypatch):
    best = tmp_path / "best.ckpt"
    exists_at_barriers = []
    save_model = finetune._save_model

    def save_and_forget_earlier_barriers(*args):
        exists_at_barriers.clear()
        save_model(*args)

    monkeypatch.setattr(SingleDeviceStrategy, "barrier", lambda *_: exists_at_barriers.append(best.exists()))
    monkeypatch.setattr(finetune, "_save_model", save_and_forget_earlier_barriers)
    finetune.run(SMOKE.with_training(steps=2, select="best"), tmp_path)
    assert exists_at_barriers == [True, False]


def test_run_without_validation_saves_as_often(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "_save_model", lambda *_: None)
    run = tmp_path / "run"
    saved_steps = []
    save = SaveCheckpoints._save

    def save_and_note(callback, trainer, path):
        saved_steps.append(trainer.global_step)
        save(callback, trainer, path)

    monkeypatch.setattr(SaveCheckpoints, "_save", save_and_note)
    profile = SMOKE.with_training(steps=3)
    finetune.run(profile, run, data=dataclasses.replace(synthetic_data(profile), validation=None))

    assert saved_steps == [1, 2, 3]
    assert torch.load(run / "last.ckpt", weights_only=False)["global_step"] == 3
    assert not (run / "answers.jsonl").exists()
    assert not (run / "best.ckpt").exists()


def test_checkpoint_holds_only_what_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "_save_model", lambda *_: None)
    finetune.run(SMOKE.with_training(steps=2), tmp_path / "run")
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=False)["state_dict"]

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
    profile = SMOKE.with_training(steps=6, lr=0.3, warmup=5, select="best")
    weights = load_file(finetune.run(profile, tmp_path / "run") / "model.safetensors")

    losses = read_column(tmp_path / "run", "val/loss")
    assert losses.index(min(losses)) < len(losses) - 1, losses
    (best_state,) = loaded_states
    assert torch.equal(best_state["model.resampler.query"], weights["resampler.query"])


def test_checkpoint_missing_after_saving_stops_the_run(tmp_path, monkeypatch):
    """Lightning hides some failures to write."""
    monkeypatch.setattr("lightning.Trainer.save_checkpoint", lambda *_, **__: None)
    with pytest.raises(OSError, match=r"(last|best)\.ckpt could not be written: check the disk"):
        finetune.run(SMOKE, tmp_path / "run")


# --- logs and sample answers


@pytest.mark.parametrize(("strategy", "is_synced"), [("fsdp", True), ("ddp", False)])
def test_sharded_processes_generate_answers_of_one_length(tmp_path, monkeypatch, strategy, is_synced):
    """Processes whose answers differ in length would wait for each other forever."""
    synced = []
    generate = MonkeyForConditionalGeneration.generate

    def generate_and_note(model, synced_gpus=None, **options):
        synced.append(synced_gpus)
        return generate(model, **options)

    monkeypatch.setattr(MonkeyForConditionalGeneration, "generate", generate_and_note)
    trainer = SimpleNamespace(global_step=1, is_global_zero=True)
    callback = SampleAnswers(tmp_path / "answers.jsonl", max_new_tokens=2)
    callback.on_validation_epoch_end(trainer, build_module(SMOKE.with_training(strategy=strategy)))

    assert synced == [is_synced] * 4
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 4


def test_run_logs_rates_throughput_memory_and_answers(tmp_path):
    run = tmp_path / "run"
    finetune.run(SMOKE.with_training(lora_lr=0.01), run)

    columns = ["lr-AdamW/vision", "lr-AdamW/other", "lr-AdamW/other without decay"]
    columns += ["speed/images_per_second", "speed/tokens_per_second", "memory/peak_gib"]
    for column in columns:
        values = read_column(run, column)
        assert values, column
        assert min(values) > 0, column
    assert list((run / "tensorboard").glob("events*"))

    answers = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    assert {row["step"] for row in answers} == {1, 2, 3, 4}
    assert len(answers) == 16
    assert set(answers[0]) == {"step", "id", "prompt", "answer", "prediction"}


def test_trainer_follows_the_profile(tmp_path):
    profile = SMOKE.with_training(gradient_clip=0.7, precision="bf16-mixed", batch_size=8, micro_batch_size=2)
    trainer = finetune._trainer(profile, tmp_path, True, finetune.Devices(), StopOnSignal())
    assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches) == (0.7, 4)
    assert (trainer.precision, trainer.max_steps) == ("bf16-mixed", profile.training.steps)


def test_progress_bar_shows_the_time_left(tmp_path):
    trainer = finetune._trainer(SMOKE, tmp_path, True, finetune.Devices(), StopOnSignal())
    bar = trainer.progress_bar_callback.init_train_tqdm()
    assert "{remaining}" in bar.bar_format
    bar.close()
    assert (
        finetune._trainer(SMOKE, tmp_path, False, finetune.Devices(), StopOnSignal()).progress_bar_callback
        is None
    )


def test_optimizer_follows_the_profile():
    module = build_module(SMOKE.with_training(weight_decay=0.1))
    optimizer = module.configure_optimizers()["optimizer"]
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}

    paper = profiles.load_profile("paper-896").training
    assert (paper.betas, paper.weight_decay) == ((0.9, 0.95), 0.1)


@pytest.mark.parametrize("key", [None, "secret"])
def test_run_logs_to_weights_and_biases_where_it_is_installed(tmp_path, monkeypatch, key):
    calls = []
    monkeypatch.setattr(finetune, "find_spec", lambda name: name == "wandb")
    monkeypatch.setattr(finetune, "WandbLogger", lambda *args, **options: calls.append((args, options)))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)

    assert len(finetune._loggers(tmp_path / "run")) == 3
    assert calls == [(("run", tmp_path / "run"), {"offline": key is None, "project": "monkeylib"})]

    monkeypatch.setattr(finetune, "find_spec", lambda name: None)
    assert len(finetune._loggers(tmp_path / "run")) == 2


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


# --- sharded checkpoints


class SingleProcessStrategy(strategies.ShardedStrategy):
    """Strategy of one process, whose shards are a file."""

    is_global_zero = True

    def __init__(self):
        pass

    def broadcast(self, value):
        return value

    def barrier(self):
        pass


def test_sharded_checkpoint_survives_a_kill_while_the_next_one_is_saved(tmp_path, monkeypatch):
    def write(self, content, folder, _=None):
        folder.mkdir(exist_ok=True)
        (folder / "shard").write_text(content)

    monkeypatch.setattr(strategies.ModelParallelStrategy, "save_checkpoint", write)
    path = tmp_path / "last.ckpt"
    strategies.restore_checkpoint(path)
    assert not path.exists(), "there was none yet"

    strategy = SingleProcessStrategy()
    strategy.save_checkpoint("first", path)
    for allowed_changes in range(4):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            stop_after(patched, allowed_changes)
            strategy.save_checkpoint(f"next {allowed_changes}", path)

        strategies.restore_checkpoint(path)
        assert (path / "shard").read_text() in ("first", f"next {allowed_changes}")

    strategy.save_checkpoint("last", path)
    assert (path / "shard").read_text() == "last"
    assert list(tmp_path.iterdir()) == [path]


def stop_after(monkeypatch, allowed_changes):
    """Interrupt the process when it moves or removes a folder after so many allowed changes."""
    changes = iter(range(9))

    def interrupting(function):
        def change(*args, **options):
            if next(changes) == allowed_changes:
                raise KeyboardInterrupt
            return function(*args, **options)

        return change

    monkeypatch.setattr(strategies.os, "replace", interrupting(strategies.os.replace))
    monkeypatch.setattr(strategies.shutil, "rmtree", interrupting(strategies.shutil.rmtree))
