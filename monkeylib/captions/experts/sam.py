"""Segments by SAM's automatic masks (the paper's segmenter), without words: a describer gives them theirs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from monkeylib.captions.annotations import ExpertOutput, Mask, Region
from monkeylib.captions.experts.base import Expert
from monkeylib.captions.experts.pretrained import Pretrained, chunks
from monkeylib.captions.experts.yolox import keep_best

POINTS = 32  # a side: segment-anything's default, as all below
PREDICTED_IOU = 0.88
STABILITY = 0.95
OVERLAP = 0.7
_ENLARGED = 1 << 28  # pixels of masks that are enlarged at once: a gigabyte of logits


class SamMasks(Pretrained, Expert):
    """Everything that SAM takes for a segment when asked at each point of a grid, best first.

    A mask is kept if SAM thinks that it is good (its predicted IoU, which becomes the region's score) and if
    it hardly changes when the threshold of its logits does (stability); of overlapping ones the best stays.
    transformers' own pipeline does the same, but needs torchvision and enlarges all three masks of a point
    before it looks at any score: here those that SAM thinks little of are never enlarged.
    """

    name = "sam"
    licence = "Apache-2.0"
    hub = "facebook/sam-vit-huge"
    revision = "87aecf0df4ce6b30cd7de76e87673c49644bdf67"
    network = "SamModel"
    processor = "SamImageProcessorPil"
    gpu_share = 0.25

    def __init__(
        self,
        points: int = POINTS,
        predicted_iou: float = PREDICTED_IOU,
        stability: float = STABILITY,
        overlap: float = OVERLAP,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 2,
        points_at_once: int = 64,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            points: of the grid, a side.
            predicted_iou: masks up to this are left out.
            stability: masks up to this are left out.
            overlap: IoU of boxes above which the mask with the lower predicted IoU is left out.
            device: see `Pretrained`, as `dtype` and `batch_size`.
            dtype: float32 also on a GPU, as segment-anything computes, unless told otherwise.
            batch_size: images that go through the encoder at once.
            points_at_once: points that go through the decoder at once.
        """
        super().__init__(device, dtype, batch_size)
        self.points, self.predicted_iou, self.stability = points, predicted_iou, stability
        self.overlap, self.points_at_once = overlap, points_at_once

    @property
    def settings(self) -> dict[str, Any]:
        """The weights, the grid and the three thresholds."""
        own = {name: getattr(self, name) for name in ("points", "predicted_iou", "stability", "overlap")}
        return {**super().settings, **own}

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """The masks of each image as regions without text."""
        rgb = [image.convert("RGB") for image in images]
        return [found for batch in chunks(rgb, self.batch_size) for found in self._annotate(batch)]

    def _annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        import torch

        network, processor = self.parts
        inputs = processor(images=list(images), return_tensors="pt")
        with torch.inference_mode():
            pixels = inputs.pixel_values.to(network.device, network.dtype)
            embeddings = network.get_image_embeddings(pixels)
            sizes = inputs.reshaped_input_sizes.tolist()
            return [
                ExpertOutput(regions=self._regions(image, embedding[None], size))
                for image, embedding, size in zip(images, embeddings, sizes, strict=True)
            ]

    def _regions(self, image: Image.Image, embedding: Any, inner: Sequence[int]) -> tuple[Region, ...]:
        """Masks of one image: embedding `[1, C, h, w]`, the image's height and width in the input."""
        boxes, scores, masks = [], [], []
        for points in chunks(self._grid(image.size), self.points_at_once):
            for box, score, mask in self._decode(image, embedding, inner, points):
                boxes.append(box)
                scores.append(score)
                masks.append(mask)
        kept = keep_best(np.array(boxes, dtype=float), np.array(scores), self.overlap) if boxes else []
        return tuple(
            Region(
                box=(*boxes[i][:2], *(last + 1 for last in boxes[i][2:])),
                text="",
                score=min(max(scores[i], 0.0), 1.0),
                expert=self.name,
                kind="segment",
                mask=Mask(size=tuple(masks[i]["size"]), counts=tuple(masks[i]["counts"])),
            )
            for i in kept
        )

    def _grid(self, size: tuple[int, int]) -> np.ndarray:
        """The points of an image of that width and height, `[points squared, 2]` x and y in input pixels."""
        _, processor = self.parts
        longest = processor.size["longest_edge"]
        blank = Image.new("L", size)  # only its size counts
        _, grid, _, _ = processor.generate_crop_boxes(blank, longest, points_per_crop=self.points)
        return grid[0, :, 0].numpy()

    def _decode(
        self, image: Image.Image, embedding: Any, inner: Sequence[int], points: np.ndarray
    ) -> list[tuple[list[float], float, dict[str, Any]]]:
        """Box (first and last pixels), predicted IoU and run lengths of what passes of each point's masks."""
        import torch

        network, processor = self.parts
        asked = torch.as_tensor(points, dtype=torch.float32, device=network.device)[None, :, None]
        said = network(image_embeddings=embedding, input_points=asked)
        scores, logits = said.iou_scores[0].flatten().float(), said.pred_masks[0].flatten(0, 1).float()
        size, found = (image.height, image.width), []
        good = (scores > self.predicted_iou).nonzero()[:, 0]
        for part in good.split(max(1, _ENLARGED // (image.height * image.width))):
            if not len(part):
                continue
            large = processor.post_process_masks([logits[part][None]], [size], [inner], binarize=False)[0]
            masks, sure, boxes = processor.filter_masks(
                large, scores[part][None], size, (0, 0, image.width, image.height),
                pred_iou_thresh=self.predicted_iou, stability_score_thresh=self.stability,
            )  # fmt: skip
            found += zip(boxes.tolist(), sure.tolist(), masks, strict=True)
        return [item for item in found if len(item[2]["counts"]) > 1]  # the others are empty
