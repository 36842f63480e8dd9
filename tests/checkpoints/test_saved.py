"""Folders in monkeylib's layout: what is checked, and that sound ones load."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from monkeylib.checkpoints import saved
from monkeylib.checkpoints.loading import load_checkpoint, load_processor
from monkeylib.model import MonkeyForConditionalGeneration
from tests.support.hostile_checkpoints import WEIGHTS, field


def test_sound_checkpoint_loads_as_transformers_loads_it(sound, sound_model):
    loaded = load_checkpoint(sound)
    reference = MonkeyForConditionalGeneration.from_pretrained(sound)
    state = sound_model.state_dict()

    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert loaded.generation_config.to_dict() == reference.generation_config.to_dict()
    assert loaded.config.to_dict() | {"_name_or_path": ""} == reference.config.to_dict() | {
        "_name_or_path": ""
    }


def test_weights_of_two_files_and_of_torch_load(sound, tmp_path, sound_model):
    state = sound_model.state_dict()
    weights = load_file(sound / WEIGHTS)

    shards = shutil.copytree(sound, tmp_path / "shards")
    (shards / WEIGHTS).unlink()
    names = sorted(weights)
    file_of = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(names)}
    for file in set(file_of.values()):
        save_file({name: weights[name] for name in names if file_of[name] == file}, shards / file)
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))

    pickled = shutil.copytree(sound, tmp_path / "pickled")
    (pickled / WEIGHTS).unlink()
    torch.save(weights, pickled / "pytorch_model.bin")

    for folder in (shards, pickled):
        loaded = load_checkpoint(folder).state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())

    assert load_checkpoint(pickled, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_processor_is_checked_without_the_weights(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "model")
    (folder / WEIGHTS).unlink()
    assert load_processor(folder).queries == 16


def test_base_of_another_kind_of_model_is_refused(sound, tmp_path):
    """Its tensors have the same shapes: it would compute something else."""
    folder = shutil.copytree(sound, tmp_path / "model")
    config = saved.read_config(folder)
    heads = config.resampler_config.heads
    field("config.json", "resampler_config.heads", 2 * heads)(folder)

    with pytest.raises(ValueError, match=f"resampler_config.heads, is {2 * heads}, the profile asks for"):
        saved.open_saved(folder, config)
    assert saved.open_saved(folder).config.resampler_config.heads == 2 * heads


def test_base_may_lack_lora_alone(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "model")
    config = saved.read_config(folder)
    weights = load_file(folder / WEIGHTS)
    save_file({name: tensor for name, tensor in weights.items() if "_lora." not in name}, folder / WEIGHTS)

    checkpoint = saved.open_saved(folder, config)
    assert not any("_lora." in name for name in checkpoint.weights.shapes)
    with pytest.raises(ValueError, match="lack vision.*_lora"):
        saved.open_saved(folder)
