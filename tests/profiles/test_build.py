"""Profiles: the shipped ones build, the paper's have the paper's sizes, and wrong fields raise."""

import pytest
import torch
from safetensors.torch import save_file

from monkeylib import inference, profiles
from monkeylib.data.synthetic.tokenizer import build_tokenizer
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.resampler import Projector
from monkeylib.model.tile_lora import TileLoRA, tile_loras
from monkeylib.profiles import build, trainable
from tests.support import hostile_checkpoints


def build_on_meta(name: str) -> MonkeyForConditionalGeneration:
    with torch.device("meta"):
        return MonkeyForConditionalGeneration(profiles.build_config(profiles.load_profile(name)))


def count(module: torch.nn.Module) -> int:
    """Return the values in the state dict, the resampler's fixed positions included."""
    return sum(tensor.numel() for tensor in module.state_dict().values())


def count_lora(model: MonkeyForConditionalGeneration) -> int:
    return sum(count(module) for module in model.modules() if isinstance(module, TileLoRA))


@pytest.mark.parametrize("name", profiles.profile_names())
def test_every_profile_builds(name):
    profile, model = profiles.load_profile(name), build_on_meta(name)
    assert model.config.grids == [[profile.rows, profile.cols]]
    assert model.config.tile_size == profile.tile_size
    assert model.config.queries == profile.queries
    assert profile.visual_tokens == (profile.rows * profile.cols + 1) * profile.queries
    assert profile.training.max_length > profile.visual_tokens


def test_components_of_paper_896_have_their_sizes():
    model = build_on_meta("paper-896")
    assert count(model.language_model) == 7_721_324_544
    assert count(model.vision) - count_lora(model) == 1_842_770_688
    assert count_lora(model) == 51_118_656

    resampler_output = count(model.resampler.ln_post) + count(model.resampler.proj)

    assert resampler_output == 16_785_408
    assert count(model.resampler) - resampler_output == 76_054_528
    assert count(model) == 9_708_053_824


def test_paper_fine_tuning_trains_what_the_released_code_trains():
    model = build_on_meta("paper-896")
    model.freeze_for_finetuning()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    # The released code also trains the resampler's fixed positions, by accident.
    assert trained + model.resampler.positions.numel() == 7_848_497_728


def test_paper_1344_has_six_loras_and_otherwise_the_same_model():
    small, large = build_on_meta("paper-896"), build_on_meta("paper-1344")
    assert count_lora(large) == 76_677_984
    assert count(large) - count_lora(large) == count(small) - count_lora(small)
    assert profiles.load_profile("paper-1344").visual_tokens == 1792


def test_tokenizer_decides_vocabulary_and_ids(tokenizer):
    config = profiles.build_config(profiles.load_profile("nano"), tokenizer)
    assert config.text_config.vocab_size == len(tokenizer)
    assert config.image_token_id == tokenizer.convert_tokens_to_ids("<imgpad>")


def test_shipped_tokenizer_is_the_one_of_the_synthetic_data():
    shipped = build.build_processor(profiles.load_profile("smoke")).tokenizer
    built = build_tokenizer()
    assert shipped.backend_tokenizer.to_str() == built.backend_tokenizer.to_str()
    for name in ("eos_token", "pad_token", "unk_token", "padding_side"):
        assert getattr(shipped, name) == getattr(built, name)
    assert shipped.convert_tokens_to_ids(["<img>", "</img>", "<imgpad>"]) == [1, 2, 3]


def test_profile_without_its_tokenizer_raises():
    smoke = profiles.load_profile("smoke")
    changed = smoke.language_model.model_copy(update={"tokenizer": "no/such/folder"})
    with pytest.raises(FileNotFoundError, match="no tokenizer at .*no/such/folder"):
        build.build_processor(smoke.model_copy(update={"language_model": changed}))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "{model_type: lama}",
            "own, language_model.model_type: transformers knows no 'lama'; did you mean llama",
        ),
        ("{config: {rms_norm_eps: tiny}}", "own, language_model.config: .*'rms_norm_eps' expected float"),
        ("{config: {hidden_act: boom}}", "the profile own: 'boom' is missing or unknown"),
        ("{config: {num_attention_heads: 5}}", "line 2, language_model.config: num_attention_heads is 5"),
        ("{config: {num_attention_heads: 6}}", "line 2, language_model.config: hidden_size is 32: .* the 6"),
        ("{tokenizer: tests}", "the tokenizer in .*tests cannot be loaded"),
    ],
)
def test_profile_that_describes_no_model_raises(text, sentence, tmp_path):
    (tmp_path / "own.yaml").write_text(f"extends: smoke\nlanguage_model: {text}\n")
    with pytest.raises(ValueError, match=sentence) as raised:
        profile = profiles.load_profile(str(tmp_path / "own.yaml"))
        build.build_model(profile, build.build_processor(profile))
    assert "\n" not in str(raised.value)


def test_base_of_other_heads_raises(tmp_path):
    smoke = profiles.load_profile("smoke")
    processor = build.build_processor(smoke)
    build.build_model(smoke, processor).save_pretrained(tmp_path)

    vision = smoke.vision.model_copy(update={"heads": 4})
    profile = smoke.model_copy(update={"vision": vision, "base_checkpoint": str(tmp_path)})
    with pytest.raises(ValueError, match="vision_config.num_attention_heads, is 2, the profile asks for 4"):
        build.build_model(profile, processor)


@pytest.mark.parametrize("section", ["vision_config", "resampler_config", "text_config"])
def test_base_of_another_kind_of_model_raises(section, tmp_path):
    smoke = profiles.load_profile("smoke")
    processor = build.build_processor(smoke)
    build.build_model(smoke, processor).save_pretrained(tmp_path)
    hostile_checkpoints.field("config.json", f"{section}.model_type", "clip_vision_model")(tmp_path)

    profile = smoke.model_copy(update={"base_checkpoint": str(tmp_path)})
    with pytest.raises(
        ValueError, match=f"config.json, {section}.model_type, is clip_vision_model"
    ) as raised:
        build.build_model(profile, processor)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"queries": 320, "views": "global", "tile_size": 192}, 320),
        ({"pooling": 2}, 5 * 16),
        ({"pooling": 8}, 5),
        ({"fresh_queries": True}, 5 * 64),
    ],
    ids=lambda value: min(value) if isinstance(value, dict) else value,
)
def test_base_model_takes_another_number_of_visual_tokens(fields, tokens, make_image):
    nano = profiles.load_profile("nano")
    if fields.get("views") == "global":
        fields = fields | {"lora": nano.lora.model_copy(update={"mode": "none"})}
    profile = nano.model_copy(update=fields)
    processor = build.build_processor(profile)
    base = build.build_model(nano, processor)
    model = build.build_model(profile, processor)
    assert profile.visual_tokens == tokens == processor.visual_tokens()
    assert model.config.queries == profile.tokens_per_view

    # All other weights are the base's.
    for name, tensor in base.resampler.state_dict().items():
        is_changed = name == "query" if profile.queries == 64 else name in ("query", "positions")
        if not is_changed:
            assert torch.equal(tensor, model.resampler.state_dict()[name]), name
    assert torch.equal(model.resampler.query, base.resampler.query) == ("pooling" in fields)

    inputs = processor(make_image(), "What is it?")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == tokens
    labels = inputs["input_ids"].clone()
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    assert loss.isfinite() and model.resampler.query.grad.abs().max() > 0


def test_wrong_number_of_queries_raises():
    nano = profiles.load_profile("nano").model_dump()
    for fields, message in (
        ({"queries": 67}, "67 queries make a grid of 1x67"),
        ({"pooling": 3}, "squares of 3x3"),
        ({"resampler_heads": None, "fresh_queries": True}, "a projector has no queries"),
    ):
        with pytest.raises(ValueError, match=message):
            profiles.Profile.model_validate(nano | fields)


@pytest.mark.parametrize(
    ("fields", "size", "views", "loras"),
    [
        ({"rows": 1, "cols": 2}, (192, 96), 3, 2),
        ({"rows": 2, "cols": 3}, (288, 192), 7, 6),
        ({"rows": 3, "cols": 3}, (288, 288), 10, 9),
        ({"rows": 3, "cols": 3, "tile_overlap": 48}, (192, 192), 10, 9),
        ({"rows": 1, "cols": 1, "tile_size": 192, "views": "tiles"}, (192, 192), 1, 1),
        ({"tile_size": 192, "views": "global", "lora.on_global_view": True}, (384, 384), 1, 1),
        ({"lora.on_global_view": True}, (192, 192), 5, 5),
        ({"lora.attention_rank": 0}, (192, 192), 5, 4),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_variant_of_nano_starts_from_the_base_and_trains(fields, size, views, loras, make_image):
    nano = profiles.load_profile("nano").model_dump()
    for name, value in fields.items():
        section, _, field = name.rpartition(".")
        (nano[section] if section else nano)[field] = value
    profile = profiles.Profile.model_validate(nano)
    assert profile.image_size == size

    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)
    assert {len(lora.lora_A) for lora in tile_loras(model)} == {loras}

    inputs = processor(make_image(), "What is it?")
    assert inputs["pixel_values"].shape == (views, 3, profile.tile_size, profile.tile_size)
    assert profile.visual_tokens == views * 64

    # B is zero before the first step, and learns first.
    model(**inputs, labels=inputs["input_ids"].clone()).loss.backward()
    for lora in tile_loras(model):
        assert (lora.lora_B.grad.abs().amax((1, 2)) > 0).all()


def test_overlap_of_a_profile_fits_its_tiles():
    nano = profiles.load_profile("nano").model_dump()
    with pytest.raises(ValueError, match="overlap of tiles of 96 pixels"):
        profiles.Profile.model_validate(nano | {"tile_overlap": 96})
    with pytest.raises(ValueError, match="tiles of automatic grids do not overlap"):
        profiles.Profile.model_validate(nano | {"tile_overlap": 48, "grid": "auto"})


def projector_profile(file, **fields):
    """Return the profile nano with a projector's file in the resampler's place."""
    nano = profiles.load_profile("nano").model_dump()
    changes = {"queries": 144, "resampler_heads": None, "projector": str(file)}
    return profiles.Profile.model_validate(nano | changes | fields)


@pytest.fixture()
def projector_weights():
    config = profiles.build_config(projector_profile("unread"))
    return Projector(config).state_dict()


def test_projector_takes_the_place_of_the_base_models_resampler(projector_weights, tmp_path, make_image):
    save_file(projector_weights, tmp_path / "projector.safetensors")
    profile = projector_profile(tmp_path / "projector.safetensors")
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    base = build.build_model(profiles.load_profile("nano"), processor)

    assert profile.visual_tokens == processor.visual_tokens() == 5 * 144
    for name, tensor in base.state_dict().items():
        if not name.startswith("resampler.") and "_lora." not in name:
            assert torch.equal(tensor, model.state_dict()[name]), name
    for name, tensor in projector_weights.items():
        assert torch.equal(tensor, model.state_dict()[f"resampler.{name}"])

    # LoRA per tile, as on any base; saved whole, and loaded without the file.
    assert {len(lora.lora_A) for lora in tile_loras(model)} == {4}
    trainable.save_complete(model, processor, tmp_path / "model")
    loaded = inference.load_model(tmp_path / "model")
    inputs = processor(make_image(), "What is it?")
    with torch.no_grad():
        assert torch.equal(loaded.model(**inputs).logits, model.eval()(**inputs).logits)


def test_pooled_projector_gives_fewer_tokens(projector_weights, tmp_path, make_image):
    save_file(projector_weights, tmp_path / "projector.safetensors")
    profile = projector_profile(tmp_path / "projector.safetensors", pooling=2)
    processor = build.build_processor(profile)
    tokens = build.build_model(profile, processor).get_image_features(
        **processor.image_processor(make_image())
    )
    assert tokens.shape == (5, 36, 192) and processor.queries == 36


def test_projector_that_cannot_be_used_raises(projector_weights, tmp_path):
    file = tmp_path / "projector.safetensors"
    profile = projector_profile(file)
    processor = build.build_processor(profile)
    with pytest.raises(FileNotFoundError, match="There is no projector at"):
        build.require_start(profile)

    save_file(projector_weights | {"linear_2.bias": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="linear_2.bias in .* the profile asks for .192."):
        build.build_model(profile, processor)
    with pytest.raises(ValueError, match="set base_checkpoint too, and resampler_heads to null"):
        projector_profile(file, resampler_heads=6)
