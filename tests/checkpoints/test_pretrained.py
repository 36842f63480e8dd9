"""A model from pretrained parts: tiny random ones in local folders, the real ones where they are fetched."""

import csv
import os
import string

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from monkeylib import assets, inference, profiles
from monkeylib.checkpoints import dinov2_onnx, pretrained
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
    assert isinstance(monkey.answer(sample.image, "what is the title?", max_new_tokens=4), str)


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


def as_onnx(path, state):
    """A file with the names that an export of DINOv2 from an older transformers has."""
    old = [(new, was) for was, new in dinov2_onnx._RENAMED.items()]
    initialisers, nodes = [], []

    def add(name, tensor):
        initialisers.append(numpy_helper.from_array(np.ascontiguousarray(tensor.numpy()), name))

    for number, (name, tensor) in enumerate(state.items()):
        for new, was in old:
            name = name.replace(new, was)
        if name == "embeddings.position_embeddings":
            for kind, piece in (("Concat", tensor[:, :1]), ("Reshape", tensor[:, 1:])):
                add(f"onnx::{kind}_{number}", piece)
                nodes.append(
                    helper.make_node(
                        kind, [f"onnx::{kind}_{number}", "x"], ["y"], f"/backbone/embeddings/{kind}_6"
                    )
                )
        elif name.endswith(".weight") and tensor.ndim == 2:
            add(f"onnx::MatMul_{number}", tensor.T)
            scope = name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            nodes.append(
                helper.make_node(
                    "MatMul", ["x", f"onnx::MatMul_{number}"], ["y"], f"/backbone/{scope}/MatMul"
                )
            )
        else:
            add(f"backbone.{name}", tensor)

    onnx.save(helper.make_model(helper.make_graph(nodes, "tiny", [], [], initialisers)), path)


def test_dinov2_is_read_from_onnx(folder, tmp_path):
    state = AutoModel.from_pretrained(folder / "encoder").state_dict()
    as_onnx(tmp_path / "model.onnx", state)
    read = dinov2_onnx.read_onnx(tmp_path / "model.onnx")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_another_onnx_file_raises(tmp_path):
    as_onnx(tmp_path / "model.onnx", {"layernorm.weight": torch.ones(3)})
    with pytest.raises(ValueError, match="holds no DINOv2"):
        dinov2_onnx.read_onnx(tmp_path / "model.onnx")


@pytest.mark.skipif(
    assets.locate(assets.find("dinov2-small")) is None, reason="needs `monkeylib assets fetch dinov2-small`"
)
def test_fetched_dinov2_gives_the_features_of_its_onnx_file(tmp_path):
    import onnxruntime

    file = assets.fetch("dinov2-small")
    graph, last = onnx.load(file), "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(helper.make_empty_tensor_value_info(last))
    onnx.save(graph, tmp_path / "with_features.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "with_features.onnx", providers=["CPUExecutionProvider"]
    )
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    (expected,) = session.run([last], {"input_image": pixels})
    config = profiles.build_config(profiles.load_profile("small")).vision_config
    encoder = pretrained.load_vision_backbone("facebook/dinov2-small", config).eval()
    with torch.no_grad():
        features = encoder(torch.from_numpy(pixels)).last_hidden_state

    assert np.abs(features.numpy() - expected).max() < 1e-3


@pytest.mark.skipif(
    "MONKEYLIB_SLOW_TESTS" not in os.environ, reason="takes minutes: set MONKEYLIB_SLOW_TESTS=1"
)
def test_profile_small_trains_twenty_steps_and_answers(tmp_path):
    for name in pretrained.ASSETS.values():
        assets.fetch(name)
    small = profiles.load_profile("small")
    training = small.training.model_copy(update={"steps": 20, "batch_size": 1, "warmup": 2})
    monkey = inference.load_model(
        finetune.run(small.model_copy(update={"training": training}), tmp_path / "run")
    )
    with (tmp_path / "run" / "metrics.csv").open() as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row.get("val/loss")]

    assert losses[-1] < losses[0]

    sample = synthetic.make_sample(0, "val", small.image_size)
    answer = monkey.answer(sample.image, sample.questions[0].question, max_new_tokens=20)
    print(f"loss {losses}; {sample.questions[0].question} -> {answer} ({sample.questions[0].answer})")

    assert answer
