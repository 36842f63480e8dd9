"""Segments by SAM's automatic mask generation (the paper's segmenter); region captioners add their texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from monkeylib.captions.annotations import ExpertOutput, Mask, Region
from monkeylib.captions.experts.pretrained import Pretrained, batches
from monkeylib.captions.experts.yolox import non_maximum_suppression
from monkeylib.captions.models import Expert

POINTS = 32  # a side: segment-anything's default, as all below
PREDICTED_IOU = 0.88
STABILITY = 0.95
OVERLAP = 0.7
_ENLARGED = 1 << 28  # pixels of masks that are enlarged at once: a gigabyte of logits


class SamMasks(Pretrained, Expert):
    """SAM's masks for each point of a grid of prompts, best first.

    A mask passes if its predicted IoU is high (it becomes the region's score) and if it hardly changes when
    the threshold of its logits does (stability); of overlapping masks, only the best is returned. The
    pipeline of transformers does the same, but needs torchvision and enlarges all three masks of a point
    before it checks any score. Here, masks with a low predicted IoU are never enlarged.
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
        """Create the expert; nothing is loaded yet.

        Args:
            points: number of grid points per side.
            predicted_iou: masks up to this predicted IoU are dropped.
            stability: masks up to this stability are dropped.
            overlap: IoU of boxes above which the mask with the lower predicted IoU is dropped.
            device: see `Pretrained`.
            dtype: data type; "auto" is float32 also on a GPU, as in segment-anything.
            batch_size: number of images that the encoder gets at once.
            points_at_once: number of points that the decoder gets at once.
        """
        super().__init__(device, dtype, batch_size)
        self.points = points
        self.predicted_iou = predicted_iou
        self.stability = stability
        self.overlap = overlap
        self.points_at_once = points_at_once

    @property
    def settings(self) -> dict[str, Any]:
        """The weights, the grid and the three thresholds."""
        return {
            **super().settings,
            "points": self.points,
            "predicted_iou": self.predicted_iou,
            "stability": self.stability,
            "overlap": self.overlap,
        }

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return the masks of each image as regions without text."""
        annotations = []
        for batch in batches(images, self.batch_size):
            annotations += self._annotate_batch([image.convert("RGB") for image in batch])
        return annotations

    def _annotate_batch(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        import torch

        network, processor = self.parts
        inputs = processor(images=list(images), return_tensors="pt")

        annotations = []
        with torch.inference_mode():
            pixels = inputs.pixel_values.to(network.device, network.dtype)
            embeddings = network.get_image_embeddings(pixels)  # [B, C, h, w]
            sizes = inputs.reshaped_input_sizes.tolist()
            for image, embedding, size in zip(images, embeddings, sizes, strict=True):
                annotations.append(ExpertOutput(regions=self._regions(image, embedding[None], size)))

        return annotations

    def _regions(self, image: Image.Image, embedding: Any, input_size: Sequence[int]) -> tuple[Region, ...]:
        """Return the masks of one image.

        Args:
            image: the image.
            embedding: `[1, C, h, w]`, from the encoder.
            input_size: height and width that the image has within the encoder's square input.
        """
        # Masks are decoded a few points at a time, and compared with each other at the end.
        boxes, scores, masks = [], [], []
        for points in batches(self._grid(image.size), self.points_at_once):
            for box, score, mask in self._decode(image, embedding, input_size, points):
                boxes.append(box)
                scores.append(score)
                masks.append(mask)

        if not boxes:
            return ()

        regions = []
        for i in non_maximum_suppression(np.array(boxes, dtype=float), np.array(scores), self.overlap):
            # The processor gives the first and the last pixel of a mask; a box ends after its last pixel.
            x0, y0, last_x, last_y = boxes[i]
            region = Region(
                box=(x0, y0, last_x + 1, last_y + 1),
                text="",
                score=min(max(scores[i], 0.0), 1.0),
                expert=self.name,
                kind="segment",
                mask=Mask(size=tuple(masks[i]["size"]), counts=tuple(masks[i]["counts"])),
            )
            regions.append(region)

        return tuple(regions)

    def _grid(self, size: tuple[int, int]) -> np.ndarray:
        """Return the points `[points², 2]` (x, y in input pixels) of an image of that width and height."""
        _, processor = self.parts
        longest = processor.size["longest_edge"]
        blank = Image.new("L", size)  # only its size counts
        _, points, _, _ = processor.generate_crop_boxes(blank, longest, points_per_crop=self.points)
        return points[0, :, 0].numpy()

    def _decode(
        self, image: Image.Image, embedding: Any, input_size: Sequence[int], points: np.ndarray
    ) -> list[tuple[list[float], float, dict[str, Any]]]:
        """Return box (first and last pixels), predicted IoU and run lengths of each mask that passes."""
        import torch

        network, processor = self.parts
        prompts = torch.as_tensor(points, dtype=torch.float32, device=network.device)[None, :, None]
        output = network(image_embeddings=embedding, input_points=prompts)

        # Three masks a point: scores [3 * points], logits [3 * points, h, w].
        scores = output.iou_scores[0].flatten().float()
        logits = output.pred_masks[0].flatten(0, 1).float()
        promising = (scores > self.predicted_iou).nonzero()[:, 0]

        masks = []
        size = (image.height, image.width)
        masks_at_once = max(1, _ENLARGED // (image.height * image.width))
        for indices in promising.split(masks_at_once):
            if not len(indices):
                continue
            enlarged = processor.post_process_masks(
                [logits[indices][None]], [size], [input_size], binarize=False
            )[0]

            # Stability is only known at the size of the image.
            run_lengths, passing_scores, boxes = processor.filter_masks(
                enlarged,
                scores[indices][None],
                size,
                (0, 0, image.width, image.height),
                pred_iou_thresh=self.predicted_iou,
                stability_score_thresh=self.stability,
            )
            masks += zip(boxes.tolist(), passing_scores.tolist(), run_lengths, strict=True)

        # A mask of a single run is empty.
        return [mask for mask in masks if len(mask[2]["counts"]) > 1]
