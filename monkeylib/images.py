"""Images from files, arrays and Pillow, as RGB."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ImageInput = Image.Image | np.ndarray | str | Path


def open_image(image: ImageInput) -> Image.Image:
    """An RGB image from a path, a `[H, W, 3]` or `[H, W]` uint8 array, or a Pillow image; EXIF rotation
    applied.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no readable image, or the array is not uint8 of that shape.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise ValueError(
                f"an image given as an array must be uint8 of shape [H, W, 3] or [H, W], "
                f"got {image.dtype} of shape {list(image.shape)}"
            )
        return Image.fromarray(image).convert("RGB")
    if isinstance(image, Image.Image):
        return _to_rgb(image)
    if not Path(image).is_file():
        raise FileNotFoundError(f"there is no image at {image}: check the path")
    try:
        with Image.open(image) as opened:
            return _to_rgb(opened)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{image} cannot be read as an image ({error}): pass a whole JPEG, PNG or WebP file"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit values to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
