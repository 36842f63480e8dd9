"""Conversion to the released layout and back."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from monkeylib import sizing
from monkeylib.checkpoints import convert
from monkeylib.checkpoints.key_map import build_key_map
from monkeylib.checkpoints.loading import load_checkpoint, load_processor
from monkeylib.checkpoints.released_config import config_from_released, config_to_released
from monkeylib.experiments import parity
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.resampler import Resampler
from monkeylib.model.tile_lora import tile_loras
from tests.support.released_files import golden_settings, read, same, write


@pytest.mark.parametrize("suffix, shards", [(".bin", 3), (".safetensors", 2), (".bin", 1)])
def test_folder_converts_and_comes_back_bit_for_bit(suffix, shards, tmp_path):
    weights = parity.released_weights()
    in_fp32 = "transformer.visual.attn_pool.pos_embed"
    weights = {key: tensor if key == in_fp32 else tensor.bfloat16() for key, tensor in weights.items()}
    source = write(tmp_path / "source", golden_settings(), weights, shards, suffix)
    convert.convert_from_released(source, tmp_path / "converted")
    convert.convert_to_released(tmp_path / "converted", tmp_path / "back")
    before, after = read(source), read(tmp_path / "back")

    assert before.keys() == after.keys() and all(same(before[name], after[name]) for name in before)

    # Files that are not weights come back as well.
    names = sorted(path.name for path in source.iterdir())

    assert names == sorted(path.name for path in (tmp_path / "back").iterdir())

    for name in names:
        if name.endswith(".json"):
            first, second = (
                json.loads((folder / name).read_text()) for folder in (source, tmp_path / "back")
            )
            assert first == second

    for name in ("qwen.tiktoken", "configuration_qwen.py"):
        assert (source / name).read_bytes() == (tmp_path / "back" / name).read_bytes()


def test_converted_folder_and_the_released_one_give_the_same_model(golden, tmp_path):
    convert.convert_from_released(golden, tmp_path / "converted")
    converted = load_checkpoint(tmp_path / "converted")
    direct = load_checkpoint(golden)
    assert direct.dtype == torch.bfloat16 and same(converted.state_dict(), direct.state_dict())

    single = load_checkpoint(golden, dtype=torch.float32)

    assert {tensor.dtype for tensor in single.state_dict().values()} == {torch.float32}


def test_model_that_was_trained_on_is_written_in_the_released_layout(golden, tmp_path):
    model = load_checkpoint(golden)
    with torch.no_grad():
        model.vision.blocks[0].mlp_lora.scaling[2] = 3
    model.save_pretrained(tmp_path / "trained")
    load_processor(golden).save_pretrained(tmp_path / "trained")
    convert.convert_to_released(tmp_path / "trained", tmp_path / "back")
    again = load_checkpoint(tmp_path / "back")

    assert same(again.state_dict(), model.state_dict())

    changed = read(tmp_path / "back")["pytorch_model.bin"]

    assert changed["transformer.visual.transformer.resblocks.0.mlp_lora.2.lora_scale"] == torch.tensor([3.0])


def test_failed_conversion_leaves_no_files(golden, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_write_index", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert.convert_from_released(golden, tmp_path / "new" / "converted")
    assert list((tmp_path / "new").iterdir()) == []


def test_existing_folder_raises(golden):
    with pytest.raises(FileExistsError, match="exists already"):
        convert.convert_from_released(golden, golden)


def test_folder_is_checked_before_it_is_converted_back(golden, tmp_path):
    convert.convert_from_released(golden, tmp_path / "converted")
    file = tmp_path / "converted" / "model-00001-of-00003.safetensors"
    tensors = load_file(file)
    save_file({f"x.{name}" if name == min(tensors) else name: t for name, t in tensors.items()}, file)
    with pytest.raises(ValueError, match=f"do not agree on {min(tensors)}, x.{min(tensors)}"):
        convert.convert_to_released(tmp_path / "converted", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        convert.convert_to_released(tmp_path / "nowhere", tmp_path / "back")


def test_converted_folder_has_the_released_processor(golden, tmp_path):
    convert.convert_from_released(golden, tmp_path / "converted")
    processor = load_processor(tmp_path / "converted")
    assert (processor.queries, processor.separator) == (256, " ")
    assert (processor.image_processor.tile_size, *processor.image_processor.grid) == (448, 2, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_converted_in_neither_direction(value, golden, tmp_path):
    convert.convert_from_released(golden, tmp_path / "converted")
    file = tmp_path / "converted" / "model-00002-of-00003.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    tensors[name].view(-1)[3] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{name} in .*{file.name} holds 1 of .* not finite"):
        convert.convert_to_released(tmp_path / "converted", tmp_path / "back")

    shard = golden / "pytorch_model-00002-of-00003.bin"
    tensors = torch.load(shard)
    key = min(tensors)
    tensors[key].view(-1)[3] = value
    torch.save(tensors, shard)
    with pytest.raises(ValueError, match=f"{key} in .*{shard.name} holds 1 of .* not finite"):
        convert.convert_from_released(golden, tmp_path / "again")

    assert not (tmp_path / "back").exists() and not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["../../evil.bin", "/tmp/evil.bin", "config.json", "", 5, "evil.py"])
def test_list_of_files_that_leads_out_of_the_folder_writes_nothing(name, golden, tmp_path):
    convert.convert_from_released(golden, tmp_path / "converted")
    file = tmp_path / "converted" / "released" / "weight_map.json"
    file_of = json.loads(file.read_text())
    file.write_text(json.dumps(file_of | {min(file_of): name}))

    with pytest.raises(ValueError, match="weight_map.json names the file .*: expected the name of a"):
        convert.convert_to_released(tmp_path / "converted", tmp_path / "back")
    assert not (tmp_path / "back").exists() and not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("grid", [(1, 1), (2, 1), (2, 3), (3, 1)])
def test_model_of_any_grid_goes_to_the_released_layout_and_back(grid, golden, tmp_path):
    model, processor = model_of_grid(grid, golden)
    model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")

    convert.convert_to_released(tmp_path / "trained", tmp_path / "released")
    convert.convert_from_released(tmp_path / "released", tmp_path / "again")

    # Both layouts give the same model, on the same grid, without naming it.
    for folder in (tmp_path / "released", tmp_path / "again"):
        loaded = load_checkpoint(folder)
        assert same(loaded.state_dict(), model.state_dict())
        assert loaded.config.grids == [list(grid)]
        assert tuple(load_processor(folder).image_processor.grid) == grid

    settings = json.loads((tmp_path / "released" / "config.json").read_text())
    assert settings["visual"]["lora_repeat_num"] == grid[0] * grid[1]
    assert settings["visual"]["image_size"] == 448 * max(grid)

    # And again, so that a folder which came back can be converted as often as one likes.
    convert.convert_to_released(tmp_path / "again", tmp_path / "released-again")
    assert json.loads((tmp_path / "released-again" / "config.json").read_text()) == settings
    assert same_files(tmp_path / "released", tmp_path / "released-again")


def model_of_grid(grid, golden):
    """Return a model with LoRA of each tile of a grid, as training saves it, and its processor."""
    base = load_checkpoint(golden)
    config = copy.deepcopy(base.config)
    config.grids = [list(grid)]
    torch.manual_seed(0)
    model = MonkeyForConditionalGeneration(config).to(base.dtype).eval()
    for lora in tile_loras(model.vision):
        with torch.no_grad():
            lora.lora_B.normal_()
            lora.scaling.uniform_()

    processor = load_processor(golden)
    processor.image_processor.rows, processor.image_processor.cols = grid
    return model, processor


def same_files(first, second):
    before, after = read(first), read(second)
    return before.keys() == after.keys() and all(same(before[name], after[name]) for name in before)


def test_resampler_as_wide_as_the_encoder_has_no_kv_proj(tmp_path):
    """The released code then has `nn.Identity` in its place, and no key."""
    settings = golden_settings(width=128, heads=2)
    shapes = {entry.released_key: entry.shape for entry in build_key_map(config_from_released(settings))}
    assert "transformer.visual.attn_pool.kv_proj.weight" not in shapes
    generator = torch.Generator().manual_seed(0)
    weights = {key: torch.randn(shape, generator=generator) * 0.05 for key, shape in shapes.items()}
    source = write(tmp_path / "source", settings, weights)

    model = load_checkpoint(source)
    assert isinstance(model.resampler.kv_proj, torch.nn.Identity)
    tokens = model.get_image_features(torch.randn(1, 3, 448, 448, generator=generator))
    assert tokens.shape == (1, 256, 128) and bool(tokens.isfinite().all())
    assert sizing.count_parameters(model.config) == sizing.count_in_model(model)

    convert.convert_from_released(source, tmp_path / "converted")
    convert.convert_to_released(tmp_path / "converted", tmp_path / "back")
    assert same(load_checkpoint(tmp_path / "converted").state_dict(), model.state_dict())
    assert same_files(source, tmp_path / "back")

    # A model of the library's own with such a projection has no place for it there.
    config = copy.deepcopy(model.config)
    config.resampler_config.kv_proj = True
    with pytest.raises(ValueError, match="cannot hold this model: its kv_proj is True"):
        config_to_released(config)

    config.resampler_config.kv_proj = False
    config.text_config.hidden_size = 256
    with pytest.raises(ValueError, match="without kv_proj needs a ViT as wide as the language model"):
        Resampler(config)
