"""Pictures from files, arrays and Pillow, as RGB."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Picture = Image.Image | np.ndarray | str | Path


def open_image(picture: Picture) -> Image.Image:
    """An RGB picture from a path, a `[H, W, 3]` or `[H, W]` uint8 array, or a Pillow image; EXIF rotation
    applied.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no readable picture, or the array is not uint8 of that shape.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or not (
            picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)
        ):
            raise ValueError(
                f"a picture given as an array must be uint8 of shape [H, W, 3] or [H, W], "
                f"got {picture.dtype} of shape {list(picture.shape)}"
            )
        return Image.fromarray(picture).convert("RGB")
    if isinstance(picture, Image.Image):
        return _to_rgb(picture)
    if not Path(picture).is_file():
        raise FileNotFoundError(f"there is no picture at {picture}: check the path")
    try:
        with Image.open(picture) as opened:
            return _to_rgb(opened)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{picture} cannot be read as a picture ({error}): pass a whole JPEG, PNG or WebP file"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit values to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
