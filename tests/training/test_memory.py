"""Bytes counted on fake tensors are those of a real step and of a real run."""

import json

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from monkeylib import profiles, sizing
from monkeylib.data.records import BadRecord
from monkeylib.model import vision
from monkeylib.training import finetune, memory
from monkeylib.training.batches import TrainingData
from monkeylib.training.synthetic_records import synthetic_data

NANO = profiles.load_profile("nano")
SMOKE = profiles.load_profile("smoke")
FROZEN, FULL, LORA = ({"train": mode} for mode in ("frozen", "full", "lora"))
EVERYTHING_LORA = {"vision": LORA, "resampler": FULL, "language_model": LORA}


def count_and_measure(profile, config=None, **batch):
    batches = [memory.random_micro_batch(profile, **batch, config=config)]
    estimate = memory.count_step(profile, batches, config, on_gpu=False)
    return estimate, memory.measure_step(profile, batches, config)


# --- the tracker


def test_tensors_count_while_their_storage_lives():
    with memory.AllocationTracker() as tracker:
        first = torch.zeros(1000)
        second = first.view(10, 100)[:5]  # shares the memory
        assert tracker.current == 4000
        third = first.double()
        assert tracker.current == 12_000
        del third
        assert tracker.current == 4000
        del first
        assert tracker.current == 4000, "the view keeps the storage alive"
        del second
        assert tracker.current == 0 and tracker.peak == 12_000


def test_saved_tensors_live_until_the_backward_pass():
    weight = torch.ones(100, requires_grad=True)
    with memory.AllocationTracker() as tracker:
        loss = weight.exp().sum()
        assert tracker.current == 400 + 4
        loss.backward()
        assert tracker.current == 4 + 400, "the loss and the gradient"
        assert tracker.peak >= 4 + 4 + 400 + 400


def test_tensors_without_memory_do_not_count():
    tracker = memory.AllocationTracker()
    tensors = {"shape": torch.empty(10, device="meta"), "values": [torch.zeros(5)]}
    tracker.add_all(tensors)
    assert tracker.current == 20


# --- fake and real steps


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"components": "paper"},
        {"checkpointing": True},
        {"components": {"vision": LORA, "resampler": FULL, "language_model": FROZEN}},
        {"components": {"vision": FULL, "resampler": FULL, "language_model": FULL}},
    ],
    ids=["released", "paper", "checkpointing", "frozen language model", "full"],
)
def test_fake_step_takes_the_bytes_of_a_real_one(changes):
    # The larger profile once, as it is shipped.
    profile = SMOKE.with_training(**changes) if changes else NANO
    estimate, measured = count_and_measure(profile, examples=2, text_tokens=48)
    # What checkpointing computes again ends a tensor earlier in the fake step.
    tolerance = 0.02 if changes.get("checkpointing") else 0
    assert estimate.peak == pytest.approx(measured, rel=tolerance, abs=0)


@pytest.mark.parametrize(
    "changes",
    [{"components": EVERYTHING_LORA}, {"precision": "bf16-mixed"}, {"precision": "bf16-true"}],
    ids=["lora", "bf16-mixed", "bf16-true"],
)
def test_fake_step_with_lora_or_in_bf16_takes_nearly_the_bytes_of_a_real_one(changes):
    estimate, measured = count_and_measure(SMOKE.with_training(**changes), examples=2, text_tokens=48)
    assert estimate.peak == pytest.approx(measured, rel=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["small", "llava-448"])
def test_fake_step_with_a_vision_backbone_of_transformers(name, checkpointing):
    profile = profiles.load_profile(name).with_training(checkpointing=checkpointing, precision="32-true")
    estimate, measured = count_and_measure(profile, config=shrunk_config(name))
    assert estimate.peak == measured


def shrunk_config(name):
    """Return the configuration of a profile at small sizes."""
    config = profiles.build_config(profiles.load_profile(name))
    config.tile_size = 84
    config.image_token_id = 299

    vision = config.vision_config
    vision.hidden_size = 64
    vision.num_hidden_layers = 2
    vision.num_attention_heads = 2
    if hasattr(vision, "intermediate_size"):
        vision.intermediate_size = 256

    text = config.text_config
    text.vocab_size = 300
    text.pad_token_id = 0
    text.hidden_size = 144
    text.intermediate_size = 384
    text.num_hidden_layers = 2
    text.num_attention_heads = 9
    text.head_dim = 16
    text.num_key_value_heads = 3 if name == "small" else 9
    return config


def test_step_counts_the_same_each_time():
    profile = profiles.load_profile("smoke")
    batches = [memory.random_micro_batch(profile, text_tokens=20, num_labels=5)] * 2
    assert memory.count_step(profile, batches) == memory.count_step(profile, batches)


@pytest.mark.parametrize(("on_gpu", "chunks"), [(True, [2, 8]), (False, [1] * 10)])
def test_a_gpu_encodes_all_views_at_once(monkeypatch, on_gpu, chunks):
    """Those without LoRA are a chunk of their own: the global views of two images, and their eight tiles."""
    encode, encoded = vision.VisionTransformer.encode, []

    def watched_encode(self, pixel_values, lora_groups):
        encoded.append(len(pixel_values))
        return encode(self, pixel_values, lora_groups)

    monkeypatch.setattr(vision.VisionTransformer, "encode", watched_encode)
    monkeypatch.setattr(vision, "CPU_CHUNK_BYTES", 1)

    memory.count_step(SMOKE, [memory.random_micro_batch(SMOKE, examples=2)], on_gpu=on_gpu)

    assert encoded == chunks


def test_bytes_of_states_follow_the_parameters():
    config = profiles.build_config(SMOKE)
    batches = [memory.random_micro_batch(SMOKE)]
    exact = memory.count_step(SMOKE, batches)
    trained = sum(sizing.count_trained_parameters(config).values())
    assert exact.gradients == 4 * trained and exact.optimizer == 8 * trained
    assert exact.weights >= 4 * sum(sizing.count_parameters(config).values())

    half = memory.count_step(SMOKE.with_training(precision="bf16-true"), batches)

    assert half.gradients == exact.gradients // 2
    assert half.peak < exact.peak


def test_ddp_copies_states_and_fsdp_divides_them():
    profile, batches = SMOKE.with_training(checkpointing=True), [memory.random_micro_batch(SMOKE)]
    single = memory.count_step(profile, batches)
    ddp, fsdp = (
        memory.count_step(profile.with_training(strategy=strategy), batches, devices=8)
        for strategy in ("ddp", "fsdp")
    )

    assert (ddp.weights, ddp.gradients, ddp.optimizer) == (
        single.weights,
        single.gradients,
        single.optimizer,
    )
    assert ddp.communication == ddp.gradients
    assert (fsdp.weights, fsdp.gradients) == (single.weights // 8, single.gradients // 8)
    assert 0 < fsdp.communication < single.weights + single.gradients
    assert fsdp.peak < single.peak < ddp.peak


def test_quantised_weights_take_their_bits():
    profile = SMOKE.with_training(components=EVERYTHING_LORA, keep="trained", precision="bf16-true")
    batches = [memory.random_micro_batch(SMOKE)]
    plain = memory.count_step(profile, batches)
    quantised = memory.count_step(profile.with_training(language_model_bits=4), batches)

    text = profiles.build_config(SMOKE).text_config
    attention = 4 * text.hidden_size**2
    linear_maps = text.num_hidden_layers * (attention + 3 * text.hidden_size * text.intermediate_size)

    assert plain.weights - quantised.weights == pytest.approx(linear_maps * (2 - 0.5625), abs=1)
    assert quantised.peak < plain.peak


# --- runs


@pytest.mark.parametrize(
    "changes",
    [{}, {"micro_batch_size": 2}, {"checkpointing": True}, {"packing": True}],
    ids=["one micro-batch", "two micro-batches", "checkpointing", "packing"],
)
def test_run_takes_the_estimated_memory(changes, tmp_path, complete_training_runs):
    profile = SMOKE.with_training(steps=2, warmup=0.5, **changes)
    run = finetune.run(profile, tmp_path / "run").parent
    result = json.loads((run / memory.FILE).read_text())
    assert result["step"] == 2
    assert result["estimated"] == pytest.approx(result["measured"], rel=0.005)

    row = memory.read_memory(run)

    assert row["measured, MB"] == pytest.approx(result["measured"] / 1e6, abs=0.01)
    assert row["ratio"] == pytest.approx(1, abs=0.005)
    assert _get_current_dispatch_mode() is None


def test_run_goes_on_when_the_estimate_fails(tmp_path, monkeypatch, complete_training_runs):
    def fail(*_, **__):
        raise NotImplementedError("no fake kernel for this operation\nand a long trace")

    monkeypatch.setattr(memory, "count_step", fail)
    profile = SMOKE.with_training(steps=2, warmup=0.5)

    with pytest.warns(UserWarning, match="could not be estimated.*no fake kernel for this operation$"):
        run = finetune.run(profile, tmp_path / "run").parent

    assert set(json.loads((run / memory.FILE).read_text())) == {"step", "measured"}
    row = memory.read_memory(run)
    assert row["measured, MB"] > 0
    assert row["estimated, MB"] is None and row["ratio"] is None


def test_failing_run_stops_counting(tmp_path, complete_training_runs):
    profile = SMOKE.with_training(steps=3, warmup=0.33)
    records = synthetic_data(profile)

    class BrokenRecords:
        def __getitem__(self, index):
            if index >= records.offset + 2 * profile.training.batch_size:
                raise BadRecord("a record that can't be read")
            return records.train[index]

    data = TrainingData(BrokenRecords(), None, "broken", offset=records.offset)

    with pytest.raises(BadRecord):
        finetune.run(profile, tmp_path / "run", data=data)
    assert _get_current_dispatch_mode() is None
    assert not (tmp_path / "run" / memory.FILE).exists()
