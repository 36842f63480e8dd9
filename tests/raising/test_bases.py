from importlib.util import find_spec

import pytest
from transformers import LlamaConfig, Qwen2VLConfig

from monkeylib.raising.bases import (
    load_base,
    load_base_processor,
    modules_beside_language_model,
    quantize_language_model,
)
from tests.support.raised_models import CHAT_TEMPLATE, save_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "llava")


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
