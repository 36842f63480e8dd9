import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageTextToText

from monkeylib import profiles
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model import (
    MonkeyConfig,
    MonkeyForConditionalGeneration,
    MonkeyResamplerConfig,
    MonkeyVisionConfig,
    vision,
)
from monkeylib.tiling import Grid


def greedy(model, inputs, steps):
    """Decode by plain argmax, without a cache."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for _ in range(steps):
        output = model(**inputs | {"input_ids": ids, "attention_mask": mask})
        ids = torch.cat([ids, output.logits[:, -1].argmax(-1, keepdim=True)], 1)
        mask = F.pad(mask, (0, 1), value=1)

    return ids[:, inputs["input_ids"].shape[1] :]


def generate(model, inputs, **options):
    ids = model.generate(
        **inputs, **{"do_sample": False, "eos_token_id": None, "max_new_tokens": 6} | options
    )
    return ids[:, inputs["input_ids"].shape[1] :]


@torch.no_grad()
def test_generate_is_greedy_argmax(tiny, processor, make_image):
    model = tiny()
    inputs = dict(processor(images=make_image(), text="what is it?"))
    assert torch.equal(generate(model, inputs), greedy(model, inputs, 6))


@torch.no_grad()
def test_padded_batch_answers_as_each_row_alone(tiny, processor, make_image):
    model = tiny()
    rows = [
        ([make_image(1)], "what?"),
        ([make_image(2), make_image(3)], "a longer question about two"),
        (None, "text only"),
    ]
    images, texts = zip(*rows, strict=True)
    for options in ({}, {"num_beams": 3}):
        batch = generate(model, processor(images=list(images), text=list(texts)), **options)
        for row, (image, text) in enumerate(rows):
            alone = generate(model, processor(images=image, text=text), **options)
            assert torch.equal(batch[row], alone[0])


@torch.no_grad()
def test_images_are_encoded_once_per_generation(tiny, processor, make_image, monkeypatch):
    model, calls = tiny(), []
    encode = model.vision.forward

    def watched_encode(pixel_values, *arguments, **options):
        calls.append(len(pixel_values))
        return encode(pixel_values, *arguments, **options)

    monkeypatch.setattr(model.vision, "forward", watched_encode)
    generate(model, processor(images=make_image(), text="x"), num_beams=3)
    assert calls == [5]


@torch.no_grad()
def test_features_of_a_chunk_of_views_are_gone_before_the_next_one(tiny, processor, make_image, monkeypatch):
    model = tiny()
    inputs = processor(images=[make_image(seed) for seed in range(2)], text=["x"] * 2)
    expected = model.get_image_features(inputs["pixel_values"], inputs["grids"])

    resample, seen = model.resampler.forward, []

    def watched_resample(features, *arguments, **options):
        assert all(earlier() is None for earlier in seen)
        seen.append(weakref.ref(features))
        return resample(features, *arguments, **options)

    monkeypatch.setattr(model.resampler, "forward", watched_resample)
    monkeypatch.setattr(vision, "CPU_CHUNK_BYTES", 0)  # one view at a time
    tokens = model.get_image_features(inputs["pixel_values"], inputs["grids"])

    assert len(seen) == 10
    assert torch.allclose(tokens, expected, atol=1e-5)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_gradients_do_not_depend_on_chunks_of_views(
    tiny, processor, make_image, monkeypatch, is_checkpointed
):
    inputs = processor(images=[make_image(seed) for seed in range(2)], text=["x"] * 2)
    gradients = []
    for chunk_bytes, checkpointed in ((2**30, False), (0, is_checkpointed)):
        monkeypatch.setattr(vision, "CPU_CHUNK_BYTES", chunk_bytes)
        model = tiny(lora_dropout=0.0).train()
        model.freeze_for_finetuning()
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})

        model.get_image_features(inputs["pixel_values"], inputs["grids"]).square().sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})

    assert gradients[0]["resampler.query"].abs().max() > 0
    for name, gradient in gradients[0].items():
        if gradient is not None:
            assert torch.allclose(gradients[1][name], gradient, rtol=1e-3, atol=1e-5), name


@torch.no_grad()
def test_image_decides_the_answer(tiny, processor, make_image):
    model = tiny()
    logits = [model(**processor(images=make_image(seed), text="x")).logits[:, -1] for seed in (1, 2)]
    assert (logits[0] - logits[1]).abs().max() > 0.01


@torch.no_grad()
def test_prompt_with_places_for_images_that_did_not_come_is_refused(tiny, processor, make_image):
    model = tiny()
    inputs = dict(processor(images=[make_image(), None], text=["x", "text only"]))
    places = int((inputs["input_ids"] == model.config.image_token_id).sum())
    for name in ("pixel_values", "grids"):
        inputs.pop(name)

    for call in (model, model.generate):
        with pytest.raises(
            ValueError, match=f"holds {places} places for visual tokens, but no images"
        ) as raised:
            call(**inputs)
        assert "\n" not in str(raised.value)

    # Texts alone have no places, and what is decoded with a cache has had its images.
    texts = processor(text=["a", "text only"])
    assert model(**texts).logits.shape[0] == 2

    inputs = dict(processor(images=make_image(), text="x"))
    cache = model(**inputs).past_key_values
    token = torch.full((1, 1), model.config.image_token_id)
    model(input_ids=token, past_key_values=cache)


@torch.no_grad()
def test_batch_may_mix_grids(tiny, processor, make_image):
    model = tiny()
    model.use_grid(1, 2)
    grids, images = [Grid(2, 2), Grid(1, 2), Grid(0, 0)], [make_image(seed) for seed in range(3)]
    parts = [processor.image_processor(image, grid) for image, grid in zip(images, grids, strict=True)]
    pixels = torch.cat([part["pixel_values"] for part in parts])
    together = model.get_image_features(pixels, torch.cat([part["grids"] for part in parts]))

    assert len(together) == 5 + 3 + 1

    alone = torch.cat([model.get_image_features(part["pixel_values"], part["grids"]) for part in parts])

    assert torch.allclose(together, alone, atol=1e-5)


@torch.no_grad()
def test_batch_of_automatic_grids_gives_what_each_image_gives_alone(tiny, processor, make_image):
    model = tiny()
    model.use_auto_grid(4)
    images = [make_image(0, 60, 20), make_image(1, 20, 90), make_image(2, 64, 64), make_image(3, 9, 9)]
    inputs = processor(images=images, text=["what?", "why?", "a", "b"], grid="auto:4")

    assert len({tuple(grid) for grid in inputs["grids"].tolist()}) == 4

    batch = model(**inputs).logits[:, -1]
    for row, (image, text) in enumerate(zip(images, ("what?", "why?", "a", "b"), strict=True)):
        alone = model(**processor(images=image, text=text, grid="auto:4")).logits[0, -1]
        assert torch.allclose(batch[row], alone, atol=1e-4)


def test_loss_is_the_token_mean_at_supervised_positions(tiny, processor, make_image):
    model = tiny()
    inputs = processor(images=[make_image(), None], text=["a question? yes", "short"], padding_side="right")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORE_INDEX)
    # Only a part of the first row is supervised.
    labels[0, :90] = IGNORE_INDEX
    output = model(**inputs, labels=labels)
    full = model(**inputs).logits
    expected = F.cross_entropy(full[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX)

    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert output.logits.shape == (int((labels[:, 1:] != IGNORE_INDEX).sum()), full.shape[-1])

    # Asking for all logits changes no loss.
    with_all_logits = model(**inputs, labels=labels, logits_to_keep=0)

    assert with_all_logits.logits.shape == full.shape
    assert with_all_logits.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_labels_without_a_supervised_token_raise(tiny, processor):
    inputs = processor(text="abc")
    with pytest.raises(ValueError, match="no supervised token"):
        tiny()(**inputs, labels=torch.full_like(inputs["input_ids"], IGNORE_INDEX))


def test_wrong_number_of_image_placeholders_raises(tiny, processor, make_image):
    inputs = processor(images=make_image(), text="x")
    inputs["input_ids"] = inputs["input_ids"][:, 1:].clone()
    inputs["input_ids"][0, 0] = 9
    with pytest.raises(ValueError, match="79 places.*5 views x 16 queries = 80"):
        tiny()(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"], grids=inputs["grids"])


@pytest.mark.parametrize("name", ["pixel_value", "grid", "label", "attention_masks"])
def test_misspelled_argument_raises(name, tiny, processor):
    with pytest.raises(TypeError, match=f"takes no argument '{name}': did you mean"):
        tiny()(**processor(text="abc"), **{name: torch.zeros(1)})


def test_arguments_of_the_language_model_are_handed_on(tiny, processor):
    output = tiny()(**processor(text="abc"), output_hidden_states=True, use_cache=False)
    assert len(output.hidden_states) == 3 and output.past_key_values is None


def test_wrong_number_of_views_raises(tiny, processor, make_image):
    inputs = processor.image_processor(make_image())
    with pytest.raises(ValueError, match="have 5 views, got 4"):
        tiny().get_image_features(inputs["pixel_values"][:4], inputs["grids"])


def test_another_grid_raises_until_it_is_opted_into(tiny, processor, make_image):
    model = tiny()
    wide = processor.image_processor(make_image(), Grid(2, 3))
    with pytest.raises(ValueError, match=r"made for the grid 2x2 .*2x3 tiles.*use_grid\(2, 3\)"):
        model.get_image_features(**wide)

    model.use_grid(2, 3)

    assert model.get_image_features(**wide).shape == (7, 16, 32)
    assert model.config.grids == [[2, 2], [2, 3]]


@torch.no_grad()
def test_loras_of_additional_tiles_are_copied_by_place_or_fresh(tiny):
    # Three equal models, of which two get a larger grid.
    copied, fresh, before = tiny(), tiny(), tiny().vision.blocks[1].mlp_lora
    copied.use_grid(2, 3)
    fresh.use_grid(2, 3, extra="fresh")
    lora = copied.vision.blocks[1].mlp_lora
    for name in ("lora_A", "lora_B", "scaling"):
        old, new = getattr(before, name), getattr(lora, name)
        assert torch.equal(new[:4], old)
        # Tiles 4 and 5 lie in the lower row, in the middle (left half, rounded down) and on the right.
        assert torch.equal(new[4:], old[[2, 3]])

    lora = fresh.vision.blocks[1].mlp_lora

    assert torch.equal(lora.lora_B[:4], before.lora_B)
    assert lora.lora_B[4:].abs().max() == 0
    assert lora.lora_A[4:].abs().min(-1).values.max() > 0


@torch.no_grad()
def test_automatic_grids_keep_the_lora_of_each_position(tiny):
    copied, fresh, before = tiny(), tiny(), tiny().vision.blocks[1].mlp_lora
    copied.use_auto_grid(4)
    fresh.use_auto_grid(4, extra="fresh")

    assert copied.config.grids == [] and copied.config.max_tiles == 4

    # Positions: (0, 0) to (0, 3), (1, 0), (1, 1), (2, 0), (3, 0); those outside of 2x2 take a neighbour's.
    nearest = [0, 1, 1, 1, 2, 3, 2, 2]
    lora = copied.vision.blocks[1].mlp_lora
    for name in ("lora_A", "lora_B", "scaling"):
        assert torch.equal(getattr(lora, name), getattr(before, name)[nearest])

    lora = fresh.vision.blocks[1].mlp_lora
    inside, outside = [0, 1, 4, 5], [2, 3, 6, 7]
    assert torch.equal(lora.lora_B[inside], before.lora_B)
    assert lora.lora_B[outside].abs().max() == 0

    # The model now takes any such grid, and no larger one.
    copied.use_grid(4, 1)
    assert copied.config.grids == []
    with pytest.raises(ValueError, match="up to 4 tiles"):
        copied.use_grid(5, 1)


@torch.no_grad()
def test_the_trained_grid_gives_the_same_tokens_once_grids_are_automatic(tiny, processor, make_image):
    model, inputs = tiny(), processor.image_processor(make_image())
    before = model.get_image_features(**inputs)
    model.use_auto_grid(6)
    assert torch.equal(model.get_image_features(**inputs), before)


def test_only_the_lora_of_positions_that_occur_gets_a_gradient(tiny, processor, make_image):
    model = tiny()
    model.use_auto_grid(4)
    model.freeze_for_finetuning()
    model.get_image_features(**processor.image_processor(make_image(), Grid(1, 3))).sum().backward()
    gradient = model.vision.blocks[1].mlp_lora.lora_A.grad.flatten(1).abs().sum(1)
    assert (gradient > 0).tolist() == [True] * 3 + [False] * 5


@pytest.mark.parametrize(
    "arguments, message",
    [((0,), "max_tiles is 0"), ((10**6,), "max_tiles"), ((4, "zero"), "'copy' or 'fresh'")],
)
def test_impossible_automatic_grid_raises(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny().use_auto_grid(*arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 2), "the grid is 0: expected a whole number from 1"),
        (("2", 2), "the grid is '2'"),
        ((1000, 1000), "the number of tiles in the grid is 1000000"),
        ((2, 3, "zero"), "'copy' or 'fresh'"),
    ],
)
def test_impossible_grid_raises(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny().use_grid(*arguments)


@pytest.mark.parametrize("mode", ["per_tile", "shared", "none", "full"])
def test_fine_tuning_freezes_what_the_released_code_freezes(tiny, mode):
    model = tiny(lora_mode=mode)
    model.freeze_for_finetuning()
    for name, parameter in model.named_parameters():
        if name.startswith("vision."):
            expected = mode == "full" or "_lora." in name
        else:
            expected = not name.startswith(("resampler.ln_post", "resampler.proj"))
        assert parameter.requires_grad == expected, name


def test_components_can_stay_frozen(tiny):
    model = tiny()
    model.freeze_for_finetuning(resampler="frozen", language_model="frozen")
    assert all("_lora." in name for name, p in model.named_parameters() if p.requires_grad)


@torch.no_grad()
def test_model_survives_saving(tiny, processor, make_image, tmp_path):
    model = tiny()
    model.use_grid(2, 3)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()

    inputs = processor(images=make_image(), text="x")

    for loaded in (
        MonkeyForConditionalGeneration.from_pretrained(tmp_path),
        AutoModelForImageTextToText.from_pretrained(tmp_path),
    ):
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
        assert loaded.config.grids == [[2, 2], [2, 3]]
        embeddings = loaded.get_input_embeddings().weight
        assert loaded.get_output_embeddings().weight is embeddings


@torch.no_grad()
def test_base_model_without_lora_gets_fresh_lora(tiny, tmp_path):
    base = tiny(lora_mode="none", views="global", grids=[])
    base.save_pretrained(tmp_path)
    model, report = MonkeyForConditionalGeneration.from_pretrained(
        tmp_path, lora_mode="per_tile", grids=[[2, 2]], views="tiles+global", output_loading_info=True
    )
    lora_names = {name for name, _ in model.named_parameters() if "_lora." in name}

    assert report["missing_keys"] == lora_names
    assert not report["unexpected_keys"] and not report["mismatched_keys"]

    for name, tensor in model.state_dict().items():
        if name not in lora_names:
            assert torch.equal(tensor, base.state_dict()[name]), name
        elif name.endswith(".lora_A"):
            assert 0 < tensor.abs().max() <= 32**-0.5
        else:
            assert torch.equal(tensor, torch.full_like(tensor, name.endswith(".scaling")))


@torch.no_grad()
def test_every_linear_layer_is_called(tiny, processor, make_image):
    # Otherwise whatever exchanges linear layers, as quantisation and peft do, is without effect or fails.
    model = tiny()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    called = set()
    for name, layer in layers.items():
        layer.register_forward_hook(lambda *_, name=name: called.add(name))

    model(**processor(images=make_image(), text="what is it?"))
    assert called == layers.keys()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per")
def test_model_as_a_whole_in_int8_stays_close(tiny, processor, make_image):
    model = tiny()
    inputs = processor(images=make_image(), text="what is it?")
    logits = model(**inputs).logits

    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    quantised_logits = quantised(**inputs).logits

    assert not torch.equal(quantised_logits, logits)
    assert torch.allclose(quantised_logits, logits, atol=0.1 * float(logits.std()))


@torch.no_grad()
def test_bfloat16_stays_close_to_float32(tiny, processor, make_image):
    model, inputs = tiny(), processor.image_processor(make_image())
    exact = model.get_image_features(**inputs)
    rounded = model.to(torch.bfloat16).get_image_features(**inputs)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_fresh_weights_have_the_standard_deviation_of_the_initialisation(tokenizer):
    model = MonkeyForConditionalGeneration(profiles.build_config(profiles.load_profile("nano"), tokenizer))
    assert model.vision.blocks[0].fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.vision.blocks[0].fc.bias.abs().max() == 0
    assert model.resampler.query.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(model.vision.ln_pre.weight, torch.ones(160))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MonkeyConfig(lora_mode="per_tile"), "grids="),
        (lambda: MonkeyResamplerConfig(queries=62), "62 queries make a grid of 2x31.* such as that of 49"),
        (lambda: MonkeyResamplerConfig(queries=64, pooling=3), "8x8 visual tokens .* squares of 3x3"),
        (lambda: MonkeyVisionConfig(width=100, heads=3), "100 does not divide by its 3 heads"),
        (lambda: MonkeyVisionConfig(tile_size=100, patch_size=14), "not a multiple of patch_size 14"),
    ],
)
def test_impossible_configuration_raises(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_configuration_survives_saving(tiny, tmp_path):
    config = tiny(lora_mode="shared").config
    config.save_pretrained(tmp_path)
    for loaded in (AutoConfig.from_pretrained(tmp_path), MonkeyConfig.from_pretrained(tmp_path)):
        assert loaded.lora_mode == "shared"
        for part in ("vision_config", "resampler_config", "text_config"):
            assert getattr(loaded, part).to_diff_dict() == getattr(config, part).to_diff_dict()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("resampler.query"), "lack resampler.query: fetch"),
        (lambda state: state.update(more=torch.zeros(1)), "have an unknown more: fetch"),
        (lambda state: state["resampler.query"].fill_(torch.nan), "resampler.query of .* not finite"),
        (lambda state: state.pop("vision.blocks.0.mlp_lora.lora_A"), "lack vision.blocks.0.mlp_lora.lora_A"),
    ],
    ids=["missing", "unknown", "not finite", "a LoRA"],
)
def test_from_pretrained_refuses_what_transformers_only_warns_about(tiny, tmp_path, change, sentence):
    model = tiny()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})

    for model_class in (MonkeyForConditionalGeneration, AutoModelForImageTextToText):
        with pytest.raises(ValueError, match=sentence):
            model_class.from_pretrained(tmp_path)


@torch.no_grad()
def test_one_global_view_meets_its_lora_without_grids(tiny):
    model = tiny(views="global", grids=[], lora_on_global_view=True)
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    features = model.get_image_features(pixels)
    assert torch.equal(features, model.get_image_features(pixels, torch.zeros(2, 2, dtype=torch.long)))
    assert not torch.allclose(features, model.resampler(model.vision(pixels)), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("on_global_view", [False, True])
def test_permuted_tiles_meet_the_lora_of_another_position(on_global_view, tiny, processor, make_image):
    model, inputs = tiny(lora_on_global_view=on_global_view), processor.image_processor(make_image())
    index = model.lora_index(inputs["grids"])
    expected = model.vision(inputs["pixel_values"], [2, 0, 3, 1, index[4]])

    model.permute_tiles([2, 0, 3, 1])
    assert torch.allclose(model.vision(inputs["pixel_values"], index), expected, atol=1e-5)

    # The inverse gives the first order back.
    before = model.vision.blocks[1].mlp_lora.lora_A.clone()
    model.permute_tiles([1, 3, 0, 2])
    assert torch.equal(model.vision.blocks[1].mlp_lora.lora_A[:4], before[[1, 3, 0, 2]])


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4]])
def test_order_that_is_no_permutation_of_the_tiles_raises(order, tiny):
    with pytest.raises(ValueError, match="each number from 0 to 3 once"):
        tiny().permute_tiles(order)


def test_tiles_of_a_shared_lora_are_not_permuted(tiny):
    with pytest.raises(ValueError, match="'shared' has no LoRA that belongs to a tile position"):
        tiny(lora_mode="shared").permute_tiles([0])


def test_lora_of_the_global_view_stays_the_last_one_in_other_grids(tiny):
    wider, automatic = tiny(lora_on_global_view=True), tiny(lora_on_global_view=True)
    first = wider.vision.blocks[0].mlp_lora.lora_A.clone()

    wider.use_grid(2, 3)
    assert torch.equal(wider.vision.blocks[0].mlp_lora.lora_A[[0, 1, 2, 3, 6]], first)

    automatic.use_auto_grid(3)
    assert torch.equal(automatic.vision.blocks[0].mlp_lora.lora_A[-1], first[-1])
    for model in (wider, automatic):
        assert len(model.vision.blocks[0].mlp_lora.lora_A) == model.config.lora_count
