import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from accelerate import infer_auto_device_map
from transformers.utils import logging

import monkeylib
from monkeylib import profiles, resources
from monkeylib.evaluation import hf_models
from monkeylib.model import build_on_meta, cpu
from monkeylib.profiles import build
from monkeylib.raising.bases import load_base
from monkeylib.tiling import Grid
from tests.support.answers import assert_same
from tests.support.raised_models import save_base


def test_quantised_loading_without_bitsandbytes_raises(monkeypatch, monkey, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="in 4 bits needs the package bitsandbytes"):
        monkeylib.load_model(tmp_path, bits=4)
    with pytest.raises(ValueError, match="4 or 8 bits, got 3"):
        monkeylib.load_model(tmp_path, bits=3)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is optional")
@pytest.mark.parametrize("bits", [4, 8])
def test_only_the_language_model_is_quantised(bits, make_image):
    # Not a tiny one: bitsandbytes needs layers as wide as a block of 4-bit weights on some CPUs.
    loaded = monkeylib.load_model(resources.models() / "nano-monkey", device="cpu", bits=bits)
    kinds = {type(m).__name__ for m in loaded.model.language_model.model.modules()}
    assert {4: "Linear4bit", 8: "Linear8bitLt"}[bits] in kinds
    assert not any(
        "bit" in type(m).__name__ for m in (*loaded.model.vision.modules(), *loaded.model.resampler.modules())
    )
    assert loaded.answer(make_image(), "What?", max_new_tokens=4).tokens


def test_device_map_spreads_a_checkpoint_over_devices(monkey, make_image, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    loaded = monkeylib.load_model(tmp_path, device_map="auto")
    assert_same(
        [loaded.answer(make_image(), "What?", max_new_tokens=8)],
        [monkey.answer(make_image(), "What?", max_new_tokens=8)],
    )


def test_bfloat16_checkpoint_answers(monkey, make_image, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    loaded = monkeylib.load_model(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.answer(make_image(), "What?", max_new_tokens=4).tokens


@pytest.mark.parametrize(("speed", "expected"), [(0.02, torch.float32), (2.0, torch.float16)])
def test_float16_checkpoint_is_computed_in_what_the_cpu_is_faster_in(
    monkey, make_image, tmp_path, monkeypatch, capsys, speed, expected
):
    monkey.model.half().save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    monkeypatch.setattr(cpu, "relative_speed", lambda dtype: 1.0 if dtype == torch.float32 else speed)

    loaded = monkeylib.load_model(tmp_path, device="cpu")
    assert {weight.dtype for weight in loaded.model.parameters()} == {expected}
    said = capsys.readouterr().err
    if expected == torch.float32:
        assert (
            "weights in float16 are computed in float32, which this CPU multiplies 50 times as fast" in said
        )
        assert loaded.answer(make_image(), "What?", max_new_tokens=2).tokens
    else:
        assert said == ""

    # What is named is obeyed.
    assert monkeylib.load_model(tmp_path, device="cpu", dtype="float16").model.dtype == torch.float16


def test_float16_base_of_transformers_is_computed_in_float32_too(tmp_path, monkeypatch, capsys):
    base = save_base(tmp_path / "base")
    load_base(base).half().save_pretrained(base)
    monkeypatch.setattr(cpu, "relative_speed", lambda dtype: 1.0 if dtype == torch.float32 else 0.02)

    raised = monkeylib.load_model(tmp_path / "base", device="cpu", grid="1x2")
    assert {weight.dtype for weight in raised.model.parameters()} == {torch.float32}
    peer = hf_models.load_image_text_model(tmp_path / "base", device="cpu")
    assert peer.model.dtype == torch.float32
    assert capsys.readouterr().err.count("weights in float16 are computed in float32") == 2

    named = monkeylib.load_model(tmp_path / "base", device="cpu", grid="1x2", dtype="float16")
    assert named.model.dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_dtype_may_be_named(dtype, monkey, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    assert monkeylib.load_model(tmp_path, device="cpu", dtype=dtype).model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "options, message",
    [
        ({"device": "gpu"}, "the device 'gpu' is not there"),
        ({"device": "meta:x"}, "the device 'meta:x' is not there"),
        ({"device": 2.5}, "the device 2.5 is not there"),
        ({"device": "cpu", "device_map": "auto"}, "one device .* spreads it: give one of them"),
        ({"dtype": "float33"}, "no dtype 'float33': expected float32, bfloat16 or float16"),
        ({"dtype": torch.int8}, "no dtype torch.int8"),
        ({"dtype": 16}, "no dtype 16"),
        ({"bits": "4"}, "4 or 8 bits"),
    ],
)
def test_option_that_cannot_be_obeyed_raises(options, message, monkey, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message) as raised:
        monkeylib.load_model(tmp_path, **options)
    assert "\n" not in str(raised.value)


def test_unknown_option_raises(tmp_path):
    with pytest.raises(TypeError, match="torch_dtype"):
        monkeylib.load_model(tmp_path, torch_dtype=torch.bfloat16)


def test_saved_checkpoint_gives_the_same_answer(monkey, make_image, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    loaded = monkeylib.load_model(tmp_path, device="cpu")
    assert not loaded.model.training
    assert_same(
        [loaded.answer(make_image(), "What?", max_new_tokens=8)],
        [monkey.answer(make_image(), "What?", max_new_tokens=8)],
    )


def test_folder_without_checkpoint_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*nothing"):
        monkeylib.load_model(tmp_path / "nothing")


def test_device_map_splits_the_model_between_blocks():
    """The paper's model with fewer blocks: a module with a residual connection stays on one device."""
    config = profiles.build_config(profiles.load_profile("paper-896"))
    config.vision_config.layers = 6
    config.text_config.num_hidden_layers = 6
    config.text_config.vocab_size = 1000
    config.text_config.pad_token_id = 0
    model = build_on_meta(config)

    sizes = {}
    for name, module in model.named_modules():
        sizes[name] = sum(parameter.nbytes for parameter in module.parameters())
    reserved = sizes["language_model.model.layers.0"]  # on the first device, for weights that are moved there
    room = {0: sizes["vision"] * 2 // 3 + reserved, 1: sizes["vision"], 2: sizes[""]}
    places = infer_auto_device_map(model, room, model._no_split_modules)

    assert set(places.values()) == {0, 1, 2}

    unsplittable = [*model.vision.blocks, *model.language_model.model.layers, model.resampler]
    names = [name for name, module in model.named_modules() if module in unsplittable]

    assert len(names) == 13
    for name in names:
        assert not any(place.startswith(f"{name}.") for place in places)


def test_import_is_fast():
    program = "import time, torch; start = time.process_time(); import monkeylib; "
    program += "print(time.process_time() - start)"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert float(output) < 1


def test_import_loads_no_heavy_package():
    heavy = "torch transformers lightning ray gradio".split()
    program = f"import sys, monkeylib; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert output.strip() == "[]"


def test_saving_and_loading_print_nothing_in_a_log(monkey, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(logging, "_tqdm_active", True)
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    monkeylib.load_model(tmp_path, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_checkpoint_takes_another_grid(monkey, tmp_path, make_image):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    wide = monkeylib.load_model(tmp_path, device="cpu", grid="1x2")
    assert wide.grid == Grid(1, 2)


def test_images_are_prepared_in_bytes_where_that_is_asked_for(monkey, tmp_path, make_image):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    in_bytes = monkeylib.load_model(tmp_path, device="cpu", exact=False)
    assert in_bytes.processor.image_processor(make_image())["pixel_values"].dtype == torch.uint8
    assert monkeylib.load_model(tmp_path, device="cpu").processor.image_processor.exact
    assert in_bytes.answer(make_image(), "what?", max_new_tokens=2).text


def test_base_is_raised_to_the_grid_that_is_named(tmp_path, make_image):
    llava_base = save_base(tmp_path / "llava")
    monkey = monkeylib.load_model(llava_base, device="cpu", grid="1x2")
    assert monkey.answer(make_image(1), "what", max_new_tokens=1).visual_tokens == 12
    with pytest.raises(ValueError, match="no adapters for the tiles of 3x3"):
        monkey.answer(make_image(1), "what", grid="3x3")
    with pytest.raises(ValueError, match="no adapters for the tiles of 3x3"):
        monkey.with_grid("3x3")
    with pytest.raises(ValueError, match="give it a grid"):
        monkeylib.load_model(llava_base)
