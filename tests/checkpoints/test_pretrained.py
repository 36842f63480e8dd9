"""A model from pretrained parts: tiny random ones in local folders, the real ones where they are fetched."""

import csv
import os
import string

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from monkeylib import assets, inference, profiles
from monkeylib.checkpoints import pretrained
from monkeylib.data import synthetic
from monkeylib.processing import normalisation
from monkeylib.profiles import build
from monkeylib.profiles.schema import HFVisionConfig, LanguageModelConfig
from monkeylib.training import finetune

ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 70,
    "patch_size": 14,
    "mlp_ratio": 2,
    "use_mask_token": False,
}
CHARACTERS = ["<unk>", "<|im_end|>", *string.printable]
LANGUAGE = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}


def tokenizer():
    characters = Tokenizer(models.WordLevel({c: i for i, c in enumerate(CHARACTERS)}, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=characters, eos_token="<|im_end|>", unk_token="<unk>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Parts of the classes of the profile `small`, saved as a hub has them."""
    path = tmp_path_factory.mktemp("parts")
    torch.manual_seed(3)
    AutoModel.from_config(AutoConfig.for_model("dinov2", **ENCODER)).save_pretrained(path / "encoder")
    text = AutoConfig.for_model("llama", **LANGUAGE, vocab_size=len(CHARACTERS))
    AutoModelForCausalLM.from_config(text).save_pretrained(path / "language")
    tokenizer().save_pretrained(path / "language")
    return path


def profile(folder, **encoder):
    """The profile `small`, shrunk to the sizes of `smoke` and to these parts."""
    small, smoke = profiles.load_profile("small"), profiles.load_profile("smoke")
    size = len(CHARACTERS)
    language_model = LanguageModelConfig(
        model_type="llama",
        config={**LANGUAGE, "vocab_size": size + 3},
        image_token_ids={"start": size, "end": size + 1, "placeholder": size + 2},
        pretrained=str(folder / "language"),
    )
    vision = HFVisionConfig(
        model_type="dinov2", config={**ENCODER, **encoder}, pretrained=str(folder / "encoder")
    )
    changes = {"tile_size": smoke.tile_size, "queries": 16, "resampler_heads": 2, "training": smoke.training}
    return small.model_copy(update={**changes, "vision": vision, "language_model": language_model})


def test_model_has_the_weights_of_its_components(folder):
    small_profile = profile(folder)
    processor = build.build_processor(small_profile)
    model = build.build_model(small_profile, processor)
    encoder = AutoModel.from_pretrained(folder / "encoder").state_dict()
    assert all(torch.equal(model.vision.backbone.state_dict()[name], encoder[name]) for name in encoder)

    language = AutoModelForCausalLM.from_pretrained(folder / "language").state_dict()
    loaded = model.language_model.state_dict()

    for name, tensor in language.items():
        assert torch.equal(loaded[name][: len(tensor)], tensor), name
    assert len(loaded["lm_head.weight"]) == len(CHARACTERS) + 3 == len(processor.tokenizer)
    assert model.config.image_token_id == len(CHARACTERS) + 2
    assert processor.layout.text_ids("<img>") == tokenizer()("<img>")["input_ids"], "typed tags stay text"

    mean, std = normalisation("dinov2")

    assert processor.image_processor.image_mean == list(mean) != list(normalisation("clip_vision_model")[0])


def test_model_of_pretrained_components_trains_loads_and_answers(folder, tmp_path):
    monkey = inference.load_model(finetune.run(profile(folder), tmp_path / "run"))
    assert monkey.processor.image_token_id == monkey.model.config.image_token_id
    assert monkey.model.vision.lora[0].query.lora_B.abs().max() > 0, "LoRA has learned"
    sample = synthetic.make_sample(0, "val")
    assert monkey.answer(sample.image, "what is the title?", max_new_tokens=4).tokens


def test_components_of_another_size_raise(folder):
    small_profile = profile(folder, num_hidden_layers=3)
    with pytest.raises(ValueError, match="does not fit the profile's encoder: encoder.layer.2.*is missing"):
        build.build_model(small_profile, build.build_processor(small_profile))


def test_missing_component_raises(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(assets, "locate", lambda asset: None)
    small_profile = profiles.load_profile("small")
    with pytest.raises(FileNotFoundError, match="no model hub gave it: run `monkeylib assets fetch smollm2"):
        build.build_processor(small_profile)
    with pytest.raises(FileNotFoundError, match="run `monkeylib assets fetch dinov2-small`"):
        pretrained.load_vision_backbone("facebook/dinov2-small", AutoConfig.for_model("dinov2", **ENCODER))


def test_complete_checkpoint_of_another_kind_raises():
    with pytest.raises(ValueError, match="paper-896 starts from Qwen/Qwen-VL.*monkeylib convert"):
        build.load_pretrained_tokenizer(profiles.load_profile("paper-896"))


@pytest.mark.skipif(
    "MONKEYLIB_SLOW_TESTS" not in os.environ, reason="takes minutes: set MONKEYLIB_SLOW_TESTS=1"
)
def test_profile_small_trains_twenty_steps_and_answers(tmp_path):
    for name in pretrained.ASSETS.values():
        assets.fetch(name)
    small = profiles.load_profile("small")
    training = small.training.model_copy(update={"steps": 20, "batch_size": 1, "warmup": 0.1})
    monkey = inference.load_model(
        finetune.run(small.model_copy(update={"training": training}), tmp_path / "run")
    )
    with (tmp_path / "run" / "metrics.csv").open() as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row.get("val/loss")]

    assert losses[-1] < losses[0]

    sample = synthetic.make_sample(0, "val", small.image_size)
    answer = monkey.answer(sample.image, sample.questions[0].question, max_new_tokens=20)
    print(f"loss {losses}; {sample.questions[0].question} -> {answer} ({sample.questions[0].answer})")

    assert answer.text
