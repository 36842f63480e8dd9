"""Object regions by YOLOX-Nano on ONNX Runtime, for machines without a dense region captioner."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from monkeylib import assets
from monkeylib.captions.annotations import ExpertOutput, Region
from monkeylib.captions.models import Expert
from monkeylib.captions.registry import register_expert

ASSET = "yolox-nano"
SIDE = 416  # input pixels
STRIDES = (8, 16, 32)
_GREY = 114.0  # padding around images that are not square

_COCO = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella
handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard
surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange
broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop
mouse remote keyboard cell_phone microwave oven toaster sink refrigerator book clock vase scissors
teddy_bear hair_drier toothbrush
""".split()
NAMES = tuple(name.replace("_", " ") for name in _COCO)


@register_expert("yolox", sets={"cpu": 2, "demonstration": 2}, assets=(ASSET,))
class YoloxRegions(Expert):
    """Objects of the 80 COCO classes, each with its box, class name and confidence."""

    name = "yolox-nano"
    version = "coco-416"
    licence = "Apache-2.0"
    asset_names = (ASSET,)
    setting_names = ("minimum_score", "overlap")
    # Chosen on 64 labelled photographs: experiments.statement_accuracy.
    score_threshold = 0.75
    names_classes = True

    def __init__(
        self, minimum_score: float = 0.25, overlap: float = 0.45, threads: int | None = None
    ) -> None:
        self.minimum_score, self.overlap = minimum_score, overlap
        self.threads = threads or os.cpu_count() or 1

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        return onnxruntime.InferenceSession(
            str(assets.fetch(ASSET)), options, providers=["CPUExecutionProvider"]
        )

    def prepare(self) -> None:
        """Load the network, fetched first if it is missing."""
        _ = self._session

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return the objects of each image, best first."""
        return [ExpertOutput(regions=self._detect(image.convert("RGB"))) for image in images]

    def _detect(self, image: Image.Image) -> tuple[Region, ...]:
        pixels, scale = letterbox(image)
        output = self._session.run(None, {self._session.get_inputs()[0].name: pixels})[0][0]  # [N, 85]

        # Back to pixels of the image, and inside it.
        boxes, scores = decode(output)
        boxes = np.clip(boxes / scale, 0, np.array([image.width, image.height] * 2))

        # Suppress overlaps class by class.
        detections = []
        for label in np.flatnonzero(scores.max(axis=0) >= self.minimum_score):
            confident = np.flatnonzero(scores[:, label] >= self.minimum_score)
            selected = non_maximum_suppression(boxes[confident], scores[confident, label], self.overlap)
            for index in confident[selected]:
                box = tuple(boxes[index].tolist())
                detections.append((float(scores[index, label]), NAMES[label], box))

        return tuple(
            Region(box=box, text=name, score=min(score, 1.0), expert=self.name)
            for score, name, box in sorted(detections, reverse=True)
            if box[0] < box[2] and box[1] < box[3]
        )


def letterbox(image: Image.Image) -> tuple[np.ndarray, float]:
    """Scale an image into the top left of a grey square.

    Returns:
        The square, `[1, 3, 416, 416]` in BGR, 0..255, and the scale.
    """
    scale = min(SIDE / image.width, SIDE / image.height)
    width = max(1, int(image.width * scale))
    height = max(1, int(image.height * scale))

    # The network was trained on BGR, padded to the right and below.
    rgb = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))

    canvas = np.full((SIDE, SIDE, 3), _GREY, dtype=np.float32)
    canvas[:height, :width] = rgb[:, :, ::-1]
    return canvas.transpose(2, 0, 1)[None], scale


def decode(output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decode the network's output.

    A row holds the centre relative to its cell and the logarithm of the size, both in units of the cell's
    stride, then the objectness and the class probabilities. Cells come row by row, finest stride first:

        centre = (output + cell) * stride        size = exp(output) * stride        score = objectness * class

    Args:
        output: `[N, 85]`.

    Returns:
        Boxes `[N, 4]` (x0, y0, x1, y1 in input pixels), and class scores `[N, 80]`.
    """
    # Cell and stride of every row of the output.
    grids = []
    for stride in STRIDES:
        side = SIDE // stride
        ys, xs = np.divmod(np.arange(side * side), side)
        grids.append(np.stack([xs, ys, np.full_like(xs, stride)], axis=1))

    grid = np.concatenate(grids).astype(np.float32)  # [N, 3]
    cells, strides = grid[:, :2], grid[:, 2:]

    centres = (output[:, :2] + cells) * strides
    half_sizes = np.exp(output[:, 2:4]) * strides / 2
    boxes = np.concatenate([centres - half_sizes, centres + half_sizes], axis=1)
    return boxes, output[:, 4:5] * output[:, 5:]


def non_maximum_suppression(boxes: np.ndarray, scores: np.ndarray, iou: float) -> list[int]:
    """Return indices of boxes `[N, 4]`, best score first, without those that overlap a better one.

    Args:
        boxes: x0, y0, x1, y1 of each, in any unit.
        scores: `[N]`.
        iou: intersection over union above which two boxes overlap.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    remaining = np.argsort(-scores, kind="stable")

    selected = []
    while len(remaining):
        best, others = remaining[0], remaining[1:]
        selected.append(int(best))

        # Intersections of the best box with all remaining ones, [M].
        top_left = np.maximum(boxes[best, :2], boxes[others, :2])
        bottom_right = np.minimum(boxes[best, 2:], boxes[others, 2:])
        intersections = np.prod(np.clip(bottom_right - top_left, 0, None), axis=1)
        unions = areas[best] + areas[others] - intersections
        remaining = others[intersections <= iou * unions]

    return selected
