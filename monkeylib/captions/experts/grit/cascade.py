"""GRiT's detections: proposals, refined and scored by three stages (Cascade R-CNN, arXiv 1712.00726)."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from monkeylib.captions.experts.grit.config import GritConfig
from monkeylib.captions.experts.grit.pooling import pool_boxes
from monkeylib.captions.experts.grit.proposals import suppress_overlaps

# What the deltas of each stage are multiplied by: of the centre, of width and height.
DELTA_FACTORS = ((10.0, 5.0), (20.0, 10.0), (30.0, 15.0))

_BINS = 7  # side of a pooled box
_LARGEST_DELTA = math.log(1000 / 16)  # of width and height, as a logarithm


class CascadeStage(nn.Module):
    """Score boxes as objects, and predict how to move their sides."""

    def __init__(self, config: GritConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.channels * _BINS**2, config.box_width)
        self.fc2 = nn.Linear(config.box_width, config.box_width)
        self.score = nn.Linear(config.box_width, 2)
        self.delta = nn.Sequential(
            nn.Linear(config.box_width, config.box_width), nn.ReLU(), nn.Linear(config.box_width, 4)
        )

    def forward(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits `[N, 2]` (object, background) and deltas `[N, 4]` of `[N, channels, 7, 7]`."""
        x = F.relu(self.fc1(pooled.flatten(1)))
        x = F.relu(self.fc2(x))
        return self.score(x), self.delta(x)


class Cascade(nn.Module):
    """Refine and score proposals, and select detections."""

    def __init__(self, config: GritConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(CascadeStage(config) for _ in DELTA_FACTORS)

    def forward(
        self,
        maps: Sequence[torch.Tensor],
        boxes: torch.Tensor,
        proposal_scores: torch.Tensor,
        size: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the detections of one image, best first.

        A score is the geometric mean of the proposal's and of the stages' mean probability of an object.
        Each stage judges the boxes of the stage before it.

        Args:
            maps: p3, p4 and p5 of the image, `[channels, h, w]` each.
            boxes: proposals `[N, 4]` in pixels, not clipped.
            proposal_scores: `[N]`.
            size: height and width of the image in pixels, without padding.

        Returns:
            Boxes `[M, 4]` inside the image, and scores `[M]`.
        """
        probabilities = []
        for index, (stage, factors) in enumerate(zip(self.stages, DELTA_FACTORS, strict=True)):
            # As in the released code, only the boxes of a stage are clipped, not the proposals.
            if index > 0:
                boxes = clip(boxes, size)

            logits, deltas = stage(pool_boxes(maps, boxes, _BINS))
            probabilities.append(logits.softmax(dim=1)[:, 0])
            boxes = move(boxes, deltas, factors)

        scores = (torch.stack(probabilities).mean(dim=0) * proposal_scores).sqrt()
        return self._select(clip(boxes, size), scores)

    def _select(self, boxes: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        usable = boxes.isfinite().all(dim=1) & scores.isfinite()
        usable &= scores > self.config.score_threshold
        boxes, scores = boxes[usable], scores[usable]

        best = suppress_overlaps(boxes, scores, self.config.detection_iou)[: self.config.detections]
        return boxes[best], scores[best]


def move(boxes: torch.Tensor, deltas: torch.Tensor, factors: tuple[float, float]) -> torch.Tensor:
    """Return boxes `[N, 4]` moved by the deltas that a stage predicts (R-CNN, arXiv 1311.2524, appendix C).

        centre += delta * extent        extent *= exp(delta)

    Args:
        boxes: `[N, 4]` in pixels.
        deltas: `[N, 4]` of centre (x, y), width and height, times the factors.
        factors: what deltas of the centre, and those of width and height, are divided by.
    """
    extents = boxes[:, 2:] - boxes[:, :2]
    centres = boxes[:, :2] + 0.5 * extents

    centres = centres + deltas[:, :2] / factors[0] * extents
    extents = extents * (deltas[:, 2:] / factors[1]).clamp(max=_LARGEST_DELTA).exp()

    return torch.cat([centres - 0.5 * extents, centres + 0.5 * extents], dim=1)


def clip(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return the parts of boxes `[N, 4]` that lie inside an image of `size` (height, width)."""
    height, width = size
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)
