"""Throughput, memory and sample answers that a run logs."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from monkeylib import profiles
from monkeylib.data.records import BadRecord
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.training import callbacks, finetune
from monkeylib.training.batches import SkippedRecords
from monkeylib.training.callbacks import MemoryUse, SampleAnswers, Throughput
from tests.support.training_modules import build_module, read_column

SMOKE = profiles.load_profile("smoke")


# --- throughput and memory


def test_rates_are_those_of_all_processes_since_the_last_log(monkeypatch):
    now = 10.0
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: now))
    logged = []
    module = SimpleNamespace(log_dict=lambda values, **_: logged.append(values))
    trainer = SimpleNamespace(world_size=2, global_step=1, log_every_n_steps=2)

    throughput = Throughput()
    throughput.on_train_start()
    now = 14.0
    batch = {"tokens": 100, "grids": [(2, 2), (2, 2)]}
    throughput.on_train_batch_end(trainer, module, None, batch, 0)
    assert logged[-1]["speed/images_per_second"] == 2 * 2 / 4
    assert logged[-1]["speed/tokens_per_second"] == 100 * 2 / 4

    # An example without images counts its tokens; a log ends the period.
    trainer.global_step = 2
    throughput.on_train_batch_end(trainer, module, None, {"tokens": 20}, 1)
    assert logged[-1]["speed/tokens_per_second"] == 120 * 2 / 4
    now = 15.0
    throughput.on_train_batch_end(trainer, module, None, {"tokens": 20}, 0)
    assert logged[-1]["speed/tokens_per_second"] == 20 * 2 / 1
    assert logged[-1]["memory/peak_gib"] > 0


def test_memory_is_counted_in_one_step_of_a_single_process(tmp_path, complete_training_runs):
    module = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    callback = MemoryUse(tmp_path)
    trainer = SimpleNamespace(global_step=0, world_size=2)
    callback.on_train_start(trainer, module)

    # AdamW has its moments from the second step on; several processes share the memory.
    assert callback.step == 1
    trainer.global_step = 1
    callback.on_train_batch_start(trainer, module, {}, 0)
    assert callback.tracker is None and callback.micro_batches == []


# --- sample answers


def test_answers_after_the_last_checkpoint_are_dropped(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)))
    SampleAnswers(file, 2).on_train_start(SimpleNamespace(is_global_zero=True, global_step=2), None)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2]


def test_bad_validation_record_has_no_answer(tmp_path):
    module = build_module(SMOKE)
    record = module.data.validation[0]
    bad = record.from_turns("a", ("gone.png",), record.turns, "set", "record a")
    module.data = dataclasses.replace(
        module.data, validation={0: bad}, validation_offset=0, num_validation_records=1
    )
    trainer = SimpleNamespace(is_global_zero=True, global_step=1)
    callback = SampleAnswers(tmp_path / "answers.jsonl", 2)

    with pytest.raises(BadRecord, match="gone.png"):
        callback.on_validation_epoch_end(trainer, module)
    module.data = dataclasses.replace(module.data, skipped=SkippedRecords(tmp_path / "skipped.jsonl"))
    callback.on_validation_epoch_end(trainer, module)
    assert (tmp_path / "answers.jsonl").read_text() == ""
    assert len(module.data.skipped.errors()) == 1


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


def test_answer_to_an_example_that_fills_the_context_is_as_long_as_there_is_room(tmp_path, monkeypatch):
    lengths = []
    generate = MonkeyForConditionalGeneration.generate

    def generate_and_note(model, input_ids, max_new_tokens, **options):
        lengths.append(input_ids.shape[1] + max_new_tokens)
        return generate(model, input_ids=input_ids, max_new_tokens=max_new_tokens, **options)

    monkeypatch.setattr(MonkeyForConditionalGeneration, "generate", generate_and_note)
    module = build_module(SMOKE)
    # Prompts have 89 to 96 tokens.
    module.model.config.text_config.max_position_embeddings = 100

    trainer = SimpleNamespace(global_step=1, is_global_zero=True)
    SampleAnswers(tmp_path / "answers.jsonl", max_new_tokens=60).on_validation_epoch_end(trainer, module)
    assert lengths == [100] * 4


def test_run_logs_rates_throughput_memory_and_answers(tmp_path, complete_training_runs):
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
