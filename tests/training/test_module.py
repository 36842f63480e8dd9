"""The training step: the same loss and gradients however the rows of a batch are put together."""

from types import SimpleNamespace

import pytest
import torch

from monkeylib import profiles
from monkeylib.data.records import BadRecord, Record
from monkeylib.experiments.variants import variant_profile
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.profiles import build, trainable
from monkeylib.training import finetune
from monkeylib.training.data import ExampleEncoder, Shard, SkippedRecords, TrainingData, synthetic_data
from monkeylib.training.module import MonkeyTraining

SMOKE = profiles.load_profile("smoke")
QUIET = SMOKE.model_copy(update={"lora": SMOKE.lora.model_copy(update={"dropout": 0.0})})


def module_of(profile=QUIET, data=None):
    torch.manual_seed(0)
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_lora.lora_B"):
                parameter.normal_(std=0.3)
    return MonkeyTraining(model, processor, profile, data or synthetic_data(profile))


def rows_of(module, count=6, packing=False):
    maker = ExampleEncoder(module.processor, 512, packing)
    return maker, [maker.encode(module.data.train[number]) for number in range(count)]


def gradients(module):
    found = {name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def close(ours, theirs, rtol=1e-4):
    assert ours.keys() == theirs.keys() and ours
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() <= rtol * theirs[name].norm() + 1e-9, name


def loss_of(module, maker, rows, batch=None, share=None):
    tensors = module.collator(share or Shard(), packing=maker.packing)(rows, batch or rows, 0)
    return module.loss_and_accuracy(tensors)["loss"]


def test_packing_gives_the_loss_and_gradients_of_padding():
    module = module_of()
    found = {}
    for packing in (False, True):
        maker, rows = rows_of(module, packing=packing)
        tensors = module.collator(Shard(), packing=maker.packing)(rows, rows, 0)
        out = module.loss_and_accuracy(tensors)
        out["loss"].backward()
        found[packing] = (
            out["loss"].item(),
            float(out["exact"]),
            gradients(module),
            tensors["input_ids"].shape,
        )
    assert found[True][3][0] == 1 and found[True][3][1] < torch.Size(found[False][3]).numel(), "no padding"
    assert found[True][0] == pytest.approx(found[False][0], abs=1e-5)
    assert found[True][1] == found[False][1]
    close(found[True][2], found[False][2])


@pytest.mark.parametrize(("devices", "passes"), [(1, 3), (2, 1), (2, 2)])
def test_micro_batches_add_up_to_the_batch(devices, passes):
    """Gradients are averaged over devices and passes, as DDP and accumulation do."""
    module = module_of()
    maker, rows = rows_of(module)
    rows.sort(key=len)
    whole = loss_of(module, maker, rows)
    whole.backward()
    expected, losses = gradients(module), []
    for device in range(devices):
        share = Shard(device, devices, passes)
        for hand in share.micro_batches(rows):
            loss = loss_of(module, maker, hand, rows, share)
            (loss / (devices * passes)).backward()
            losses.append(loss.item())
    assert sum(losses) / len(losses) == pytest.approx(whole.item(), abs=1e-5)
    close(gradients(module), expected)


def test_validation_looks_at_as_many_rows_however_they_are_divided(monkeypatch):
    counts = []
    for micro_batch_size in (None, 1, 2):
        module = module_of(SMOKE.with_training(micro_batch_size=micro_batch_size))
        monkeypatch.setattr(MonkeyTraining, "trainer", SimpleNamespace(global_rank=0, world_size=1))
        made = module.val_dataloader().dataset
        counts.append(sum(len(made.batches[number]) for number in range(len(made))))
    assert counts == [4 * SMOKE.training.batch_size] * 3


def test_empty_micro_batch_has_zero_gradients_for_all_weights():
    module = module_of()
    maker, rows = rows_of(module, 1)
    loss = loss_of(module, maker, [], rows, Shard(1, 2, 1))
    loss.backward()
    assert loss.item() == 0
    found = gradients(module)
    assert {n for n, p in module.model.named_parameters() if p.requires_grad} == found.keys()
    assert all((gradient == 0).all() for gradient in found.values())


def test_logits_at_labels_alone_give_the_full_computation():
    module = module_of()
    maker, rows = rows_of(module)
    batch = module.collator(Shard(), packing=maker.packing)(rows, rows, 0)
    out = module.loss_and_accuracy(batch)
    out["loss"].backward()
    found = gradients(module)
    inputs = {key: batch[key] for key in ("input_ids", "pixel_values", "grids")}
    logits = module.model(**inputs).logits
    assert logits.shape[:2] == batch["input_ids"].shape
    full = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE_INDEX
    )
    full.backward()
    assert out["loss"].item() == pytest.approx(full.item(), abs=1e-5)
    close(found, gradients(module))


def test_padding_needs_no_mask_in_training():
    module = module_of()
    maker, rows = rows_of(module)
    batch = module.collator(Shard(), packing=maker.packing)(rows, rows, 0)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row.input_ids) for row in rows], True, 0)
    assert not mask.all(), "rows of several lengths"
    found = []
    for inputs in (batch, batch | {"attention_mask": mask}):
        out = module.loss_and_accuracy(inputs)
        out["loss"].backward()
        found.append((out["loss"].item(), gradients(module)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    close(found[0][1], found[1][1])


def test_gradient_checkpointing_changes_nothing():
    module = module_of()
    again = module_of(QUIET.with_training(checkpointing=True))
    assert again.model.vision.blocks[0].gradient_checkpointing
    found = []
    for each in (module, again):
        each.train()
        maker, rows = rows_of(each)
        loss_of(each, maker, rows).backward()
        found.append(gradients(each))
    close(found[1], found[0])


@pytest.mark.parametrize("order", ["progressive", "multiscale"])
def test_a_view_grows_or_changes_with_the_steps(order):
    profile = variant_profile(SMOKE, order, steps=9)
    module = module_of(profile)
    maker, rows = rows_of(module, 1)
    sides = [
        module.collator(Shard(), packing=maker.packing)(rows, rows, n)["pixel_values"].shape[-1]
        for n in range(9)
    ]
    assert sides[-1] == 112 or order == "multiscale"
    assert set(sides) == {56, 84, 112}
    assert (sides == sorted(sides)) == (order == "progressive")
    assert sides == [
        module.collator(Shard(), packing=maker.packing)(rows, rows, n)["pixel_values"].shape[-1]
        for n in range(9)
    ]
    loss = module.loss_and_accuracy(module.collator(Shard(), packing=maker.packing)(rows, rows, 0))["loss"]
    loss.backward()
    assert module.model.vision.patch_embedding.weight.grad.abs().sum() > 0


# --- what trains ---------------------------------------------------------------------------------


PART = {"train": "frozen"}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("released", {"LoRA", "resampler", "language model"}),
        ("paper", {"LoRA", "resampler", "resampler output", "language model"}),
        ({"vision": {"train": "lora"}, "resampler": PART, "language_model": PART}, {"LoRA"}),
        (
            {"vision": {"train": "full"}, "resampler": PART, "language_model": PART},
            {"LoRA", "ViT"},
        ),
        (
            {"vision": PART, "resampler": {"train": "full"}, "language_model": {"train": "lora"}},
            {"resampler", "LoRA of the language model"},
        ),
    ],
)
def test_components_train_as_configured(parts, expected):
    module = module_of(SMOKE.with_training(components=parts))

    def part(name):
        if name.startswith("vision."):
            return "LoRA" if "_lora." in name else "ViT"
        if name.startswith("resampler."):
            return (
                "resampler output"
                if name.startswith(("resampler.ln_post", "resampler.proj"))
                else "resampler"
            )
        return "LoRA of the language model" if ".lora_" in name else "language model"

    assert {part(name) for name, p in module.model.named_parameters() if p.requires_grad} == expected


def test_components_have_their_own_learning_rates():
    parts = {
        "vision": {"train": "lora", "lr": 0.3},
        "resampler": {"train": "full", "lr": 0.2},
        "language_model": {"train": "lora"},
    }
    module = module_of(SMOKE.with_training(components=parts, lr=0.1, warmup=1))
    groups = module.configure_optimizers()["optimizer"].param_groups
    names = {id(parameter): name for name, parameter in module.model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            part = names[id(parameter)].split(".")[0]
            assert group["lr"] == {"vision": 0.3, "resampler": 0.2, "language_model": 0.1}[part]
    assert len({group["name"] for group in groups}) == len(groups)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"components": {"vision": PART, "resampler": {"train": "lora"}, "language_model": PART}},
            "'frozen' or 'full'",
        ),
        ({"language_model_bits": 4}, "trains by LoRA and is saved without"),
        ({"strategy": "zero"}, "strategy"),
        ({"batch": 3}, "batch"),
    ],
)
def test_invalid_training_settings_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        SMOKE.with_training(**changes)


def test_indivisible_batch_raises(tmp_path):
    profile = SMOKE.with_training(batch_size=8, micro_batch_size=3)
    with pytest.raises(
        ValueError, match="batch of 8 examples cannot be divided over 1 devices with micro-batches of 3"
    ):
        finetune.run(profile, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- bad records ---------------------------------------------------------------------------------


class Some:
    """Synthetic records, of which one has no image and one is too long."""

    def __init__(self, records):
        self.records = records

    def __getitem__(self, number):
        record = self.records[number]
        images, turns = record.images, record.turns
        if number == 1:
            images = ("no/such/image.png",)
        if number == 2:
            turns = ((" why? answer: ", "because " * 200),)
        return Record(record.id, images, turns, "some", f"some, record {number}")


@pytest.mark.parametrize("skipping", [False, True])
def test_bad_records_stop_training_or_are_left_out_and_listed(tmp_path, skipping):
    data = synthetic_data(SMOKE)
    skipped = SkippedRecords(tmp_path / "run" / "skipped.jsonl") if skipping else None
    data = TrainingData(Some(data.train), data.validation, "some", num_records=6, skipped=skipped)
    profile = SMOKE.with_training(steps=2, batch_size=3)
    if not skipping:
        with pytest.raises(BadRecord, match=r"^some, record 2: .* raise max_length .*--skip-bad$"):
            finetune.run(profile, tmp_path / "run", data=data)
        assert not (tmp_path / "run" / "model").exists()
        return
    assert finetune.run(profile, tmp_path / "run", data=data).exists()
    listed = sorted(skipped.errors())
    assert len(listed) == 2
    assert listed[0].startswith("some, record 1, image 1: there is no image at no/such/image.png")
    assert listed[1].startswith("some, record 2: The image and its first question need")
