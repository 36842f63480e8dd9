"""A model of transformers of equal shape: InternVL's ViT, four tiles and a global view, and Qwen2.

Both read 1,280 visual tokens of the same number of views, with random weights, so their answers aren't the
same: compared is the time of encoding, of the first token, and of each token after it. InternVL's pixel
shuffle and projector are cheaper than a resampler, and it has no adapters (2.6 % of Monkey's operations).
"""

from collections.abc import Callable

import torch
from pairing import Pair, Row, Settings, compare_time
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config
from visual import make_views

from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration
from monkeylib.model.kv_cache import empty_cache

PLACE, VOCABULARY, VIEWS, QUERIES, TEXT = 3, 32_000, 5, 256, 26


def text_config(layers: int, is_large: bool = False) -> Qwen2Config:
    """Return the configuration of the language model of both; a large one is as wide as Qwen-7B."""
    heads = 32 if is_large else 8
    return Qwen2Config(
        vocab_size=151_936 if is_large else VOCABULARY,
        hidden_size=4096 if is_large else 512,
        intermediate_size=11_008 if is_large else 1408,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )


def build_monkey(layers: int) -> MonkeyForConditionalGeneration:
    """Return a Monkey of width 512."""
    torch.manual_seed(0)
    config = MonkeyConfig(
        vision_config={
            "width": 512,
            "layers": layers,
            "heads": 8,
            "mlp_width": 2048,
            "position_grid": 32,
        },
        resampler_config={"queries": QUERIES, "heads": 8},
        text_config=text_config(layers),
        image_start_id=1,
        image_end_id=2,
        image_token_id=PLACE,
        grids=[[2, 2]],
    )
    return MonkeyForConditionalGeneration(config).eval()


def build_internvl(layers: int, is_large: bool = False) -> InternVLForConditionalGeneration:
    """Return an InternVL of the same widths, depths and tokens; a large one has those of the paper."""
    torch.manual_seed(0)
    vision = InternVLVisionConfig(
        hidden_size=1664 if is_large else 512,
        intermediate_size=8192 if is_large else 2048,
        num_hidden_layers=48 if is_large else layers,
        num_attention_heads=16 if is_large else 8,
        image_size=[448, 448],
        patch_size=[14, 14],
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text_config(layers, is_large),
        image_token_id=PLACE,
        downsample_ratio=0.5,
    )
    return InternVLForConditionalGeneration(config).eval()


def peers(settings: Settings) -> list[Row]:
    """Return the rows of encoding, the first token, and a token after it."""
    layers = 1 if settings.is_quick else 2
    monkey, internvl = build_monkey(layers), build_internvl(layers)
    pixel_values = make_views(monkey, 1)
    grids = torch.tensor([[2, 2]])
    ids = torch.cat([torch.full((1, VIEWS * QUERIES), PLACE), torch.full((1, TEXT), 7)], dim=1)

    def generate(model: torch.nn.Module, new_tokens: int, **inputs: torch.Tensor) -> Callable[[], int]:
        def work() -> int:
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                past_key_values=empty_cache(model) if model is monkey else None,
                **inputs,
            )
            return output.shape[1]

        return torch.no_grad()(work)

    def encode_internvl() -> torch.Size:
        features = internvl.get_image_features(pixel_values=pixel_values)
        return getattr(features, "pooler_output", features).shape

    encode = Pair(
        torch.no_grad()(lambda: monkey.get_image_features(pixel_values, grids).shape),
        torch.no_grad()(encode_internvl),
        lambda first, second: first.numel() == second.numel(),
    )
    mine = {"pixel_values": pixel_values, "grids": grids}
    peer = {"pixel_values": pixel_values}

    # A token after the first: 32 of them, over a prompt that is read already, would need two runs; the
    # difference between 33 tokens and one is the same.
    size = f"ViT and Qwen2 of width 512, {layers} layers, {VIEWS * QUERIES:,} visual tokens"
    against = "transformers' InternVL"

    def is_equal(first: int, second: int) -> bool:
        return first == second

    rows = [
        compare_time("a peer of equal shape: encoding", against, size, encode, settings, 1.1),
        compare_time(
            "a peer: first token",
            against,
            size,
            Pair(generate(monkey, 1, **mine), generate(internvl, 1, **peer), is_equal),
            settings,
            1.1,
        ),
        compare_time(
            "a peer: tokens after it",
            against,
            f"{size}, 32 tokens",
            Pair(decode(monkey, ids), decode(internvl, ids), is_equal),
            settings,
            1.1,
        ),
    ]
    return rows


def body_of(model: torch.nn.Module) -> torch.nn.Module:
    """Return the language model without its output projection."""
    return (
        model.language_model.model
        if isinstance(model, MonkeyForConditionalGeneration)
        else (model.model.language_model)
    )


def decode(model: torch.nn.Module, ids: torch.Tensor, new_tokens: int = 32) -> Callable[[], int]:
    """Return what generates tokens behind a prompt that has been read."""
    body = body_of(model)
    head = model.get_output_embeddings()
    embeds = model.get_input_embeddings()(ids).detach()

    @torch.no_grad()
    def read() -> object:
        cache = empty_cache(model) if isinstance(model, MonkeyForConditionalGeneration) else None
        return body(inputs_embeds=embeds, past_key_values=cache, use_cache=True).past_key_values

    cache = read()

    @torch.no_grad()
    def work() -> int:
        token = ids[:, -1:]
        for _ in range(new_tokens):
            embedded = model.get_input_embeddings()(token)
            output = body(inputs_embeds=embedded, past_key_values=cache, use_cache=True)
            token = head(output.last_hidden_state).argmax(-1)
        cache.crop(-new_tokens)
        return cache.get_seq_length()

    return work


ROWS = {"peers": peers}
