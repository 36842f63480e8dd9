"""Object regions by YOLOX-Nano on ONNX Runtime, where no expert of dense region captions runs."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from monkeylib import assets
from monkeylib.captions.annotations import ExpertOutput, Region
from monkeylib.captions.experts.base import Expert

ASSET = "yolox-nano"
SIDE = 416  # input pixels
STRIDES = (8, 16, 32)
_GREY = 114.0  # value around images that aren't square

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


def letterbox(image: Image.Image) -> tuple[np.ndarray, float]:
    """An image scaled into the top left of a grey square, `[1, 3, 416, 416]` BGR 0..255; and the scale."""
    scale = min(SIDE / image.width, SIDE / image.height)
    size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    canvas = np.full((SIDE, SIDE, 3), _GREY, dtype=np.float32)
    canvas[: size[1], : size[0]] = np.asarray(image.resize(size, Image.Resampling.BILINEAR))[:, :, ::-1]
    return canvas.transpose(2, 0, 1)[None], scale


def decode(output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes `[N, 4]` (x0, y0, x1, y1 in input pixels) and class scores `[N, 80]` of the network's `[N, 85]`.

    A row holds the centre relative to its cell and the logarithm of the size, both in units of the cell's
    stride, then the objectness and the class probabilities; cells come row by row, finest stride first.
    """
    cells = []
    for stride in STRIDES:
        side = SIDE // stride
        ys, xs = np.divmod(np.arange(side * side), side)
        cells.append(np.stack([xs, ys, np.full_like(xs, stride)], axis=1))
    grid = np.concatenate(cells).astype(np.float32)
    stride = grid[:, 2:]
    centre, half = (output[:, :2] + grid[:, :2]) * stride, np.exp(output[:, 2:4]) * stride / 2
    return np.concatenate([centre - half, centre + half], axis=1), output[:, 4:5] * output[:, 5:]


def keep_best(boxes: np.ndarray, scores: np.ndarray, iou: float) -> list[int]:
    """Non-maximum suppression: indices from the best score down, without those that overlap a kept one."""
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        corner0, corner1 = (
            np.maximum(boxes[best, :2], boxes[rest, :2]),
            np.minimum(boxes[best, 2:], boxes[rest, 2:]),
        )
        shared = np.prod(np.clip(corner1 - corner0, 0, None), axis=1)
        order = rest[shared <= iou * (area[best] + area[rest] - shared)]
    return kept


class YoloxRegions(Expert):
    """Objects of the 80 COCO classes, each with its box, name and confidence."""

    name = "yolox-nano"
    version = "coco-416"
    licence = "Apache-2.0"

    def __init__(
        self, minimum_score: float = 0.25, overlap: float = 0.45, threads: int | None = None
    ) -> None:
        self.minimum_score, self.overlap = minimum_score, overlap
        self.threads = threads or os.cpu_count() or 1

    @property
    def settings(self) -> dict[str, Any]:
        """The lowest score that is reported, and the IoU above which boxes of a class are one."""
        return {"minimum_score": self.minimum_score, "overlap": self.overlap}

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        return onnxruntime.InferenceSession(
            str(assets.fetch(ASSET)), options, providers=["CPUExecutionProvider"]
        )

    def prepare(self) -> None:
        """Load the network, fetched if it isn't there."""
        _ = self._session

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """The regions of each image, best first."""
        return [ExpertOutput(regions=self._detect(image.convert("RGB"))) for image in images]

    def _detect(self, image: Image.Image) -> tuple[Region, ...]:
        pixels, scale = letterbox(image)
        boxes, scores = decode(self._session.run(None, {self._session.get_inputs()[0].name: pixels})[0][0])
        limits = np.array([image.width, image.height] * 2)
        boxes = np.clip(boxes / scale, 0, limits)
        found = []
        for label in np.flatnonzero(scores.max(axis=0) >= self.minimum_score):
            sure = np.flatnonzero(scores[:, label] >= self.minimum_score)
            for index in sure[keep_best(boxes[sure], scores[sure, label], self.overlap)]:
                found.append((float(scores[index, label]), NAMES[label], tuple(boxes[index].tolist())))
        return tuple(
            Region(box=box, text=name, score=min(score, 1.0), expert=self.name)
            for score, name, box in sorted(found, reverse=True)
            if box[0] < box[2] and box[1] < box[3]
        )
