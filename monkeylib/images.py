"""Open images from files, arrays and Pillow as RGB."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ImageInput = Image.Image | np.ndarray | str | Path


def open_image(image: ImageInput) -> Image.Image:
    """Open an image as RGB, with its EXIF rotation applied.

    Args:
        image: path, uint8 array `[H, W, 3]` or `[H, W]`, or Pillow image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no readable image, or the array is not uint8 of that shape.
    """
    if isinstance(image, Image.Image):
        return _to_rgb(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)

    if not Path(image).is_file():
        raise FileNotFoundError(f"there is no image at {image}: check the path")
    try:
        with Image.open(image) as opened:
            return _to_rgb(opened)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{image} cannot be read as an image ({error}): pass a complete JPEG, PNG or WebP file"
        ) from error


def _from_array(array: np.ndarray) -> Image.Image:
    has_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not has_shape:
        raise ValueError(
            f"an image given as an array must be uint8 of shape [H, W, 3] or [H, W], "
            f"got {array.dtype} of shape {list(array.shape)}"
        )
    return Image.fromarray(array).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit values to 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
