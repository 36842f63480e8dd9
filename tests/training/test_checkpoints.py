"""What a run leaves on disk: checkpoints of what was trained, logs, answers."""

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
from monkeylib.training.callbacks import SampleAnswers, SaveCheckpoints
from monkeylib.training.data import synthetic_data
from monkeylib.training.module import MonkeyTraining

SMOKE = profiles.load_profile("smoke")
LORA = {
    "vision": {"train": "lora"},
    "resampler": {"train": "full"},
    "language_model": {"train": "lora"},
}


def module_of(profile):
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)
    return MonkeyTraining(model, processor, profile, synthetic_data(profile))


@pytest.fixture()
def based(tmp_path):
    """The smoke profile on a base checkpoint, with LoRA in the language model."""
    torch.manual_seed(3)
    processor = build.build_processor(SMOKE)
    build.build_model(SMOKE, processor).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    profile = SMOKE.model_copy(update={"base_checkpoint": str(tmp_path / "base")})
    return profile.with_training(components=LORA, language_model_rank=2, lr=0.05, steps=3)


def logits_of(monkey):
    sample = synthetic.make_sample(0, "val", SMOKE.image_size)
    with torch.no_grad():
        return monkey.model(**monkey.prepare([sample.image], ["what?"])).logits


def test_trained_weights_alone_load_onto_their_base(based, tmp_path):
    whole = inference.load_model(finetune.run(based, tmp_path / "whole"))
    folder = finetune.run(based.with_training(keep="trained"), tmp_path / "part")
    saved = load_file(folder / "trained.safetensors")
    assert not (folder / "model.safetensors").exists()
    assert {name.split(".")[0] for name in saved} == {"vision", "resampler", "language_model"}
    assert all(".lora_" in name for name in saved if name.startswith("language_model"))
    part = inference.load_model(folder)
    assert torch.allclose(logits_of(part), logits_of(whole), atol=1e-4), "LoRA merged, and beside"
    assert not torch.allclose(logits_of(whole), logits_of(inference.load_model(tmp_path / "base")), atol=1e-2)


def test_trained_weights_of_another_profile_raise(based, tmp_path):
    folder = finetune.run(based.with_training(keep="trained"), tmp_path / "part")
    profile = json.loads((folder / "profile.json").read_text())
    profile["training"]["language_model_rank"] = 3
    profile["training"]["components"]["resampler"]["train"] = "frozen"
    (folder / "profile.json").write_text(json.dumps(profile))
    with pytest.raises(ValueError, match="does not hold what its profile trains, for example resampler"):
        inference.load_model(folder)


def test_no_process_removes_the_best_checkpoint_before_all_have_read_it(tmp_path, monkeypatch):
    best, waits, save = tmp_path / "best.ckpt", [], finetune._save_model
    monkeypatch.setattr(SingleDeviceStrategy, "barrier", lambda *_: waits.append(best.exists()))
    monkeypatch.setattr(finetune, "_save_model", lambda *args: (waits.clear(), save(*args)))
    finetune.run(SMOKE.with_training(steps=2, select="best"), tmp_path)
    assert waits == [True, False]


def test_a_run_without_validation_is_saved_as_often(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "_save_model", lambda *_: None)
    profile = SMOKE.with_training(steps=3)
    run, saved = tmp_path / "run", []
    write = SaveCheckpoints._save
    monkeypatch.setattr(
        SaveCheckpoints, "_save", lambda *args: (saved.append(args[1].global_step), write(*args))
    )
    finetune.run(profile, run, data=dataclasses.replace(synthetic_data(profile), validation=None))
    assert saved == [1, 2, 3]
    assert torch.load(run / "last.ckpt", weights_only=False)["global_step"] == 3
    assert not (run / "answers.jsonl").exists() and not (run / "best.ckpt").exists()


def test_a_checkpoint_holds_what_trains_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "_save_model", lambda *_: None)
    finetune.run(SMOKE.with_training(steps=2), tmp_path / "run")
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=False)["state_dict"]
    module = module_of(SMOKE)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert state.keys() & {name for name, _ in module.named_parameters()} == trained
    module.load_state_dict(state)
    with pytest.raises(RuntimeError, match="it lacks .*resampler.query"):
        module.load_state_dict({name: value for name, value in state.items() if not name.endswith("query")})
    with pytest.raises(RuntimeError, match="has .*'model.other'.* too many"):
        module.load_state_dict(state | {"model.other": torch.zeros(1)})


def test_the_best_weights_are_those_of_the_lowest_validation_loss(tmp_path, monkeypatch):
    """A rate that makes training worse and worse: the first validation is the best."""
    wild = SMOKE.with_training(steps=6, lr=0.3, warmup=5, select="best")
    seen = []
    load = MonkeyTraining.load_state_dict
    monkeypatch.setattr(
        MonkeyTraining,
        "load_state_dict",
        lambda self, state, *a, **k: seen.append(state) or load(self, state, *a, **k),
    )
    saved = load_file(finetune.run(wild, tmp_path / "run") / "model.safetensors")
    with open(tmp_path / "run" / "metrics.csv") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert losses.index(min(losses)) < len(losses) - 1, losses
    (best,) = seen
    assert torch.equal(best["model.resampler.query"], saved["resampler.query"])


def test_a_checkpoint_that_is_not_there_after_saving_stops_the_run_at_once(tmp_path, monkeypatch):
    """Lightning hides some failures to write."""
    monkeypatch.setattr("lightning.Trainer.save_checkpoint", lambda *_, **__: None)
    with pytest.raises(OSError, match=r"(last|best)\.ckpt could not be written: check the disk"):
        finetune.run(SMOKE, tmp_path / "run")


@pytest.mark.parametrize(("strategy", "together"), [("fsdp", True), ("ddp", False)])
def test_sharded_processes_make_answers_of_one_length(tmp_path, monkeypatch, strategy, together):
    """Two whose answers differed in length waited for each other for ever."""
    asked = []
    generate = MonkeyForConditionalGeneration.generate
    monkeypatch.setattr(
        MonkeyForConditionalGeneration,
        "generate",
        lambda self, synced_gpus=None, **more: asked.append(synced_gpus) or generate(self, **more),
    )
    trainer = SimpleNamespace(global_step=1, is_global_zero=True)
    sample = SampleAnswers(tmp_path / "answers.jsonl", max_new_tokens=2)
    sample.on_validation_epoch_end(trainer, module_of(SMOKE.with_training(strategy=strategy)))
    assert asked == [together] * 4 and len((tmp_path / "answers.jsonl").read_text().splitlines()) == 4


def test_a_run_logs_rates_speed_memory_and_answers(tmp_path):
    finetune.run(SMOKE.with_training(lora_lr=0.01), tmp_path / "run")
    with open(tmp_path / "run" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    columns = ["lr-AdamW/vision", "lr-AdamW/other", "lr-AdamW/other without decay"]
    columns += ["speed/images_per_second", "speed/tokens_per_second", "memory/peak_gib"]
    for column in columns:
        values = [float(row[column]) for row in rows if row[column]]
        assert values and min(values) > 0, column
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert {row["step"] for row in answers} == {1, 2, 3, 4} and len(answers) == 16
    assert set(answers[0]) == {"step", "id", "prompt", "answer", "prediction"}


def test_trainer_follows_the_profile(tmp_path):
    recipe = SMOKE.with_training(gradient_clip=0.7, precision="bf16-mixed", batch_size=8, micro_batch_size=2)
    trainer = finetune._trainer(recipe, tmp_path, True, finetune.Devices())
    assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches) == (0.7, 4)
    assert (trainer.precision, trainer.max_steps) == ("bf16-mixed", recipe.training.steps)
    bar = trainer.progress_bar_callback.init_train_tqdm()
    assert "{remaining}" in bar.bar_format, "the time left"
    bar.close()
    assert finetune._trainer(recipe, tmp_path, False, finetune.Devices()).progress_bar_callback is None
    optimiser = module_of(SMOKE.with_training(weight_decay=0.1)).configure_optimizers()["optimizer"]
    assert optimiser.defaults["betas"] == (0.9, 0.95)
    assert {group["weight_decay"] for group in optimiser.param_groups} == {0.0, 0.1}
    paper = profiles.load_profile("paper-896").training
    assert (paper.betas, paper.weight_decay) == ((0.9, 0.95), 0.1)


@pytest.mark.parametrize("key", [None, "secret"])
def test_weights_and_biases_is_written_to_where_it_is_installed(tmp_path, monkeypatch, key):
    asked = []
    monkeypatch.setattr(finetune, "find_spec", lambda name: name == "wandb")
    monkeypatch.setattr(finetune, "WandbLogger", lambda *given, **named: asked.append((given, named)))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert len(finetune._loggers(tmp_path / "run")) == 3
    assert asked == [(("run", tmp_path / "run"), {"offline": key is None, "project": "monkeylib"})]
    monkeypatch.setattr(finetune, "find_spec", lambda name: None)
    assert len(finetune._loggers(tmp_path / "run")) == 2


def test_in_bf16_weights_and_losses_stay_near_those_of_float32(tmp_path):
    runs = {}
    for precision in ("32-true", "bf16-mixed", "bf16-true"):
        folder = finetune.run(SMOKE.with_training(precision=precision), tmp_path / precision)
        with open(folder.parent / "metrics.csv") as file:
            losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
        runs[precision] = load_file(folder / "model.safetensors"), losses
    (exact, losses), (mixed, rounded), (true, coarse) = runs.values()
    assert {weight.dtype for weight in mixed.values()} == {torch.float32}
    assert {weight.dtype for weight in true.values()} == {torch.bfloat16}
    assert rounded == pytest.approx(losses, rel=0.02) and rounded != losses
    assert coarse == pytest.approx(losses, rel=0.05)


class Alone(strategies.ShardedStrategy):
    """One process, whose shards are a file."""

    is_global_zero = True

    def __init__(self):
        pass

    def broadcast(self, value):
        return value

    def barrier(self):
        pass


def test_a_sharded_checkpoint_survives_a_kill_at_any_moment_of_its_successor(tmp_path, monkeypatch):
    def write(self, content, folder, _=None):
        folder.mkdir(exist_ok=True)
        (folder / "shard").write_text(content)

    monkeypatch.setattr(strategies.ModelParallelStrategy, "save_checkpoint", write)
    path = tmp_path / "last.ckpt"
    strategies.restore_checkpoint(path)
    assert not path.exists(), "there was none yet"
    Alone().save_checkpoint("first", path)
    for moment in range(4):  # before the n-th change on the disk
        changes = iter(range(9))

        def stopping(change, moment=moment, changes=changes):
            def changed(*given, **named):
                if next(changes) == moment:
                    raise KeyboardInterrupt
                return change(*given, **named)

            return changed

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(strategies.os, "replace", stopping(strategies.os.replace))
            patched.setattr(strategies.shutil, "rmtree", stopping(strategies.shutil.rmtree))
            Alone().save_checkpoint(f"next {moment}", path)
        strategies.restore_checkpoint(path)
        assert (path / "shard").read_text() in ("first", f"next {moment}")
    Alone().save_checkpoint("last", path)
    assert (path / "shard").read_text() == "last" and list(tmp_path.iterdir()) == [path]
