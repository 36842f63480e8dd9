from importlib.util import find_spec
from unittest import mock

import pytest
from transformers import LlamaConfig, Qwen2VLConfig

from monkeylib.raising import raise_resolution, set_trainable
from monkeylib.raising.bases import (
    load_base,
    load_base_processor,
    modules_beside_language_model,
    quantize_language_model,
)
from tests.raising.conftest import noise_image
from tests.support import tiny_vlms
from tests.support.raised_models import CHAT_TEMPLATE, save_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "llava")


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    """A base with layers as wide as a block of 4-bit weights, which bitsandbytes needs on some CPUs."""
    with mock.patch.dict(tiny_vlms.TEXT, hidden_size=64, intermediate_size=64):
        return save_base(tmp_path_factory.mktemp("wide") / "llava")


def test_base_is_loaded_with_its_processor(folder):
    assert type(load_base(folder)).__name__ == "LlavaForConditionalGeneration"
    processor = load_base_processor(folder)
    assert type(processor).__name__ == "LlavaProcessor" and processor.chat_template == CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LlamaConfig(), "of the type llama, which answers no questions about images"),
        (Qwen2VLConfig(), "cannot be raised: it reads images of any size"),
    ],
    ids=["no images", "any size"],
)
def test_other_models_are_refused_before_their_weights_are_read(config, message, tmp_path):
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_base(tmp_path)


def test_missing_base_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no base model at .*missing: expected a folder with config"):
        load_base(tmp_path / "missing")


def test_language_model_alone_is_quantised(folder):
    names = modules_beside_language_model(load_base(folder).config)
    assert names == [
        "lm_head",
        "model.multi_modal_projector.linear_1",
        "model.multi_modal_projector.linear_2",
        "model.vision_tower",
    ]


def test_quantising_needs_bitsandbytes(folder):
    with pytest.raises(ValueError, match="4 or 8 bits, got 3"):
        quantize_language_model(load_base(folder).config, 3)
    if find_spec("bitsandbytes") is None:
        with pytest.raises(ModuleNotFoundError, match="needs the package bitsandbytes"):
            load_base(folder, bits=4)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is optional")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_base_is_raised_and_trained(bits, wide_folder):
    base = load_base(wide_folder, bits, device_map={"": "cpu"})
    raised = raise_resolution(base, load_base_processor(wide_folder), rank=2)
    set_trainable(raised.model)

    quantised = {
        name
        for name, module in raised.model.named_modules()
        if type(module).__module__.startswith("bitsandbytes")
    }
    assert quantised and all(name.startswith("model.language_model.layers.") for name in quantised)

    inputs = raised.processor(images=noise_image(), text="<image>ab", return_tensors="pt")
    inputs = inputs.to(raised.model.device, raised.model.dtype)
    raised.model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name, parameter in raised.model.named_parameters():
        # At the start, factor B is 0, so that A gets no gradient but zeros.
        learns = name.endswith("lora_B") or "multi_modal_projector" in name
        if learns:
            assert parameter.grad.abs().max() > 0, name
        assert "language_model" not in name or parameter.grad is None

    answer = raised.model.generate(**inputs, max_new_tokens=2, do_sample=False, min_new_tokens=2)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 2
