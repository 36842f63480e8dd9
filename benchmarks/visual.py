"""The visual path: ViT with per-tile LoRA and resampler, against the released way."""

from collections.abc import Callable
from functools import partial

import torch
from pairing import Pair, Row, Settings, close, compare_memory, compare_time, count_operations
from released import encode_images
from torch import nn
from transformers import Qwen2Config

from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration

RELEASED = "the released way"


def build_model(
    width: int = 512,
    layers: int = 4,
    tile_size: int = 448,
    queries: int = 256,
    dtype: torch.dtype = torch.float32,
) -> MonkeyForConditionalGeneration:
    """Return a model with random weights and LoRA that have an effect; its language model costs nothing.

    The paper's ViT has width 1,664, 16 heads and an MLP of 8,192, and its language model width 4,096.
    """
    is_true_width = width == 1664
    config = MonkeyConfig(
        vision_config={
            "tile_size": tile_size,
            "width": width,
            "layers": layers,
            "heads": 16 if is_true_width else width // 64,
            "mlp_width": 8192 if is_true_width else 4 * width,
            "position_grid": tile_size // 14,
        },
        resampler_config={"queries": queries, "heads": 32 if is_true_width else 4},
        text_config=Qwen2Config(
            vocab_size=64,
            hidden_size=4096 if is_true_width else width,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=4,
        ),
        image_start_id=1,
        image_end_id=2,
        image_token_id=3,
        grids=[[2, 2]],
        lora_dropout=0.0,
    )
    torch.manual_seed(0)
    model = MonkeyForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        # B begins at zero, which would hide a LoRA that meets the wrong tile.
        if name.endswith("lora_B"):
            nn.init.normal_(weight, std=0.02)
    return model.to(dtype)


def make_views(model: MonkeyForConditionalGeneration, images: int) -> torch.Tensor:
    """Return random views of images on a 2x2 grid: `[images * 5, 3, side, side]`."""
    side = model.config.tile_size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images * 5, 3, side, side, generator=generator).to(model.dtype)


def encode_pair(images: int = 1, views: int = 5, **sizes: object) -> Pair:
    """Return both ways from the views of images to visual tokens, without gradients."""
    model = build_model(**sizes)
    grids = torch.tensor([[2, 2]] * images)
    lora_index = model.lora_index(grids[:1])[-views:]
    pixel_values = make_views(model, images)[-views * images :]

    @torch.no_grad()
    def monkeylib() -> torch.Tensor:
        if views == 5:
            return model.get_image_features(pixel_values, grids)
        resample = partial(model.resampler, shared={})
        return model.vision(pixel_values, lora_index * images, reduce=resample)

    @torch.no_grad()
    def released() -> torch.Tensor:
        return encode_images(model, pixel_values, lora_index)

    tolerance = 1e-4 if model.dtype == torch.float32 else 0.1
    return Pair(monkeylib, released, close(tolerance), count_operations(monkeylib), model.dtype)


def training_pair(checkpointed: bool = False, **sizes: object) -> Pair:
    """Return both ways forward and backward with a frozen ViT: LoRA and resampler are trained."""
    model = build_model(**sizes).train()
    model.freeze_for_finetuning()
    trained = [weight for module in (model.vision, model.resampler) for weight in module.parameters()]
    trained = [weight for weight in trained if weight.requires_grad]
    grids = torch.tensor([[2, 2]])
    pixel_values = make_views(model, 1)

    def step(encode: Callable[[], torch.Tensor]) -> torch.Tensor:
        encode().square().mean().backward()
        gradients = torch.cat([weight.grad.flatten() for weight in trained])
        model.zero_grad()
        return gradients

    def monkeylib() -> torch.Tensor:
        if checkpointed:
            model.gradient_checkpointing_enable()
        gradients = step(lambda: model.get_image_features(pixel_values, grids))
        if checkpointed:
            model.gradient_checkpointing_disable()
        return gradients

    def released() -> torch.Tensor:
        return step(lambda: encode_images(model, pixel_values, model.lora_index(grids)))

    return Pair(monkeylib, released, close(1e-3))


def visual_tokens(settings: Settings) -> list[Row]:
    """Return the rows of the forward pass: time at two widths and batches, in bfloat16, and memory."""
    layers = 1 if settings.is_quick else 4
    size = f"width 512, {layers} layers, 896 x 896"
    rows = []
    # Fewer layers of more images: a round takes as long.
    for images, layer_count in ((1, layers), (2, 2), (4, 2)):
        if settings.is_quick and images > 1:
            continue
        rows.append(
            compare_time(
                "visual tokens",
                RELEASED,
                f"width 512, {layer_count} layers, 896 x 896, batch {images}",
                encode_pair(images, layers=layer_count),
                settings,
                target=1.14,
            )
        )

    if not settings.is_quick:
        rows.append(
            compare_time(
                "visual tokens at the paper's width",
                RELEASED,
                "width 1664, 1 layer, 2 of 5 views",
                encode_pair(views=2, width=1664, layers=1),
                settings,
                target=1.09,
            )
        )
    rows.append(
        compare_time(
            "visual tokens in bfloat16",
            f"{RELEASED}, in bfloat16",
            size,
            encode_pair(layers=layers, dtype=torch.bfloat16),
            settings,
            target=1.1,
        )
    )
    rows.append(
        compare_memory(
            "peak memory of visual tokens", RELEASED, size, lambda: encode_pair(layers=layers), target=2.5
        )
    )
    return rows


def visual_training(settings: Settings) -> list[Row]:
    """Return the rows of forward and backward: time, and memory with and without checkpointing."""
    layers = 1 if settings.is_quick else 4
    size = f"width 512, {layers} layers, 896 x 896"
    rows = [
        compare_time(
            "forward and backward, frozen ViT",
            RELEASED,
            size,
            training_pair(layers=layers),
            settings,
            target=1.12,
        ),
        compare_memory("peak memory of it", RELEASED, size, lambda: training_pair(layers=layers), target=2.6),
    ]
    if not settings.is_quick:
        rows.append(
            compare_time(
                "forward and backward, checkpointed",
                f"{RELEASED}, not checkpointed",
                size,
                training_pair(checkpointed=True, layers=layers),
                settings,
                target=None,
            )
        )
        rows.append(
            compare_memory(
                "peak memory of it, checkpointed",
                RELEASED,
                size,
                lambda: training_pair(checkpointed=True, layers=layers),
                target=5,
            )
        )
    return rows


ROWS = {"visual_tokens": visual_tokens, "visual_training": visual_training}
