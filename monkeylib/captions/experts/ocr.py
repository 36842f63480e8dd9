"""Lines of text by PP-OCR (the paper's text expert), run by rapidocr on ONNX Runtime."""

import math
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from monkeylib import assets
from monkeylib.captions.annotations import ExpertOutput, OcrLine
from monkeylib.captions.models import Expert
from monkeylib.captions.registry import register_expert

ASSET = "pp-ocr-v6-small"

# Of an image: letters need some pixels, and the detector enlarges the shorter side, and the longer one with
# it, whatever memory that takes.
SMALLEST_SIDE = 5  # pixels
LARGEST_RATIO = 16  # of the longer side to the shorter one
_TALL = 1.5  # height / width from which rapidocr takes a line for a vertical one


@register_expert("pp-ocr", sets={"cpu": 1, "demonstration": 1, "paper": 4, "vision": 2}, assets=(ASSET,))
class PpOcr(Expert):
    """PP-OCRv6 small: detects lines, turns those that are upside down, and reads them.

    The paper used an earlier PP-OCR. Every line is reported with its confidence, from `minimum_confidence`
    up; the paper's threshold is applied by the filter.
    """

    name = "pp-ocr"
    version = "v6-small-2"  # 2: corners begin at the top left of the text, however it is turned
    licence = "Apache-2.0"
    setting_names = ("minimum_confidence",)
    asset_names = (ASSET,)

    def __init__(self, minimum_confidence: float = 0.3, threads: int | None = None) -> None:
        self.minimum_confidence = minimum_confidence
        self.threads = threads or os.cpu_count() or 1

    @cached_property
    def _engine(self) -> Any:
        # Detection, direction of the lines, recognition.
        folder = assets.fetch(ASSET)
        return _oriented_engine_type()(
            params={
                "Global.log_level": "error",
                "Global.text_score": self.minimum_confidence,
                "EngineConfig.onnxruntime.intra_op_num_threads": self.threads,
                "Det.model_path": str(folder / "PP-OCRv6_det_small.onnx"),
                "Cls.model_path": str(folder / "ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
                "Rec.model_path": str(folder / "PP-OCRv6_rec_small.onnx"),
            }
        )

    def prepare(self) -> None:
        """Load the three networks."""
        _ = self._engine

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return the lines of text of each image, in the detector's reading order."""
        return [ExpertOutput(lines=self._read(image)) for image in images]

    def _read(self, image: Image.Image) -> tuple[OcrLine, ...]:
        if min(image.size) < SMALLEST_SIDE:
            return ()

        bgr = np.asarray(_widen(image.convert("RGB")))[:, :, ::-1]  # rapidocr takes BGR
        result = self._engine(bgr)
        if result.boxes is None:
            return ()

        lines = []
        for quad, text, score in zip(result.boxes, result.txts, result.scores, strict=True):
            if text.strip():
                line = OcrLine(
                    quad=quad.tolist(), text=text.strip(), confidence=float(score), expert=self.name
                )
                lines.append(line)

        return tuple(lines)


def _oriented_engine_type() -> type:
    """Return rapidocr's engine with the corners of each line in the order of its text.

    The engine turns lines until they can be read, and reports corners as they lie in the image.
    """
    from rapidocr import RapidOCR

    class OrientedEngine(RapidOCR):
        def build_final_output(
            self, ori_img: Any, det_res: Any, cls_res: Any, rec_res: Any, *others: Any
        ) -> Any:
            # Here all lines are together; afterwards those without text are left out.
            if det_res.boxes is not None and cls_res.cls_res is not None:
                least = self.text_cls.cls_thresh
                turned = ["180" in label and score > least for label, score in cls_res.cls_res]
                corners = [
                    text_corners(quad, is_turned)
                    for quad, is_turned in zip(det_res.boxes, turned, strict=True)
                ]
                det_res.boxes = np.array(corners)

            return super().build_final_output(ori_img, det_res, cls_res, rec_res, *others)

    return OrientedEngine


def text_corners(quad: np.ndarray, is_turned: bool) -> np.ndarray:
    """Return corners clockwise from the top left of the text.

    Args:
        quad: `[4, 2]`, clockwise from the top left in the image.
        is_turned: whether the engine turned the line by 180 degrees to read it.
    """
    width = max(np.linalg.norm(quad[0] - quad[1]), np.linalg.norm(quad[2] - quad[3]))
    height = max(np.linalg.norm(quad[0] - quad[3]), np.linalg.norm(quad[1] - quad[2]))

    # Tall lines are first turned to the left: their top right corner comes to the top left.
    first = 1 if int(height) >= _TALL * int(width) else 0
    return np.roll(quad, -(first + 2 * is_turned), axis=0)


def _widen(image: Image.Image) -> Image.Image:
    """Add white beside a very long or tall image, until its sides are within `LARGEST_RATIO`."""
    least = math.ceil(max(image.size) / LARGEST_RATIO)
    if min(image.size) >= least:
        return image

    # At the top left, so that places in the image stay what they are.
    canvas = Image.new("RGB", (max(image.width, least), max(image.height, least)), "white")
    canvas.paste(image, (0, 0))
    return canvas
