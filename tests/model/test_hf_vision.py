"""Vision backbones and language models of transformers inside Monkey."""

import pytest
import torch
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    Dinov2Config,
    GPTNeoXConfig,
    LlamaConfig,
    SiglipVisionConfig,
    ViTConfig,
)

from monkeylib import sizing
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration, MonkeyResamplerConfig
from monkeylib.model.tile_lora import NO_LORA, tile_loras
from tests.support.checkpointing import compare_checkpointed

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 42,
    "patch_size": 14,
}
ENCODERS = {
    "clip": lambda: CLIPVisionConfig(**SIZES, intermediate_size=64),
    "dinov2": lambda: Dinov2Config(**SIZES, mlp_ratio=2, layerscale_value=0.5),
    "siglip": lambda: SiglipVisionConfig(**SIZES, intermediate_size=64),
}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LANGUAGES = {
    "llama": lambda: LlamaConfig(**TEXT, vocab_size=60),
    "gpt_neox": lambda: GPTNeoXConfig(**TEXT, vocab_size=60, tie_word_embeddings=False),
}
LORA_INDEX = [2, NO_LORA, 0, 3, 1, 0, NO_LORA]
PLACE = 50
every_encoder = pytest.mark.parametrize("kind", ENCODERS)


def build(
    kind, mode="per_tile", language="llama", trained=True, lora_input="residual"
) -> MonkeyForConditionalGeneration:
    """Build a tiny model with tiles of 56 pixels, for which the 3 x 3 position embedding is interpolated."""
    torch.manual_seed(0)
    config = MonkeyConfig(
        vision_config=ENCODERS[kind](),
        resampler_config=MonkeyResamplerConfig(queries=4, heads=2),
        text_config=LANGUAGES[language](),
        tile_size=56,
        grids=[[2, 2]],
        image_token_id=PLACE,
        lora_mode=mode,
        attention_rank=4,
        mlp_rank=8,
        lora_dropout=0.0,
        mlp_lora_input=lora_input,
    )
    model = MonkeyForConditionalGeneration(config).eval()
    with torch.no_grad():
        for lora in tile_loras(model) if trained else []:
            lora.lora_B.normal_(std=0.3)
            lora.scaling.uniform_(0.5, 1.5)

    return model


def views(count, side=56):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def inputs(answer=(7, 8, 9)):
    """One image of 2 x 2 tiles and the global view, a question and a labelled answer."""
    ids = torch.tensor([[1, *[PLACE] * 20, 5, *answer]])
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[:, -len(answer) :] = torch.tensor(answer)
    return {
        "input_ids": ids,
        "labels": labels,
        "pixel_values": views(5),
        "grids": torch.tensor([[2, 2]]),
    }


@every_encoder
@torch.no_grad()
def test_without_lora_the_features_are_those_of_transformers(kind):
    vision = build(kind).vision
    alone = AutoModel.from_config(vision.backbone.config).eval()
    alone.load_state_dict(vision.backbone.state_dict())
    hidden = alone(views(2, 42)).last_hidden_state
    assert torch.allclose(vision(views(2, 42)), hidden[:, -9:], atol=1e-6)  # after the class token, if any
    assert vision(views(2)).shape == (2, 16, 32)


@every_encoder
@torch.no_grad()
def test_views_in_any_order_are_encoded_as_each_alone(kind):
    vision, pixels = build(kind).vision, views(len(LORA_INDEX))
    together = vision(pixels, LORA_INDEX)
    alone = [vision(view[None], [number]) for view, number in zip(pixels, LORA_INDEX, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)

    is_global = torch.tensor(LORA_INDEX) == NO_LORA

    assert torch.equal(together[is_global], vision(pixels[is_global]))

    same_view = vision(pixels[:1].expand(5, -1, -1, -1), [NO_LORA, 0, 1, 2, 3])

    assert torch.pdist(same_view.flatten(1)).min() > 0.1, "each LoRA gives other features"


@every_encoder
@torch.no_grad()
def test_lora_of_the_attention_equals_lora_merged_into_the_weights(kind):
    # The MLP's LoRA bypasses the MLP, so it cannot be merged: switch it off.
    model, merged, tile = build(kind), build(kind), 2
    for block_lora in model.vision.lora:
        block_lora.mlp.lora_B.zero_()

    layout = merged.vision.layout
    blocks = merged.vision.backbone.get_submodule(layout.blocks)
    for block, block_lora in zip(blocks, merged.vision.lora, strict=True):
        attention = block.get_submodule(layout.attention)
        beside = {
            "q_proj": block_lora.query,
            "k_proj": block_lora.key,
            "v_proj": block_lora.value,
            layout.out: block_lora.out,
        }
        for name, lora in beside.items():
            weight = attention.get_submodule(name).weight
            # W + scaling * B A, for one tile
            weight += lora.scaling[tile] * lora.lora_B[tile] @ lora.lora_A[tile]

    expected = merged.vision(views(2))

    assert torch.allclose(model.vision(views(2), [tile, tile]), expected, atol=1e-4)


@every_encoder
@pytest.mark.parametrize("lora_input", ["residual", "normed"])
@torch.no_grad()
def test_lora_of_the_mlp_reads_the_residual_stream_or_its_norm(kind, lora_input):
    vision, recorded = build(kind, lora_input=lora_input).vision, {}
    block = vision.backbone.get_submodule(vision.layout.blocks)[0]
    # The norm before the MLP sees both: its input is the residual stream.
    block.get_submodule(vision.layout.mlp_norm).register_forward_hook(
        lambda _, args, output: recorded.update(residual=args[0], normed=output)
    )
    block.register_forward_hook(lambda _, __, output: recorded.update(output=output))

    block_lora = vision.lora[0]
    # Only the LoRA of the MLP stays.
    for lora in (block_lora.query, block_lora.key, block_lora.value, block_lora.out):
        lora.lora_B.zero_()

    vision(views(1))
    without_lora, mlp_input = recorded["output"].clone(), recorded[lora_input].clone()
    vision(views(1), [3])
    lora = block_lora.mlp
    added = lora.scaling[3] * mlp_input @ lora.lora_A[3].T @ lora.lora_B[3].T

    assert added.abs().max() > 0.1
    assert torch.allclose(recorded["output"], without_lora + added, atol=1e-5)


@every_encoder
@torch.no_grad()
def test_fresh_lora_changes_nothing(kind):
    vision = build(kind, trained=False).vision
    assert torch.allclose(
        vision(views(len(LORA_INDEX)), LORA_INDEX), vision(views(len(LORA_INDEX))), atol=1e-6
    )


@every_encoder
@pytest.mark.parametrize(("mode", "count"), [("per_tile", 4), ("shared", 1), ("none", 0), ("full", 0)])
def test_fine_tuning_trains_lora_or_the_backbone(kind, mode, count):
    model = build(kind, mode)
    assert {len(lora.lora_A) for lora in tile_loras(model)} == ({count} if count else set())

    model.freeze_for_finetuning()
    model(**inputs()).loss.backward()
    for lora in tile_loras(model):
        assert lora.lora_A.grad.abs().max() > 0
        assert lora.lora_B.grad.abs().max() > 0
    for parameter in model.vision.backbone.parameters():
        assert parameter.requires_grad == (mode == "full")

    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    assert trained == sum(sizing.count_trained_parameters(model.config).values())
    assert sizing.count_in_model(model) == sizing.count_parameters(model.config)


@every_encoder
@pytest.mark.parametrize(("name", "modules"), [("attention_rank", 2), ("mlp_rank", 8)])
def test_rank_zero_leaves_that_lora_out(kind, name, modules):
    base = build(kind)
    config = MonkeyConfig.from_dict({**base.config.to_dict(), name: 0})
    model = MonkeyForConditionalGeneration(config).eval()
    assert len(tile_loras(model)) == modules  # of two blocks

    model.load_state_dict({key: base.state_dict()[key] for key in model.state_dict()})
    with torch.no_grad():
        changed = (model.vision(views(2), [0, NO_LORA]) - model.vision(views(2))).abs().amax((1, 2))
    assert changed[0] > 1e-3 and changed[1] == 0


@every_encoder
def test_gradient_checkpointing_changes_no_value(kind):
    plain, checkpointed = (build(kind) for _ in range(2))
    checkpointed.activation_checkpointing_enable()
    compare_checkpointed(plain, checkpointed, inputs())
    # Checkpointing makes inputs require gradients; a frozen backbone must not build a graph for them.
    only_global = views(2), [NO_LORA, NO_LORA]
    assert not checkpointed.vision(*only_global).requires_grad

    checkpointed.vision.requires_grad_(True)

    assert checkpointed.vision(*only_global).requires_grad


@every_encoder
@torch.no_grad()
def test_saved_model_loads_with_another_grid_too(kind, tmp_path):
    model = build(kind)
    model.use_grid(2, 3)
    assert {len(lora.lora_A) for lora in tile_loras(model)} == {6}

    model.save_pretrained(tmp_path)
    loaded = MonkeyForConditionalGeneration.from_pretrained(tmp_path)

    assert loaded.config.tile_size == 56 and loaded.config.grids == [[2, 2], [2, 3]]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert torch.equal(model(**inputs()).logits, loaded(**inputs()).logits)


@pytest.mark.parametrize("language", LANGUAGES)
def test_another_language_model_trains_and_answers(language, tmp_path):
    model = build("siglip", language=language).train()
    model.freeze_for_finetuning()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = model(**inputs()).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert losses[-1] < losses[0] / 4

    model.eval().save_pretrained(tmp_path)
    loaded, example = MonkeyForConditionalGeneration.from_pretrained(tmp_path), inputs()
    prompt = {"input_ids": example["input_ids"][:, :-3], "pixel_values": views(5), "grids": example["grids"]}
    ids = loaded.generate(**prompt, max_new_tokens=3, do_sample=False, pad_token_id=0)

    assert ids[0, -3:].tolist() == [7, 8, 9]


def test_unknown_backbone_or_a_tile_without_whole_patches_raises():
    with pytest.raises(ValueError, match="type 'vit' is not known.*clip_vision_model, dinov2"):
        MonkeyForConditionalGeneration(MonkeyConfig(vision_config=ViTConfig(**SIZES), lora_mode="none"))
    with pytest.raises(ValueError, match="tile_size 50 is not a multiple of the encoder's patch_size 14"):
        MonkeyConfig(vision_config=ENCODERS["clip"](), tile_size=50, grids=[[2, 2]])
