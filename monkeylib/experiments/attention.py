"""Where the resampler's queries look, and how much of that is print."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from monkeylib.data.synthetic import Sample
from monkeylib.inference import Monkey
from monkeylib.processing import ImageInput, MonkeyImageProcessor
from monkeylib.tables import Value
from monkeylib.tiling import Grid, join_tiles, split_tiles


@dataclass(frozen=True)
class Looks:
    """What the queries of each view of one image attend to.

    `views [V, 3, side, side]` as the ViT gets them but with values from 0 to 1, tiles first, the global view
    last. `weights [V, queries, patches, patches]`: the mean over the heads; those of a query sum to 1.
    """

    views: torch.Tensor
    weights: torch.Tensor
    grid: Grid

    def tiles(self, query: int | None = None) -> torch.Tensor:
        """Attention over the tiles side by side, `[rows * patches, cols * patches]`: of one query in every
        tile, or of all queries together."""
        return join_tiles(self._of(query)[: self.grid.tiles, None], self.grid)[0]

    def whole(self, query: int | None = None) -> torch.Tensor:
        """Attention over the global view, `[patches, patches]`."""
        return self._of(query)[-1]

    def _of(self, query: int | None) -> torch.Tensor:
        return self.weights.mean(1) if query is None else self.weights[:, query]


def unnormalised(pixel_values: torch.Tensor, images: MonkeyImageProcessor) -> torch.Tensor:
    """Views `[V, 3, side, side]` as the processor gives them, back to values from 0 to 1."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (images.image_mean, images.image_std))
    return (pixel_values * std + mean).clamp(0, 1)


@torch.no_grad()
def look(monkey: Monkey, image: ImageInput) -> Looks:
    """Encode an image and keep the resampler's attention; the model is put in evaluation mode."""
    model, images = monkey.model.eval(), monkey.processor.image_processor
    features = images(image).to(model.device)
    pixels, grids = features["pixel_values"], features["grids"]
    side = pixels.shape[-1] // model.config.vision_config.patch_size
    patches = model.vision(pixels, model.lora_index(grids))
    _, weights = model.resampler(patches, (side, side), return_attention=True)
    views = unnormalised(pixels.cpu(), images)
    return Looks(views, weights.mean(1).unflatten(-1, (side, side)).cpu(), images.grid)


def written(sample: Sample, grid: Grid, side: int, tile: int) -> torch.Tensor:
    """How much of each patch of each view is covered by letters, `[tiles + 1, patches, patches]`, 0 to 1.

    Args:
        sample: a made image with its texts.
        grid: rows and columns of tiles.
        side: patches along a view's side.
        tile: a view's side in pixels.
    """
    width, height = sample.image.size
    mask = torch.zeros(1, 1, height, width)
    for text in sample.texts:
        for glyph in text.glyphs:
            x0, y0, x1, y1 = (max(0, round(edge)) for edge in glyph.box)
            mask[..., y0:y1, x0:x1] = 1
    full = F.interpolate(mask, size=(grid.rows * tile, grid.cols * tile), mode="area")[0]
    views = torch.cat([split_tiles(full, tile), F.interpolate(full[None], size=(tile, tile), mode="area")])
    return F.adaptive_avg_pool2d(views, side)[:, 0]


def on_print(monkey: Monkey, samples: Sequence[Sample]) -> list[dict[str, Value]]:
    """How much of the attention lies on letters, in tiles and in global views, against the letters' area.

    Returns:
        Rows `views`, `area` (share of the patches' area under letters), `attention` (share of the attention
        on it) and `ratio`, over all queries and samples.
    """
    shares = []
    for sample in samples:
        looks = look(monkey, sample.image)
        side = looks.weights.shape[-1]
        cover = written(sample, looks.grid, side, looks.views.shape[-1])
        attention = (looks.weights.mean(1) * cover).sum((1, 2))
        shares.append(torch.stack([cover.mean((1, 2)), attention], dim=1))
    mean = torch.stack(shares).mean(0)
    rows = {"tiles": mean[:-1].mean(0), "global view": mean[-1]}
    return [
        {"views": name, "area": float(area), "attention": float(seen), "ratio": float(seen / area)}
        for name, (area, seen) in rows.items()
    ]
