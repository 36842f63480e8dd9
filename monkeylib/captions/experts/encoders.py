"""The frozen encoders under the matching head: DINOv2-S for images, MiniLM-L6 for texts.

Neither was trained with the other: an image's and a text's features have nothing to do with each other until
the heads of `captions.experts.matching` bring them together.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from monkeylib import assets

IMAGES, TEXTS = "dinov2-small", "minilm-l6"
IMAGE_WIDTH, TEXT_WIDTH = 768, 384
SIDE = 112  # pixels: 8 x 8 patches; DINOv2's own 518 would cost fifty times as much
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_LONGEST = 64  # tokens of a text


def pixels_of(image: Image.Image) -> np.ndarray:
    """An image in the middle of a white square, as DINOv2 takes it: `[3, 112, 112]`."""
    scale = SIDE / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    small = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    square.paste(small, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    values = (np.asarray(square, dtype=np.float32) - _MEAN) / _STD
    return values.astype(np.float32).transpose(2, 0, 1)


class Encoders:
    """Both encoders, each loaded when it is first needed."""

    def __init__(self, batch_size: int = 16) -> None:
        self.batch_size = batch_size

    @cached_property
    def _vision(self) -> torch.nn.Module:
        from transformers import Dinov2Config, Dinov2Model

        from monkeylib.checkpoints import dinov2_onnx

        config = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)
        model = Dinov2Model(config)
        model.load_state_dict(
            dinov2_onnx.read_onnx(assets.fetch(IMAGES)), strict=False
        )  # it has no mask token
        return model.eval()

    @cached_property
    def _language(self) -> tuple[Any, torch.nn.Module]:
        from transformers import AutoModel, AutoTokenizer

        folder = assets.fetch(TEXTS)
        return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def prepare(self) -> None:
        """Load both encoders, fetched if they aren't there."""
        _ = self._vision, self._language

    def release(self) -> None:
        """Free both encoders."""
        for name in ("_vision", "_language"):
            self.__dict__.pop(name, None)

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Features `[N, 768]`: the class token and the mean of the patches, each of unit length."""
        found = []
        for start in range(0, len(images), self.batch_size):
            batch = np.stack([pixels_of(image) for image in images[start : start + self.batch_size]])
            tokens = self._vision(torch.from_numpy(batch)).last_hidden_state
            parts = (tokens[:, 0], tokens[:, 1:].mean(dim=1))
            found.append(torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1))
        return torch.cat(found) if found else torch.zeros(0, IMAGE_WIDTH)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Features `[N, 384]`: the mean of a text's tokens, of unit length (sentence-transformers' way)."""
        tokenizer, model = self._language
        found = []
        for start in range(0, len(texts), self.batch_size):
            batch = tokenizer(
                list(texts[start : start + self.batch_size]),
                padding=True,
                truncation=True,
                max_length=_LONGEST,
                return_tensors="pt",
            )
            tokens = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            found.append(F.normalize((tokens * mask).sum(dim=1) / mask.sum(dim=1), dim=-1))
        return torch.cat(found) if found else torch.zeros(0, TEXT_WIDTH)
