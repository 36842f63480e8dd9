"""Effect of the LoRA of a single tile on the features of each view, and what trained LoRAs have become."""

import torch
from torch.nn import functional as F

from monkeylib.model.tile_lora import TileLoRA, tile_loras
from monkeylib.model.vision import VisionTransformer
from monkeylib.tables import Row

_STD = 0.05  # standard deviation of the random weights


def lora_layers(vision: VisionTransformer) -> list[TileLoRA]:
    """Return the LoRA layers of an encoder, three in each block."""
    return tile_loras(vision)


@torch.no_grad()
def measure_lora_effect(
    vision: VisionTransformer, pixel_values: torch.Tensor, index: list[int], seed: int = 0
) -> torch.Tensor:
    """Measure how much each view's features change when the LoRA of one tile position is made random.

    A new LoRA changes nothing, since its B is zero. Here the B of one tile position is drawn at random in
    every block, for one position after the other, and restored afterwards.

    Args:
        vision: an encoder in evaluation mode, with LoRA.
        pixel_values: views `[V, 3, side, side]`.
        index: the tile position whose LoRA each view uses, `[V]`; -1 for none.
        seed: seed of the random numbers.

    Returns:
        `[positions, V]`: |features after - before| / |features before|, exactly 0 where nothing changed.

    Raises:
        ValueError: the encoder has no LoRA.
    """
    layers = lora_layers(vision)
    if not layers:
        raise ValueError("this encoder has no LoRA: build it with lora_mode 'per_tile' or 'shared'")

    before = vision(pixel_values, index)
    generator = torch.Generator(layers[0].lora_B.device).manual_seed(seed)

    changes = []
    for position in range(len(layers[0].lora_B)):
        # B is restored exactly, so the encoder is unchanged in the end.
        saved = [layer.lora_B[position].clone() for layer in layers]
        for layer in layers:
            layer.lora_B[position].normal_(std=_STD, generator=generator)

        after = vision(pixel_values, index)
        for layer, lora_b in zip(layers, saved, strict=True):
            layer.lora_B[position] = lora_b

        # Norms over a view's patches and channels: one number for each view.
        changes.append((after - before).norm(dim=(1, 2)) / before.norm(dim=(1, 2)))

    return torch.stack(changes)


@torch.no_grad()
def describe_loras(vision: VisionTransformer) -> list[Row]:
    """Return the size of each tile's LoRA in each block, and how alike those of two tiles are.

    The update of tile i is the vector of all numbers of `scaling_i * B_i A_i`, over the projections of the
    block.

    Returns:
        A row for each `block` and each pair of `tile` and `other`, also of a tile with itself: the `cosine`
        of the two updates (0 if one is zero), and the `norm` of the update of `tile`.
    """
    rows: list[Row] = []
    for number, block in enumerate(vision.blocks):
        layers = tile_loras(block)
        if not layers:
            continue

        updates = torch.cat([_updates(layer) for layer in layers], dim=1)  # [tiles, numbers]
        norms = updates.norm(dim=1).tolist()
        directions = F.normalize(updates, dim=1)
        cosines = (directions @ directions.T).tolist()
        rows += [
            {"block": number, "tile": tile, "other": other, "norm": norm, "cosine": cosines[tile][other]}
            for tile, norm in enumerate(norms)
            for other in range(len(norms))
        ]
    return rows


def _updates(layer: TileLoRA) -> torch.Tensor:
    """Return what the LoRA of each tile adds to the projection, `[tiles, d_out * d_in]`."""
    updates = torch.bmm(layer.lora_B, layer.lora_A) * layer.scaling[:, None, None]
    return updates.flatten(1).float()
