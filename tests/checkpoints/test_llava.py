"""Monkey on LLaVA-1.5, against transformers' own LLaVA with tiny random weights."""

import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from monkeylib import profiles
from monkeylib.checkpoints import llava
from monkeylib.data.inspect import count_tokens
from monkeylib.data.records import Record
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.profiles import build
from monkeylib.profiles.schema import HFVisionConfig, LanguageModelConfig
from monkeylib.prompts import build_prompt
from monkeylib.training.batches import ExampleEncoder

PLACE = 55


def config(**changes):
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            vocab_size=60,
        ),
        image_token_index=PLACE,
        image_seq_length=16,
        **changes,
    )


@pytest.fixture(scope="module")
def llava_model():
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config()).eval()


OLD = {  # the names that transformers wrote before 4.52, and between 4.52 and 5
    "first": [
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ],
    "second": [("model.vision_tower.", "model.vision_tower.vision_model.")],
    "of today": [],
}


@pytest.fixture(scope="module", params=OLD)
def folder(request, llava_model, tmp_path_factory):
    """The tiny LLaVA saved under the names of one time."""
    path = tmp_path_factory.mktemp("llava")
    llava_model.save_pretrained(path)
    if OLD[request.param]:
        tensors = {}
        for name, tensor in llava_model.state_dict().items():
            prefixes = [(new, old) for new, old in OLD[request.param] if name.startswith(new)]
            for new, old in prefixes:
                name = old + name.removeprefix(new)
            tensors[name] = tensor.clone()
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        assert len(load_file(path / "model.safetensors")) == len(llava_model.state_dict())

    return path


def views(count, side=56):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_one_tile_gives_the_logits_of_llava(llava_model, folder):
    model = llava.load_llava(folder, views="global", lora_mode="none").eval()
    ids = torch.tensor([[1, 7, *[PLACE] * 16, 9, 11, 4], [1, *[PLACE] * 16, 3, 2, 6, 8]])
    expected = llava_model(input_ids=ids, pixel_values=views(2)).logits
    assert torch.allclose(model(input_ids=ids, pixel_values=views(2)).logits, expected, atol=1e-5)
    assert len(model.vision.backbone.encoder.layers) == 2, "the last block is not read"


@torch.no_grad()
def test_with_fresh_lora_each_tile_gives_the_features_of_llava(llava_model, folder):
    model = llava.load_llava(folder, grids=[[2, 2]]).eval()
    tokens = model.get_image_features(views(5), torch.tensor([[2, 2]]))
    expected = llava_model.get_image_features(views(5)).pooler_output
    assert torch.allclose(tokens, torch.stack(list(expected)), atol=1e-5)
    assert tokens.shape == (5, 16, 48)
    assert {len(block_lora.query.lora_A) for block_lora in model.vision.lora} == {4}


def test_smaller_tiles_have_fewer_tokens_and_train(llava_model, folder):
    model = llava.load_llava(folder, grids=[[2, 2]], tile_size=28).train()
    assert model.config.queries == 4

    model.freeze_for_finetuning()
    # Five views of four visual tokens.
    ids = torch.tensor([[1, *[PLACE] * 20, 9, 11]])
    labels = torch.tensor([[IGNORE_INDEX] * 22 + [11]])
    model(
        input_ids=ids, labels=labels, pixel_values=views(5, 28), grids=torch.tensor([[2, 2]])
    ).loss.backward()

    assert model.vision.lora[1].mlp.lora_B.grad.abs().max() > 0
    assert model.resampler.linear_1.weight.grad.abs().max() > 0
    assert all(not parameter.requires_grad for parameter in model.vision.backbone.parameters())


@torch.no_grad()
def test_model_survives_saving(llava_model, folder, tmp_path):
    model = llava.load_llava(folder, grids=[[2, 2]]).eval()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    ids = torch.tensor([[1, *[PLACE] * 80, 9]])
    inputs = {"input_ids": ids, "pixel_values": views(5), "grids": torch.tensor([[2, 2]])}

    assert torch.equal(model(**inputs).logits, again(**inputs).logits)

    generated = again.generate(**inputs, max_new_tokens=3, do_sample=False)

    assert generated.shape[1] <= 85
    assert json.loads((tmp_path / "config.json").read_text())["image_start_id"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_feature_select_strategy": "full"},
        {"vision_feature_layer": [-2, -1]},
        {"multimodal_projector_bias": False},
    ],
)
def test_another_llava_raises(changes):
    with pytest.raises(ValueError, match="only LLaVA-1.5 is supported"):
        llava.config_from_llava(config(**changes), grids=[[2, 2]])


def test_missing_llava_raises(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="no-such is no local folder with a model.*connect to a hub"):
        llava.load_llava(tmp_path / "no-such", grids=[[2, 2]])


def tokenizer():
    """Characters, and `<image>` as the last token, as in LLaVA-1.5."""
    pieces = ["<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz :?.,-0123456789", *"ABCDEFGHIJ"]
    words = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words.add_special_tokens([AddedToken("<image>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>")


def llava_processor():
    """The processor of one view that asks as LLaVA-1.5 does."""
    images, words = MonkeyImageProcessor(56, views="global", resize_mode="pad"), tokenizer()
    words.pad_token = words.eos_token
    prompt_prefix = "</s>USER: "  # the tiny tokenizer's only other special token stands for Vicuna's <s>
    return MonkeyProcessor(images, words, 16, image_tokens=("<image>",), prompt_prefix=prompt_prefix)


@torch.no_grad()
def test_prompt_has_the_ids_of_llava(llava_model, folder, make_image):
    """From image and text to logits: the same as transformers' own processors and model."""
    model = llava.load_llava(folder, views="global", lora_mode="none").eval()
    llava_model = deepcopy(llava_model)
    model.config.image_token_id = llava_model.config.image_token_id = len(tokenizer()) - 1
    processor = llava_processor()
    inputs = processor(images=make_image(), text=build_prompt("llava", "what?"))
    size = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    pixels = LlavaImageProcessorPil(**size, do_pad=True)(make_image(), return_tensors="pt")["pixel_values"]
    text = "</s>USER: " + "<image>" * 16 + "\nwhat? ASSISTANT:"
    ids = torch.tensor([tokenizer()(text)["input_ids"]])

    assert torch.equal(inputs["input_ids"], ids)

    expected = llava_model(input_ids=ids, pixel_values=pixels).logits

    assert torch.allclose(model(**inputs).logits, expected, atol=1e-4)


def test_training_example_begins_with_the_prompt(make_image):
    processor = llava_processor()
    prompt = build_prompt("llava", "what?")
    row = ExampleEncoder(processor, 100).encode(
        Record.from_turns("0", (make_image(),), ((prompt, "a cat"),), "x", "x")
    )
    prompt_ids = processor(images=make_image(), text=prompt)["input_ids"][0]
    assert torch.equal(row.input_ids[: len(prompt_ids)], prompt_ids)
    assert (row.labels[: len(prompt_ids)] == IGNORE_INDEX).all() and row.num_labels == len("a cat") + 1
    assert count_tokens(row.record, processor) == len(row)


def test_profile_builds_llava_with_its_own_image_token(llava_model, make_image, tmp_path):
    llava_model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    place = len(tokenizer()) - 1
    profile = profiles.load_profile("llava-448")
    vision = llava_model.config.vision_config.to_dict() | {"num_hidden_layers": 2}
    text = llava_model.config.text_config.to_dict()
    profile = profile.model_copy(
        update={
            "tile_size": 28,
            "queries": 4,
            "vision": HFVisionConfig(model_type=vision.pop("model_type"), config=vision),
            "language_model": LanguageModelConfig(
                model_type=text.pop("model_type"),
                config=text,
                image_token_ids={"start": None, "end": None, "placeholder": place},
                pretrained=str(tmp_path),
            ),
        }
    )
    language_model = profile.language_model.model_copy(update={"prompt_prefix": "</s>"})
    profile = profile.model_copy(update={"language_model": language_model})
    processor = build.build_processor(profile)

    assert processor.image_ids() == [place] * 20
    assert (
        processor.layout.prefix_ids() == [tokenizer().eos_token_id]
        and processor.image_processor.resize_mode == "pad"
    )

    processor.save_pretrained(tmp_path / "converted")
    processor = MonkeyProcessor.from_pretrained(tmp_path / "converted")
    model = build.build_model(profile, processor).eval()

    assert model.config.text_config.vocab_size == 60, "rows without a token stay"
    assert Monkey(model, processor).answer(make_image(), "what?", max_new_tokens=3).tokens
