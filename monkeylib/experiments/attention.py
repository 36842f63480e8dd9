"""Attention of the resampler's queries over an image, and how much of it falls on text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from monkeylib.data.synthetic import Sample
from monkeylib.images import ImageInput
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyImageProcessor
from monkeylib.tables import Value
from monkeylib.tiling import Grid, covered_side, join_tiles, split_tiles


@dataclass(frozen=True)
class AttentionMaps:
    """Attention of the queries over each view of one image.

    Attributes:
        views: `[V, 3, side, side]`, the views as the ViT gets them but with values from 0 to 1; tiles first,
            the global view last.
        weights: `[V, queries, patches, patches]`, the mean over the heads; those of a query sum to 1.
        grid: rows and columns of tiles.
        overlap: patches that neighbouring tiles share.
    """

    views: torch.Tensor
    weights: torch.Tensor
    grid: Grid
    overlap: int = 0

    def view_names(self) -> list[str]:
        """Return what the views are called, in their order: "tile 0", ..., "global view"."""
        tiles = self.grid.tiles
        return [f"tile {number}" for number in range(tiles)] + ["global view"] * (len(self.views) - tiles)

    def over_tiles(self, query: int | None = None) -> torch.Tensor:
        """Return the attention over the tiles side by side, `[rows * patches, cols * patches]`; where they
        overlap, the mean.

        Args:
            query: a query, the same one in every tile; None for the mean over all queries.
        """
        tiles = self.over_views(query)[: self.grid.tiles]
        return join_tiles(tiles[:, None], self.grid, self.overlap)[0]

    def over_global_view(self, query: int | None = None) -> torch.Tensor:
        """Return the attention over the global view, `[patches, patches]`."""
        return self.over_views(query)[-1]

    def over_views(self, query: int | None = None) -> torch.Tensor:
        """Return the attention over each view, `[V, patches, patches]`; that over a view sums to 1."""
        return self.weights.mean(1) if query is None else self.weights[:, query]


@torch.no_grad()
def compute_attention_maps(monkey: Monkey, image: ImageInput) -> AttentionMaps:
    """Encode an image and return the resampler's attention; the model is put in evaluation mode.

    Raises:
        ValueError: tiles overlap by less than whole patches.
    """
    model = monkey.model.eval()
    images = monkey.processor.image_processor
    patch_size = model.config.vision_config.patch_size
    if images.tile_overlap % patch_size:
        raise ValueError(
            f"tiles that overlap by {images.tile_overlap} pixels share no whole patches of {patch_size}: the "
            "attention over them cannot be joined to one map"
        )
    features = images(image, monkey.grid).to(model.device)
    pixels = features["pixel_values"]  # [V, 3, side, side]

    # [V, patches, width] -> attention [V, heads, queries, patches]
    patches = model.vision(pixels, model.lora_index(features["grids"]))
    side = pixels.shape[-1] // patch_size
    _, weights = model.resampler(patches, (side, side), return_attention=True)

    # [V, heads, queries, patches] -> mean over the heads, patches back in their rows and columns
    weights = weights.mean(1).unflatten(-1, (side, side))
    grid = Grid(*features["grids"][0].tolist())
    overlap = images.tile_overlap // patch_size
    return AttentionMaps(denormalise(pixels.cpu(), images), weights.cpu(), grid, overlap)


def denormalise(pixel_values: torch.Tensor, images: MonkeyImageProcessor) -> torch.Tensor:
    """Undo the processor's normalisation of views `[V, 3, side, side]`: values from 0 to 1."""
    if not images.exact:
        return pixel_values / 255
    mean = torch.tensor(images.image_mean)[:, None, None]
    std = torch.tensor(images.image_std)[:, None, None]
    return (pixel_values * std + mean).clamp(0, 1)


def text_coverage(sample: Sample, grid: Grid, side: int, tile: int, overlap: int = 0) -> torch.Tensor:
    """Return the share of each patch that letters cover, `[tiles + 1, side, side]`, tiles first.

    Args:
        sample: a synthetic image with its texts.
        grid: rows and columns of tiles.
        side: patches along a view's side.
        tile: a view's side in pixels.
        overlap: pixels that neighbouring tiles share.
    """
    # A mask of the glyphs at the size of the image.
    width, height = sample.image.size
    mask = torch.zeros(1, 1, height, width)
    for text in sample.texts:
        for glyph in text.glyphs:
            x0, y0, x1, y1 = (max(0, round(edge)) for edge in glyph.box)
            mask[..., y0:y1, x0:x1] = 1

    # The views as the processor makes them from the image.
    covered = [covered_side(tiles, tile, overlap) for tiles in grid]
    full_image = F.interpolate(mask, size=covered, mode="area")[0]
    global_view = F.interpolate(full_image[None], size=(tile, tile), mode="area")
    views = torch.cat([split_tiles(full_image, tile, overlap), global_view])
    return F.adaptive_avg_pool2d(views, side)[:, 0]


def attention_on_text(monkey: Monkey, samples: Sequence[Sample]) -> list[dict[str, Value]]:
    """Compare the attention that falls on letters with the area of the letters, over all queries and samples.

    Returns:
        A row for the tiles and one for the global view, with `views`, `area` (share of the patches' area
        under letters), `attention` (share of the attention on it) and `ratio` (1 for queries that ignore the
        text).
    """
    shares = []
    for sample in samples:
        maps = compute_attention_maps(monkey, sample.image)
        overlap = monkey.processor.image_processor.tile_overlap
        coverage = text_coverage(sample, maps.grid, maps.weights.shape[-1], maps.views.shape[-1], overlap)
        # The mean over queries sums to 1 over a view, so this is a share, [V].
        attention = (maps.weights.mean(1) * coverage).sum((1, 2))
        shares.append(torch.stack([coverage.mean((1, 2)), attention], dim=1))

    mean_shares = torch.stack(shares).mean(0)  # [V, 2]: area and attention
    shares_of = {"tiles": mean_shares[:-1].mean(0), "global view": mean_shares[-1]}
    return [
        {
            "views": name,
            "area": float(area),
            "attention": float(attention),
            "ratio": float(attention / area),
        }
        for name, (area, attention) in shares_of.items()
    ]
