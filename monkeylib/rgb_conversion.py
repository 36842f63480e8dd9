"""Images of any mode in RGB: what is transparent laid on white, and deep grey values scaled to 8 bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms

from monkeylib.image_errors import ImageError

# Rows that are converted at once, where their intermediate forms take far more memory than the image.
_ROWS = 256

_WHITE = (255, 255, 255, 255)
_BIT_DEPTHS = (8, 10, 12, 14, 16)  # of cameras, scanners and medical devices


def convert_to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Return a decoded image in RGB as a viewer shows it.

    Args:
        image: of any mode of Pillow's.
        name: stands for it in messages.

    Raises:
        ImageError: it has pixels that are not finite.
    """
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")

    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;"):
        return _to_8_bits(image, name).convert("RGB")

    # `transparency` is a palette's or a colour's alpha, of GIF and PNG files.
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_white(image)

    return image.convert("RGB")


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the rows of an image, some at a time, each with the number of the first one."""
    for top in range(0, image.height, _ROWS):
        yield top, image.crop((0, top, image.width, min(top + _ROWS, image.height)))


def _on_white(image: Image.Image) -> Image.Image:
    """Return a transparent image as it lies on white."""
    result = Image.new("RGB", image.size)
    for top, band in _bands(image):
        if band.mode == "La":  # multiplied by its alpha, which Pillow takes back in this way alone
            band = band.convert("LA")
        white = Image.new("RGBA", band.size, _WHITE)
        result.paste(Image.alpha_composite(white, band.convert("RGBA")).convert("RGB"), (0, top))
    return result


def _to_8_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale deep grey values to 0-255.

    Whole numbers take the smallest usual bit depth that holds them, since a file with 16 bits for each pixel
    may come from a scanner of 12. Floats are from 0 to 1 or to 255. Any other range is stretched.
    """
    extremes = []
    for _, band in _bands(image):
        pixels = np.asarray(band)
        extremes += [float(pixels.min()), float(pixels.max())]
        is_whole = np.issubdtype(pixels.dtype, np.integer)
    if not np.isfinite(extremes).all():
        raise ImageError("unsupported", f"{name} has pixels that are not finite: save it with whole numbers")

    low, high = min(extremes), max(extremes)
    result = Image.new("L", image.size)
    for top, band in _bands(image):
        scaled = _scale_pixels(np.asarray(band), low, high, is_whole)
        result.paste(Image.fromarray(scaled.astype(np.uint8)), (0, top))
    return result


def _scale_pixels(pixels: np.ndarray, low: float, high: float, is_whole: bool) -> np.ndarray:
    """Return pixels of an image with values from `low` to `high`, scaled to 0-255."""
    if is_whole:
        for bits in _BIT_DEPTHS:
            if low >= 0 and high < 2**bits:
                return pixels.astype(np.int64) >> (bits - 8)
    elif low >= 0 and high <= 255:
        return np.round(pixels * (255 if high <= 1 else 1))

    # An image of one value has no range to divide by.
    spread = (pixels.astype(np.float64) - low) / max(high - low, 1e-30)
    return np.round(spread * 255)
