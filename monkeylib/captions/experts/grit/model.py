"""GRiT: the objects of an image, each with a box and a phrase (arXiv 2212.00280), in plain PyTorch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from monkeylib.captions.experts.grit.cascade import Cascade, clip
from monkeylib.captions.experts.grit.config import GritConfig
from monkeylib.captions.experts.grit.decoder import TextDecoder
from monkeylib.captions.experts.grit.pooling import pool_boxes
from monkeylib.captions.experts.grit.proposals import ProposalHead, select_proposals
from monkeylib.captions.experts.grit.pyramid import FeaturePyramid
from monkeylib.captions.experts.grit.vit import VisionTransformer

BOXES_AT_ONCE = 64  # that are captioned: their keys and values take 0.6 GB

_MEAN = torch.tensor((123.675, 116.28, 103.53)).view(3, 1, 1)  # of ImageNet's red, green and blue, 0..255
_STD = torch.tensor((58.395, 57.12, 57.375)).view(3, 1, 1)
_MULTIPLE = 32  # pixels that the sides of the padded image divide into
_POOLED_MAPS = 3  # boxes are pooled from p3, p4 and p5
_TEXT_BINS = 14


class PreparedImage(NamedTuple):
    """An image as GRiT takes it.

    Fields:
        pixels: `[3, H, W]`, normalised and padded.
        size: height and width in pixels after resizing, without the padding.
        original_size: height and width before.
    """

    pixels: torch.Tensor
    size: tuple[int, int]
    original_size: tuple[int, int]


class Detections(NamedTuple):
    """Objects of an image, by the score of their boxes.

    Fields:
        boxes: `[N, 4]` in pixels.
        scores: `[N]`, 0..1: the geometric mean of a box's score and its caption's probability per id.
        ids: token ids of the captions `[N, max_ids]`, which begin with an id that is no word.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    ids: torch.Tensor


class Grit(nn.Module):
    """Detect objects and caption them."""

    def __init__(self, config: GritConfig) -> None:
        super().__init__()
        self.config = config
        self.vit = VisionTransformer(config)
        self.pyramid = FeaturePyramid(config)
        self.proposals = ProposalHead(config)
        self.cascade = Cascade(config)
        self.decoder = TextDecoder(config)

    def forward(self, images: Sequence[PreparedImage]) -> list[Detections]:
        """Return the detections of each image, in pixels of the original.

        Args:
            images: of one size with their padding, which is not masked: another one would change the result.
        """
        device = self.decoder.bias.device
        pixels = torch.stack([image.pixels for image in images]).to(device)

        maps = self.pyramid(self.vit(pixels))
        predictions = self.proposals(maps)

        # From here on, images differ in their number of boxes.
        boxes, scores, pooled = [], [], []
        for index, image in enumerate(images):
            own_maps = [features[index] for features in maps[:_POOLED_MAPS]]
            own_boxes, proposal_scores = select_proposals(predictions, index, self.config)
            own_boxes, own_scores = self.cascade(own_maps, own_boxes, proposal_scores, image.size)

            boxes.append(own_boxes)
            scores.append(own_scores)
            pooled.append(pool_boxes(own_maps, own_boxes, _TEXT_BINS))

        # Captions of all images together. The rows are not sorted again by the scores that come out.
        captions = [self.decoder(some) for some in torch.cat(pooled).split(BOXES_AT_ONCE)]
        ids, mean_logs = (torch.cat(parts) for parts in zip(*captions, strict=True))
        joint_scores = (torch.cat(scores) * mean_logs.exp()).sqrt()

        counts = [len(own_boxes) for own_boxes in boxes]
        rows = zip(boxes, joint_scores.split(counts), ids.split(counts), strict=True)
        return [_in_original_pixels(Detections(*own), image) for own, image in zip(rows, images, strict=True)]


def prepare(image: Image.Image, config: GritConfig) -> PreparedImage:
    """Resize, normalise and pad an RGB image, which stands upright."""
    height, width = resized_size(image.height, image.width, config)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)

    # The padding is zero after normalising, that is ImageNet's mean colour.
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    pixels = (pixels - _MEAN) / _STD
    pixels = F.pad(pixels, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE))

    return PreparedImage(pixels, (height, width), (image.height, image.width))


def resized_size(height: int, width: int, config: GritConfig) -> tuple[int, int]:
    """Return height and width with the shorter side as configured, unless the longer one becomes too long."""
    scale = config.short_side / min(height, width)
    new_height, new_width = scale * height, scale * width

    longer = max(new_height, new_width)
    if longer > config.long_side:
        new_height, new_width = (side * config.long_side / longer for side in (new_height, new_width))

    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def _in_original_pixels(detections: Detections, image: PreparedImage) -> Detections:
    """Scale the boxes to the original image, clip them, and leave out those that are empty then."""
    boxes = to_original_pixels(detections.boxes, image.size, image.original_size)
    usable = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0]
    return Detections(*(rows[usable] for rows in (boxes, detections.scores, detections.ids)))


def to_original_pixels(
    boxes: torch.Tensor, size: tuple[int, int], original_size: tuple[int, int]
) -> torch.Tensor:
    """Return boxes `[N, 4]` of an image that was resized to `size` (height, width), in original pixels."""
    down, across = (original / resized for original, resized in zip(original_size, size, strict=True))
    return clip(boxes * boxes.new_tensor([across, down, across, down]), original_size)
