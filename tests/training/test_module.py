"""Training step: the same loss and gradients however the examples of a batch are put together."""

from types import SimpleNamespace

import pytest
import torch

from monkeylib import profiles
from monkeylib.data.records import BadRecord, Record
from monkeylib.experiments.variants import variant_profile
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.profiles import build, trainable
from monkeylib.profiles.overrides import override
from monkeylib.training import finetune
from monkeylib.training.batches import ExampleEncoder, SkippedRecords, TrainingData
from monkeylib.training.data_parallel import Shard
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.synthetic_records import synthetic_data

SMOKE = profiles.load_profile("smoke")
WITHOUT_DROPOUT = SMOKE.model_copy(update={"lora": SMOKE.lora.model_copy(update={"dropout": 0.0})})


def build_module(profile=WITHOUT_DROPOUT, data=None):
    """Return a training module whose LoRA is not zero."""
    torch.manual_seed(0)
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_lora.lora_B"):
                parameter.normal_(std=0.3)
    return MonkeyTraining(model, processor, profile, data or synthetic_data(profile))


def encode_examples(module, count=6, packing=False):
    """Return an encoder and the first examples of the training data."""
    encoder = ExampleEncoder(module.processor, 512, packing)
    return encoder, [encoder.encode(module.data.train[number]) for number in range(count)]


def collate(module, encoder, examples, batch=None, shard=None, step=0):
    """Return the tensors of a micro-batch of `examples`, by default the complete batch."""
    collator = module.collator(shard or Shard(), packing=encoder.packing)
    return collator(examples, batch or examples, step)


def pop_gradients(module):
    """Return copies of the gradients by name, and clear them."""
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in module.model.named_parameters()
        if parameter.grad is not None
    }
    module.zero_grad()
    return gradients


def assert_close(gradients, expected, rtol=1e-4):
    assert gradients.keys() == expected.keys()
    assert gradients
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= rtol * expected[name].norm() + 1e-9, name


def test_packing_gives_the_loss_and_gradients_of_padding():
    module = build_module()
    results = {}
    for packing in (False, True):
        encoder, examples = encode_examples(module, packing=packing)
        batch = collate(module, encoder, examples)
        output = module.loss_and_accuracy(batch)
        output["loss"].backward()
        results[packing] = output, batch["input_ids"].shape, pop_gradients(module)

    padded, padded_shape, padded_gradients = results[False]
    packed, packed_shape, packed_gradients = results[True]
    assert packed_shape[0] == 1
    assert packed_shape.numel() < padded_shape.numel()
    assert packed["loss"].item() == pytest.approx(padded["loss"].item(), abs=1e-5)
    assert packed["right"].tolist() == padded["right"].tolist()
    assert len(packed["right"]) == sum(int(example.turns.max()) + 1 for example in examples)
    assert_close(packed_gradients, padded_gradients)


@pytest.mark.parametrize("changes", [{}, {"grid": "auto", "max_tiles": 4}], ids=["2x2", "auto"])
@pytest.mark.parametrize(("devices", "accumulation"), [(1, 3), (2, 1), (2, 2)])
def test_micro_batches_add_up_to_the_batch(devices, accumulation, changes):
    """Gradients are averaged over devices and micro-batches, as DDP and accumulation do.

    With grids by shape, devices have different numbers of tiles at the same time.
    """
    module = build_module(override(WITHOUT_DROPOUT, changes))
    encoder, batch = encode_examples(module)
    batch.sort(key=len)
    assert len({example.grids for example in batch}) == (6 if changes else 1)

    full_loss = module.loss_and_accuracy(collate(module, encoder, batch))["loss"]
    full_loss.backward()
    expected = pop_gradients(module)

    losses = []
    for device in range(devices):
        shard = Shard(device, devices, accumulation)
        for micro_batch in shard.micro_batches(batch):
            tensors = collate(module, encoder, micro_batch, batch, shard)
            loss = module.loss_and_accuracy(tensors)["loss"]
            (loss / (devices * accumulation)).backward()
            losses.append(loss.item())

    assert sum(losses) / len(losses) == pytest.approx(full_loss.item(), abs=1e-5)
    assert_close(pop_gradients(module), expected)


def test_validation_reads_as_many_examples_however_they_are_divided(complete_training_runs, monkeypatch):
    counts = []
    for micro_batch_size in (None, 1, 2):
        module = build_module(SMOKE.with_training(micro_batch_size=micro_batch_size))
        monkeypatch.setattr(MonkeyTraining, "trainer", SimpleNamespace(global_rank=0, world_size=1))
        dataset = module.val_dataloader().dataset
        counts.append(sum(dataset[number]["num_examples"] for number in range(len(dataset))))
    assert counts == [4 * SMOKE.training.batch_size] * 3


def test_loaders_have_the_processes_of_the_profile(complete_training_runs, monkeypatch):
    trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=0)
    monkeypatch.setattr(MonkeyTraining, "trainer", trainer)
    for workers in (1, 2):
        module = build_module(SMOKE.with_training(workers=workers))
        assert module.train_dataloader().num_workers == workers
        validation = module.val_dataloader()
        assert validation.num_workers == 1 and validation.persistent_workers


def test_empty_micro_batch_has_zero_gradients_for_all_weights():
    module = build_module()
    encoder, batch = encode_examples(module, 1)
    loss = module.loss_and_accuracy(collate(module, encoder, [], batch, Shard(1, 2, 1)))["loss"]
    loss.backward()
    assert loss.item() == 0

    gradients = pop_gradients(module)
    trained = {name for name, parameter in module.model.named_parameters() if parameter.requires_grad}
    assert gradients.keys() == trained
    assert all((gradient == 0).all() for gradient in gradients.values())


def test_logits_at_labels_alone_give_the_full_computation():
    module = build_module()
    encoder, examples = encode_examples(module)
    batch = collate(module, encoder, examples)
    loss = module.loss_and_accuracy(batch)["loss"]
    loss.backward()
    gradients = pop_gradients(module)

    inputs = {name: batch[name] for name in ("input_ids", "pixel_values", "grids")}
    logits = module.model(**inputs).logits
    assert logits.shape[:2] == batch["input_ids"].shape
    full_loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE_INDEX
    )
    full_loss.backward()

    assert loss.item() == pytest.approx(full_loss.item(), abs=1e-5)
    assert_close(gradients, pop_gradients(module))


def test_padding_needs_no_mask_in_training():
    module = build_module()
    encoder, examples = encode_examples(module)
    batch = collate(module, encoder, examples)
    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones_like(example.input_ids) for example in examples], batch_first=True
    )
    assert not mask.all(), "examples of several lengths"

    losses, gradients = [], []
    for inputs in (batch, batch | {"attention_mask": mask}):
        loss = module.loss_and_accuracy(inputs)["loss"]
        loss.backward()
        losses.append(loss.item())
        gradients.append(pop_gradients(module))

    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert_close(gradients[0], gradients[1])


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        module = build_module(WITHOUT_DROPOUT.with_training(checkpointing=checkpointing))
        assert module.model.vision.blocks[0].gradient_checkpointing == checkpointing
        module.train()
        encoder, examples = encode_examples(module)
        module.loss_and_accuracy(collate(module, encoder, examples))["loss"].backward()
        gradients.append(pop_gradients(module))
    assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("order", ["progressive", "multiscale"])
def test_size_of_the_view_follows_the_steps(order):
    module = build_module(variant_profile(SMOKE, order).with_training(steps=9))
    encoder, examples = encode_examples(module, 1)

    def side_at(step):
        return collate(module, encoder, examples, step=step)["pixel_values"].shape[-1]

    sides = [side_at(step) for step in range(9)]
    assert set(sides) == {56, 84, 112}
    assert sides == [side_at(step) for step in range(9)], "the same each time"

    is_growing = sides == sorted(sides)
    assert is_growing == (order == "progressive")

    module.loss_and_accuracy(collate(module, encoder, examples))["loss"].backward()
    assert module.model.vision.patch_embedding.weight.grad.abs().sum() > 0


# --- what trains ---------------------------------------------------------------------------------

FROZEN = {"train": "frozen"}


@pytest.mark.parametrize(
    ("components", "expected"),
    [
        ("released", {"LoRA", "resampler", "language model"}),
        ("paper", {"LoRA", "resampler", "resampler output", "language model"}),
        ({"vision": {"train": "lora"}, "resampler": FROZEN, "language_model": FROZEN}, {"LoRA"}),
        (
            {"vision": {"train": "full"}, "resampler": FROZEN, "language_model": FROZEN},
            {"LoRA", "ViT"},
        ),
        (
            {"vision": FROZEN, "resampler": {"train": "full"}, "language_model": {"train": "lora"}},
            {"resampler", "LoRA of the language model"},
        ),
    ],
)
def test_components_train_as_configured(components, expected):
    module = build_module(SMOKE.with_training(components=components))

    def component_of(name):
        if name.startswith("vision."):
            return "LoRA" if "_lora." in name else "ViT"
        if name.startswith("resampler."):
            return (
                "resampler output"
                if name.startswith(("resampler.ln_post", "resampler.proj"))
                else "resampler"
            )
        return "LoRA of the language model" if ".lora_" in name else "language model"

    trained = [name for name, parameter in module.model.named_parameters() if parameter.requires_grad]
    assert {component_of(name) for name in trained} == expected


def test_components_have_their_own_learning_rates():
    components = {
        "vision": {"train": "lora", "lr": 0.3},
        "resampler": {"train": "full", "lr": 0.2},
        "language_model": {"train": "lora"},
    }
    module = build_module(SMOKE.with_training(components=components, lr=0.1, warmup=0.25))
    groups = module.configure_optimizers()["optimizer"].param_groups

    names = {id(parameter): name for name, parameter in module.model.named_parameters()}
    expected_rates = {"vision": 0.3, "resampler": 0.2, "language_model": 0.1}
    for group in groups:
        for parameter in group["params"]:
            component = names[id(parameter)].split(".")[0]
            assert group["lr"] == expected_rates[component]
    assert len({group["name"] for group in groups}) == len(groups)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"components": {"vision": FROZEN, "resampler": {"train": "lora"}, "language_model": FROZEN}},
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


class RecordsWithErrors:
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
        return Record.from_turns(record.id, images, turns, "some", f"some, record {number}")


def data_with_errors(skipped=None):
    data = synthetic_data(SMOKE)
    return TrainingData(
        RecordsWithErrors(data.train), data.validation, "some", num_records=6, skipped=skipped
    )


def test_bad_record_stops_training(tmp_path):
    profile = SMOKE.with_training(steps=2, batch_size=3)
    with pytest.raises(BadRecord, match=r"^some, record 2: .* raise max_length .*--skip-bad$"):
        finetune.run(profile, tmp_path / "run", data=data_with_errors())
    assert not (tmp_path / "run" / "model").exists()


def test_bad_records_are_skipped_and_listed(tmp_path):
    skipped = SkippedRecords(tmp_path / "run" / "skipped.jsonl")
    profile = SMOKE.with_training(steps=2, batch_size=3)
    assert finetune.run(profile, tmp_path / "run", data=data_with_errors(skipped)).exists()

    errors = sorted(skipped.errors())
    assert len(errors) == 2
    assert errors[0].startswith("some, record 1, image 1: there is no image at no/such/image.png")
    assert errors[1].startswith("some, record 2: The image and its first question need")
