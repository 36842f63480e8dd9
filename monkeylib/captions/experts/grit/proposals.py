"""GRiT's region proposals: the first stage of CenterNet2 (arXiv 2103.07461).

Each cell of a map says how probably it is the centre of an object, of whatever class, and how far away the
four sides of the object are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from monkeylib.captions.experts.grit.config import STRIDES, GritConfig
from monkeylib.captions.experts.yolox import non_maximum_suppression

_SMALLEST = 0.01  # pixels that a proposed box is wide and high, at least


class CellPredictions(NamedTuple):
    """What the cells of one map predict: `logits` `[B, h, w]` of a centre, `distances` `[B, 4, h, w]`.

    The distances are those to the left, upper, right and lower side, in cells.
    """

    logits: torch.Tensor
    distances: torch.Tensor


class ProposalHead(nn.Module):
    """Predict centres and sides, with the same weights for all maps but for a factor of the distances."""

    def __init__(self, config: GritConfig) -> None:
        super().__init__()
        channels = config.channels

        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(32, channels), nn.ReLU()]
        self.tower = nn.Sequential(*layers)

        self.heatmap = nn.Conv2d(channels, 1, 3, padding=1)
        self.distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.scales = nn.ParameterList(torch.ones(1) for _ in STRIDES)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[CellPredictions]:
        """Return the predictions of each of the maps p3 to p7, `[B, channels, h, w]`."""
        predictions = []
        for features, scale in zip(maps, self.scales, strict=True):
            x = self.tower(features)
            distances = F.relu(self.distances(x) * scale)
            predictions.append(CellPredictions(self.heatmap(x)[:, 0], distances))

        return predictions


def select_proposals(
    predictions: Sequence[CellPredictions], image: int, config: GritConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best proposals of an image, best first.

    The boxes are not clipped to the image, as in the released code: so they go into the cascade.

    Args:
        predictions: of the maps p3 to p7.
        image: index of the image within the batch.
        config: thresholds and numbers.

    Returns:
        Boxes `[N, 4]` in pixels, and scores `[N]`, 0..1.
    """
    candidates = []
    for level, stride in zip(predictions, STRIDES, strict=True):
        candidates.append(_level_proposals(level.logits[image], level.distances[image], stride, config))
    boxes, scores = (torch.cat(parts) for parts in zip(*candidates, strict=True))

    chosen = suppress_overlaps(boxes, scores, config.proposal_iou)
    boxes, scores = boxes[chosen], scores[chosen]

    if len(scores) > config.proposals:
        # Equal scores at the limit all stay.
        enough = scores >= scores[config.proposals - 1]
        boxes, scores = boxes[enough], scores[enough]

    return boxes, scores


def _level_proposals(
    logits: torch.Tensor, distances: torch.Tensor, stride: int, config: GritConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return boxes `[N, 4]` and scores `[N]` of the best cells of one map, in no particular order.

    Args:
        logits: `[h, w]`.
        distances: `[4, h, w]` in cells.
        stride: pixels per cell.
        config: thresholds and numbers.
    """
    probabilities = logits.sigmoid().flatten()
    cells = (probabilities > config.heatmap_threshold).nonzero()[:, 0]
    if len(cells) > config.level_proposals:
        cells = cells[probabilities[cells].topk(config.level_proposals).indices]

    # The middle of each cell, in pixels.
    columns = logits.shape[1]
    x = cells % columns * stride + stride // 2
    y = cells // columns * stride + stride // 2

    left, top, right, bottom = distances.flatten(1)[:, cells] * stride
    x0, y0 = x - left, y - top
    x1, y1 = torch.maximum(x + right, x0 + _SMALLEST), torch.maximum(y + bottom, y0 + _SMALLEST)

    return torch.stack([x0, y0, x1, y1], dim=1), probabilities[cells].sqrt()


def suppress_overlaps(boxes: torch.Tensor, scores: torch.Tensor, iou: float) -> torch.Tensor:
    """Return the indices of boxes `[N, 4]`, best score first, without those that overlap a better one."""
    indices = non_maximum_suppression(boxes.cpu().numpy(), scores.cpu().numpy(), iou)
    return torch.tensor(indices, dtype=torch.long, device=boxes.device)
