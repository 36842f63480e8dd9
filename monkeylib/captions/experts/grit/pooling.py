"""ROIAlign: the features inside a box, resampled to a square (Mask R-CNN, arXiv 1703.06870, section 3).

As detectron2 computes it: without rounding, with a shift by half a cell, and with as many samples per bin as
the box has cells there. Bilinear interpolation is separable, and so is its mean over the samples of a bin:
pooling a box is a product with one matrix for its rows and one for its columns.
"""

from collections.abc import Sequence

import torch

from monkeylib.captions.experts.grit.config import STRIDES

_USUAL_SIDE, _USUAL_LEVEL = 224, 1  # pixels of a box that is pooled from p4, the second map


def pool_boxes(maps: Sequence[torch.Tensor], boxes: torch.Tensor, bins: int) -> torch.Tensor:
    """Pool each box from the map that fits its size.

    Args:
        maps: p3, p4 and p5 of one image, `[C, h, w]` each.
        boxes: `[N, 4]` in pixels; they may reach beyond the image.
        bins: side of the square in bins.

    Returns:
        `[N, C, bins, bins]`.
    """
    pooled = boxes.new_zeros(len(boxes), maps[0].shape[0], bins, bins)

    levels = choose_levels(boxes, len(maps))
    for level, (features, stride) in enumerate(zip(maps, STRIDES, strict=False)):
        indices = (levels == level).nonzero()[:, 0]
        x0, y0, x1, y1 = (boxes[indices] / stride - 0.5).T  # in cells
        rows = _interpolation(y0, y1, bins, features.shape[1])
        columns = _interpolation(x0, x1, bins, features.shape[2])

        # One box at a time, and only the cells that it needs: a product with all cells would cost more.
        spans = zip(_span(rows), _span(columns), strict=True)
        for i, ((top, bottom), (left, right)) in enumerate(spans):
            inside = features[:, top:bottom, left:right]
            across = inside @ columns[i, :, left:right].T  # [C, cells, bins]
            pooled[indices[i]] = rows[i, :, top:bottom] @ across

    return pooled


def choose_levels(boxes: torch.Tensor, count: int) -> torch.Tensor:
    """Return the map `[N]` of each box, 0 for the finest of `count`, by the square root of the box's area.

    A box of 224 pixels belongs to p4, one of twice that to the next coarser map (feature pyramid networks,
    arXiv 1612.03144, equation 1).
    """
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    levels = (_USUAL_LEVEL + torch.log2(sides / _USUAL_SIDE + 1e-8)).floor()
    return levels.clamp(0, count - 1).long()


def _interpolation(starts: torch.Tensor, ends: torch.Tensor, bins: int, cells: int) -> torch.Tensor:
    """Return the weight `[N, bins, cells]` of each cell of an axis in each bin.

    Args:
        starts: first side of each box, `[N]` in cells.
        ends: second side.
        bins: number of bins.
        cells: cells of the map along the axis.
    """
    extents = ends - starts
    counts = (extents / bins).ceil()  # samples per bin; a box without extent has none

    positions = torch.arange(cells, device=starts.device)
    offsets = torch.arange(bins, device=starts.device)
    weights = starts.new_zeros(len(starts), bins, cells)

    for sample in range(int(counts.max()) if len(counts) else 0):
        # Samples lie evenly in each bin.
        shares = offsets + (sample + 0.5) / counts.clamp(min=1)[:, None]
        samples = starts[:, None] + shares * (extents / bins)[:, None]  # [N, bins]

        # A sample beyond the map by more than a cell counts as 0; a nearer one has the value of the edge.
        counted = (samples >= -1) & (samples <= cells) & (sample < counts)[:, None]
        distances = samples.clamp(0, cells - 1)[..., None] - positions
        weights += (1 - distances.abs()).clamp(min=0) * counted[..., None]

    return weights / counts.clamp(min=1)[:, None, None]


def _span(weights: torch.Tensor) -> list[list[int]]:
    """Return the first and the last (exclusive) cell with a weight, of each `[bins, cells]` of a batch."""
    used = (weights > 0).any(dim=1).int()
    firsts = used.argmax(dim=1)
    lasts = used.shape[1] - used.flip(1).argmax(dim=1)
    return torch.stack([firsts, lasts], dim=1).tolist()
