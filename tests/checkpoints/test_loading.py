"""Loading a folder of either layout, or its processor alone."""

import shutil

import pytest
import torch

import monkeylib
from monkeylib.checkpoints import convert, released
from monkeylib.checkpoints.loading import load_checkpoint, load_processor
from monkeylib.tiling import Grid


def test_missing_or_different_vocabulary_raises(golden, tmp_path):
    shutil.copy(golden / "config.json", tmp_path)
    (golden / "qwen.tiktoken").write_bytes(
        b"\n".join((golden / "qwen.tiktoken").read_bytes().split(b"\n")[:280])
    )
    with pytest.raises(ValueError, match="gives <img> the id 494, config.json says 500"):
        monkeylib.load_model(golden)

    (golden / "qwen.tiktoken").unlink()

    with pytest.raises(FileNotFoundError, match="no vocabulary"):
        convert.convert_from_released(golden, tmp_path / "converted")


def test_processor_loads_without_the_weights(golden, make_image):
    inputs = monkeylib.load_model(golden, device="cpu").processor(images=make_image(), text="<img> what?")
    for file in golden.glob("*.bin*"):
        file.unlink()
    processor = load_processor(golden)
    assert (processor.queries, processor.separator, processor.image_start_id) == (256, " ", 500)

    again = processor(images=make_image(), text="<img> what?")

    assert inputs.keys() == again.keys() and all(torch.equal(inputs[name], again[name]) for name in inputs)
    with pytest.raises(ValueError, match="LoRA for 4 tiles .* the grid 2x3 has 6"):
        released.load_released_processor(golden, grid=Grid(2, 3))


def test_device_map_needs_a_converted_folder(golden):
    for option in ({"device_map": "auto"}, {"quantization_config": {}}):
        with pytest.raises(
            ValueError, match=f"loaded without {next(iter(option))}: convert it first with `monkeylib convert"
        ):
            load_checkpoint(golden, **option)
