"""Vision encoders and language models of transformers in the places of ours."""

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
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration, MonkeyResamplerConfig
from monkeylib.model.lora import TileLoRA
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
INDEX = torch.tensor([2, -1, 0, 3, 1, 0, -1])
PLACE = 50
every_encoder = pytest.mark.parametrize("kind", ENCODERS)


def build(
    kind, mode="per_tile", language="llama", trained=True, reads="residual"
) -> MonkeyForConditionalGeneration:
    """A tiny model with tiles of 56 pixels, for which the table of 3 x 3 positions is interpolated."""
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
        mlp_lora_input=reads,
    )
    model = MonkeyForConditionalGeneration(config).eval()
    with torch.no_grad():
        for bank in banks(model) if trained else []:
            bank.lora_B.normal_(std=0.3)
            bank.scaling.uniform_(0.5, 1.5)
    return model


def banks(model):
    return [module for module in model.modules() if isinstance(module, TileLoRA)]


def views(count, side=56):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def inputs(answer=(7, 8, 9)):
    """One image of 2 x 2 tiles and the global view, a question and a labelled answer."""
    ids = torch.tensor([[1, *[PLACE] * 20, 5, *answer]])
    labels = torch.full_like(ids, -100)
    labels[:, -len(answer) :] = torch.tensor(answer)
    return {
        "input_ids": ids,
        "labels": labels,
        "pixel_values": views(5),
        "grids": torch.tensor([[2, 2]]),
    }


@every_encoder
@torch.no_grad()
def test_without_adapters_the_features_are_the_librarys(kind):
    vision = build(kind).vision
    alone = AutoModel.from_config(vision.backbone.config).eval()
    own = {name: tensor for name, tensor in vision.state_dict().items() if name.startswith("backbone.")}
    alone.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in own.items()})
    library = alone(views(2, 42)).last_hidden_state
    assert torch.allclose(vision(views(2, 42)), library[:, -9:], atol=1e-6)  # after the class token, if any
    assert vision(views(2)).shape == (2, 16, 32)


@every_encoder
@torch.no_grad()
def test_each_view_meets_its_own_adapter_in_any_order(kind):
    vision, pixels = build(kind).vision, views(len(INDEX))
    together = vision(pixels, INDEX)
    alone = [vision(view[None], adapter[None]) for view, adapter in zip(pixels, INDEX, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert torch.equal(together[INDEX < 0], vision(pixels[INDEX < 0])), "the global view has none"
    same_view = vision(pixels[:1].expand(5, -1, -1, -1), torch.tensor([-1, 0, 1, 2, 3]))
    assert torch.pdist(same_view.flatten(1)).min() > 0.1


@every_encoder
@torch.no_grad()
def test_an_attention_adapter_is_one_folded_into_the_weights(kind):
    model, folded, tile = build(kind), build(kind), 2
    for adapters in model.vision.lora:
        adapters.mlp.lora_B.zero_()
    blocks = folded.vision.backbone.get_submodule(folded.vision.layout.blocks)
    for block, adapters in zip(blocks, folded.vision.lora, strict=True):
        attention = block.get_submodule(folded.vision.layout.attention)
        places = ("q_proj", "k_proj", "v_proj", folded.vision.layout.out)
        for place, bank in zip(
            places, (getattr(adapters, n) for n in ("query", "key", "value", "out")), strict=True
        ):
            attention.get_submodule(place).weight += (
                bank.scaling[tile] * bank.lora_B[tile] @ bank.lora_A[tile]
            )
    expected = folded.vision(views(2))
    assert torch.allclose(model.vision(views(2), torch.tensor([tile, tile])), expected, atol=1e-4)


@every_encoder
@pytest.mark.parametrize("reads", ["residual", "normed"])
@torch.no_grad()
def test_the_mlps_adapter_reads_the_residual_stream_or_its_norm(kind, reads):
    vision, seen = build(kind, reads=reads).vision, {}
    block = vision.backbone.get_submodule(vision.layout.blocks)[0]
    block.get_submodule(vision.layout.mlp_norm).register_forward_hook(
        lambda _, args, output: seen.update(residual=args[0], normed=output)
    )
    block.register_forward_hook(lambda _, __, output: seen.update(output=output))
    for bank in (getattr(vision.lora[0], name) for name in ("query", "key", "value", "out")):
        bank.lora_B.zero_()
    vision(views(1))
    plain, read = seen["output"].clone(), seen[reads].clone()
    vision(views(1), torch.tensor([3]))
    bank = vision.lora[0].mlp
    added = bank.scaling[3] * read @ bank.lora_A[3].T @ bank.lora_B[3].T
    assert added.abs().max() > 0.1
    assert torch.allclose(seen["output"], plain + added, atol=1e-5)


@every_encoder
@torch.no_grad()
def test_fresh_adapters_change_nothing(kind):
    vision = build(kind, trained=False).vision
    assert torch.allclose(vision(views(len(INDEX)), INDEX), vision(views(len(INDEX))), atol=1e-6)


@every_encoder
@pytest.mark.parametrize(("mode", "count"), [("per_tile", 4), ("shared", 1), ("none", 0), ("full", 0)])
def test_fine_tuning_trains_the_adapters_or_the_whole_encoder(kind, mode, count):
    model = build(kind, mode)
    assert {len(bank.lora_A) for bank in banks(model)} == ({count} if count else set())
    model.freeze_for_finetuning()
    model(**inputs()).loss.backward()
    assert all(bank.lora_A.grad.abs().max() > 0 and bank.lora_B.grad.abs().max() > 0 for bank in banks(model))
    assert all(
        parameter.requires_grad == (mode == "full") for parameter in model.vision.backbone.parameters()
    )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == sum(sizing.trained(model.config).values())
    assert sizing.count(model) == sizing.parameters(model.config)


@every_encoder
def test_checkpointing_changes_nothing_but_what_is_saved(kind):
    plain, checkpointed = (build(kind) for _ in range(2))
    checkpointed.activation_checkpointing_enable()
    compare_checkpointed(plain, checkpointed, inputs())
    only_global = views(2), torch.tensor([-1, -1])
    assert not checkpointed.vision(*only_global).requires_grad
    checkpointed.vision.requires_grad_(True)
    assert checkpointed.vision(*only_global).requires_grad


@every_encoder
@torch.no_grad()
def test_a_saved_model_loads_with_another_grid_too(kind, tmp_path):
    model = build(kind)
    model.use_grid(2, 3)
    assert {len(bank.lora_A) for bank in banks(model)} == {6}
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
    loaded, asked = MonkeyForConditionalGeneration.from_pretrained(tmp_path), inputs()
    prompt = {"input_ids": asked["input_ids"][:, :-3], "pixel_values": views(5), "grids": asked["grids"]}
    ids = loaded.generate(**prompt, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert ids[0, -3:].tolist() == [7, 8, 9]


def test_an_unknown_encoder_and_a_tile_without_whole_patches_are_refused():
    with pytest.raises(ValueError, match="type 'vit' is not known.*clip_vision_model, dinov2"):
        MonkeyForConditionalGeneration(MonkeyConfig(vision_config=ViTConfig(**SIZES), lora_mode="none"))
    with pytest.raises(ValueError, match="tile_size 50 is not a multiple of the encoder's patch_size 14"):
        MonkeyConfig(vision_config=ENCODERS["clip"](), tile_size=50, grids=[[2, 2]])
