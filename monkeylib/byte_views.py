"""Resize images and make global views in bytes, for processors with `exact=False`.

PyTorch's kernels for uint8 images, the colours of a pixel side by side, replace Pillow's resizing and the
released code's in float32: an image of 1344x896 pixels resized to 896x896 takes 2.5 ms instead of 13, its
global view 1.7 instead of 6.7 (one core of an EPYC; `benchmarks/preprocessing.py` measures all of it). Pixels
differ by 1 of 255 at most, more only where an edge overshoots black or white: bytes end there.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from monkeylib.tiling import ResizeMode, canvas_size, covering_size


def resize_bytes(
    pixels: np.ndarray,
    width: int,
    height: int,
    mode: ResizeMode = "stretch",
    colour: Sequence[float] = (0, 0, 0),
) -> torch.Tensor:
    """Resize an image as `tiling.resize` does, by PyTorch's antialiased bicubic filter.

    Args:
        pixels: `[image height, image width, 3]`, bytes.
        width, height: in pixels.
        mode, colour: as in `tiling.resize`.

    Returns:
        `[3, height, width]`, bytes, with the colours of a pixel side by side in memory.
    """
    # The batch dimension comes first: only then does PyTorch see that colours are side by side.
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    image_height, image_width = pixels.shape[:2]

    if mode == "crop":
        covering = covering_size((image_width, image_height), width, height)
        resized = _shrink(image, *covering, antialias=True)
        left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
        return resized[0, :, top : top + height, left : left + width]

    if mode == "pad":
        image = _pad(image, *canvas_size((image_width, image_height), width, height), colour)
    return _shrink(image, width, height, antialias=True)[0]


def global_view_bytes(image: torch.Tensor, tile: int) -> torch.Tensor:
    """Shrink an image `[3, H, W]` of bytes to one view `[3, tile, tile]` as `tiling.global_view` does."""
    return _shrink(image[None], tile, tile, antialias=False)[0]


def _shrink(image: torch.Tensor, width: int, height: int, antialias: bool) -> torch.Tensor:
    """Resize `[1, 3, H, W]`, bytes, by a bicubic filter; one of the size itself stays as it is."""
    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image, (height, width), mode="bicubic", align_corners=False, antialias=antialias)


def _pad(image: torch.Tensor, width: int, height: int, colour: Sequence[float]) -> torch.Tensor:
    """Put an image `[1, 3, H, W]` in the middle of a canvas of one colour."""
    image_height, image_width = image.shape[-2:]
    # Cut off, not rounded, as LLaVA-1.5 does.
    canvas = torch.tensor([int(255 * channel) for channel in colour], dtype=torch.uint8)
    canvas = canvas.repeat(1, height, width, 1).permute(0, 3, 1, 2)

    left, top = (width - image_width) // 2, (height - image_height) // 2
    canvas[..., top : top + image_height, left : left + image_width] = image
    return canvas
