"""What a profile trains, and how the trained weights are saved and loaded."""

import json

import pytest
import torch

from monkeylib import profiles
from monkeylib.profiles import build, trainable
from monkeylib.profiles.overrides import override

SMOKE = profiles.load_profile("smoke")
LORA_ALONE = {
    "vision": {"train": "lora"},
    "resampler": {"train": "frozen"},
    "language_model": {"train": "lora"},
}


def build_trained(profile):
    """Return a model whose trained weights differ from those that it starts with, and its processor."""
    processor = build.build_processor(profile)
    model = trainable.build_trainable(profile, processor)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(1)
    return model, processor


def trained_components(model):
    """Return the components that have trained weights."""
    return {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}


def test_named_choices_are_spelled_out():
    released = trainable.trainable_components(SMOKE)
    assert (released.vision.train, released.resampler.train, released.language_model.train) == (
        "lora",
        "full",
        "full",
    )
    assert not released.resampler_output
    assert trainable.trainable_components(SMOKE.with_training(components="paper")).resampler_output

    # The rate of the LoRA is that of the vision backbone.
    profile = SMOKE.with_training(lora_lr=3e-4)
    assert trainable.trainable_components(profile).vision.lr == 3e-4

    full = override(SMOKE, {"lora.mode": "full"})
    assert trainable.trainable_components(full).vision.train == "full"


def test_components_are_trained_as_each_of_them_says():
    processor = build.build_processor(SMOKE)
    model = build.build_model(SMOKE, processor)
    trainable.set_trainable(model, SMOKE.with_training(components=LORA_ALONE))

    assert model.training and trained_components(model) == {"vision", "language_model"}
    assert trainable.has_language_model_lora(model)
    for name, weight in model.named_parameters():
        assert weight.requires_grad == ("lora" in name), name


def test_lora_of_the_language_model_warns_of_nothing(recwarn):
    profile = SMOKE.with_training(components=LORA_ALONE)
    model = trainable.build_trainable(profile, build.build_processor(profile))
    assert trainable.has_language_model_lora(model)
    assert [str(warning.message) for warning in recwarn] == []


def test_fresh_weights_leave_the_random_state_as_it_was():
    processor = build.build_processor(SMOKE)
    torch.manual_seed(3)
    expected = torch.rand(1)

    torch.manual_seed(3)
    first = trainable.build_trainable(SMOKE, processor)
    assert torch.equal(torch.rand(1), expected)

    # They follow the seed of the profile.
    again = trainable.build_trainable(SMOKE, processor)
    other = trainable.build_trainable(SMOKE.with_seed(SMOKE.training.seed + 1), processor)
    weight = next(name for name, tensor in first.state_dict().items() if tensor.ndim > 1)
    assert torch.equal(first.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])


def test_trained_weights_alone_come_back_on_their_base(tmp_path):
    profile = SMOKE.with_training(components=LORA_ALONE, keep="trained")
    model, processor = build_trained(profile)
    trainable.save_trained(model, model.state_dict(), processor, profile, tmp_path)

    assert (tmp_path / trainable.TRAINED_WEIGHTS).is_file() and not (tmp_path / "model.safetensors").exists()

    loaded, _ = trainable.load_trained(tmp_path)
    state = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_complete_model_has_the_lora_of_its_language_model_merged(tmp_path):
    profile = SMOKE.with_training(components=LORA_ALONE)
    model, processor = build_trained(profile)
    trainable.save_trained(model, model.state_dict(), processor, profile, tmp_path)

    assert not trainable.has_language_model_lora(model)
    keys = json.loads((tmp_path / "config.json").read_bytes())
    assert keys["lora_mode"] == "per_tile"
    assert (tmp_path / "model.safetensors").is_file()


def test_weights_of_another_profile_raise(tmp_path):
    profile = SMOKE.with_training(components=LORA_ALONE, keep="trained")
    model, processor = build_trained(profile)
    trainable.save_trained(model, model.state_dict(), processor, profile, tmp_path)

    # A larger LoRA than the one that was trained.
    other = profile.with_training(language_model_rank=profile.training.language_model_rank * 2)
    (tmp_path / trainable.PROFILE_FILE).write_text(other.model_dump_json())
    with pytest.raises(ValueError, match=r"lora_A.* has the shape .* profile\.json asks for"):
        trainable.load_trained(tmp_path)


def test_trained_weights_are_refused_on_another_base(tmp_path):
    profile = SMOKE.with_training(components=LORA_ALONE, keep="trained")
    model, processor = build_trained(profile)
    trainable.save_trained(model, model.state_dict(), processor, profile, tmp_path)

    # Frozen weights that come from no file are drawn by the seed.
    other = profile.with_seed(profile.training.seed + 1)
    (tmp_path / trainable.PROFILE_FILE).write_text(other.model_dump_json())
    with pytest.raises(ValueError, match="was trained on other weights than its base has now: restore them"):
        trainable.load_trained(tmp_path)


def test_digest_of_frozen_weights_knows_values_and_not_precision():
    profile = SMOKE.with_training(components=LORA_ALONE)
    model, _ = build_trained(profile)
    weights = dict(model.named_parameters())
    digest = trainable.frozen_digest(weights, profile)

    lower = {name: weight.bfloat16() for name, weight in weights.items()}
    assert trainable.frozen_digest(lower, profile) == digest

    changed = next(name for name in weights if name.endswith("proj.weight"))
    lower[changed] = lower[changed] * 1.1
    assert trainable.frozen_digest(lower, profile) != digest
