"""What a single adapter changes in the encoder."""

import torch

from monkeylib.model.lora import TileLoRA, tile_loras
from monkeylib.model.vision import VisionTransformer


def banks(vision: VisionTransformer) -> list[TileLoRA]:
    """The stacked adapters of an encoder, three in each block."""
    return tile_loras(vision)


@torch.no_grad()
def influence(
    vision: VisionTransformer, pixel_values: torch.Tensor, index: list[int], seed: int = 0
) -> torch.Tensor:
    """How much each view's features change when one adapter alone is made random.

    The second factor of that adapter is drawn anew in every block, with a deviation of 0.05, and put back
    afterwards.

    Args:
        vision: an encoder in evaluation mode, with adapters.
        pixel_values: views `[V, 3, side, side]`.
        index: the adapter of each view `[V]`, -1 for none.
        seed: of the random numbers.

    Returns:
        `[adapters, V]`: norm of the change over the norm of the features, exactly 0 where nothing changed.

    Raises:
        ValueError: the encoder has no adapters.
    """
    stacked = banks(vision)
    if not stacked:
        raise ValueError("this encoder has no adapters: build it with lora_mode 'per_tile' or 'shared'")
    before = vision(pixel_values, index)
    generator = torch.Generator(stacked[0].lora_B.device).manual_seed(seed)
    changes = []
    for adapter in range(len(stacked[0].lora_B)):
        kept = [bank.lora_B[adapter].clone() for bank in stacked]
        for bank in stacked:
            bank.lora_B[adapter].normal_(std=0.05, generator=generator)
        after = vision(pixel_values, index)
        for bank, old in zip(stacked, kept, strict=True):
            bank.lora_B[adapter] = old
        changes.append((after - before).norm(dim=(1, 2)) / before.norm(dim=(1, 2)))
    return torch.stack(changes)
