"""The one place where anything becomes an image: files, bytes, `data:` URIs, Pillow images, arrays, tensors.

`open_image` returns what an image viewer shows, in RGB: turned as the camera was held, laid on white where it
is transparent, and with deep pixels (10 to 32 bits, floats) scaled to 8 bits. Only the first frame of an
animation and the first page of a document are read.

What can't be read raises `ImageError`, whose `code` tells why. Nothing is decoded before its size is known.
"""

from __future__ import annotations

import base64
import binascii
import io
import stat
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ImageInput = Image.Image | np.ndarray | str | Path | bytes | BinaryIO

MAX_SIDE = 16_384  # pixels
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb: 256 MiB of RGB

# Formats that Pillow decodes itself. Others, such as EPS, start another program, or are of no use here.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
# Endings of their files, as folders and archives are searched for them.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .avif .jp2 .j2k".split()
)

ErrorCode = Literal["missing", "permission", "empty", "truncated", "unsupported", "too-large"]

# Whatever Pillow's decoders raise on broken files.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    struct.error,
    zlib.error,
)

_WHITE = (255, 255, 255, 255)
_LONGEST_PATH = 4096  # characters; a longer text is no path
_BIT_DEPTHS = (8, 10, 12, 14, 16)  # of cameras, scanners and medical devices


class ImageError(ValueError):
    """Something that cannot be read as an image.

    Attributes:
        code: `missing`, `permission`, `empty`, `truncated`, `unsupported` or `too-large`.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, str(self))


class MissingImageError(ImageError, FileNotFoundError):
    """There is no file where an image is looked for."""


def open_image(image: ImageInput) -> Image.Image:
    """Return an image in RGB as a viewer shows it.

    Args:
        image: path, encoded bytes, file object, `data:` URI or Pillow image. Arrays and tensors are
            `[H, W]`, `[H, W, 1 or 3 or 4]` or `[1 or 3 or 4, H, W]`, as uint8 or as floats from 0 to 1.

    Raises:
        ImageError: it is no image, damaged, or larger than `MAX_SIDE` or `MAX_PIXELS`.
        MissingImageError: there is no such file.
    """
    if isinstance(image, Image.Image):
        return _decode(image, "the image")
    if isinstance(image, np.ndarray) or hasattr(image, "is_floating_point"):
        return _from_array(image)

    if isinstance(image, bytes | bytearray | memoryview):
        return _from_bytes(bytes(image), "the image")
    if hasattr(image, "read"):
        content = image.read()
        if not isinstance(content, bytes):
            raise ImageError("unsupported", "an image's file must be opened in binary mode: open(path, 'rb')")
        return _from_bytes(content, str(getattr(image, "name", "the image")))

    if isinstance(image, str) and image.startswith("data:"):
        return _from_bytes(_data_uri_content(image), "the image of a data: URI")
    if isinstance(image, str | Path):
        return _from_path(image)

    raise ImageError(
        "unsupported",
        f"there is no image in {type(image).__name__}: pass a path, bytes, a file object, a data: URI, a "
        "Pillow image, an array or a tensor",
    )


# --- what an image is made of


def _from_path(source: str | Path) -> Image.Image:
    path = Path(source)
    name = str(source)

    if name.startswith(("http://", "https://")):
        raise ImageError("unsupported", f"{name} is an address: download the image and pass its path")
    if len(name) > _LONGEST_PATH or "\0" in name:
        raise ImageError(
            "unsupported",
            f"a text of {len(name)} characters is no path of an image: pass bytes, or a data: URI for base64",
        )

    try:
        status = path.stat()
    except PermissionError as error:
        raise ImageError("permission", f"{name} cannot be read: its folder may not be opened") from error
    except OSError as error:
        raise MissingImageError("missing", f"there is no image at {name}: check the path") from error

    # A pipe or a device would be waited for.
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise ImageError("unsupported", f"{name} is {kind}, not an image file")
    if status.st_size == 0:
        raise ImageError("empty", f"{name} is an empty file: fetch the image again")

    try:
        with path.open("rb") as file:
            return _from_file(file, name)
    except PermissionError as error:
        raise ImageError("permission", f"{name} cannot be read: its permissions don't allow it") from error


def _from_bytes(content: bytes, name: str) -> Image.Image:
    if not content:
        raise ImageError("empty", f"{name} has no bytes")
    return _from_file(io.BytesIO(content), name)


def _from_file(file: BinaryIO, name: str) -> Image.Image:
    """Return the image of an open file; `name` stands for it in messages."""
    try:
        # Only the header is read here.
        opened = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(name, f"far more than {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            "unsupported", f"{name} cannot be read as an image: expected a JPEG, PNG, WebP, TIFF or GIF file"
        ) from error
    except PermissionError:
        raise
    except _DECODING_ERRORS as error:
        raise _truncated(name, error) from error

    with opened:
        return _decode(opened, name)


def _data_uri_content(uri: str) -> bytes:
    """Return the bytes of a `data:image/...;base64,` URI."""
    header, separator, content = uri.partition(",")
    if not separator or not header.endswith(";base64"):
        raise ImageError(
            "unsupported", "a data: URI of an image must look like data:image/png;base64,CONTENT"
        )

    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("truncated", f"the data: URI holds no valid base64 ({error})") from error


def _from_array(array: Any) -> Image.Image:
    """Return the image of a NumPy array or a tensor."""
    if hasattr(array, "is_floating_point"):  # torch itself isn't imported here
        array = array.detach().cpu().float().numpy() if array.is_floating_point() else array.cpu().numpy()

    expected = "uint8, or floats from 0 to 1, of shape [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels"
    got = f"got {array.dtype} of shape {list(array.shape)}"
    channels = (1, 3, 4)

    # Channels come last, as Pillow has them.
    if array.ndim == 3 and array.shape[2] not in channels and array.shape[0] in channels:
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in channels):
        raise ImageError("unsupported", f"an image given as an array must be {expected}, {got}")
    if array.size == 0:
        raise ImageError("empty", f"an image needs pixels, {got}")

    if np.issubdtype(array.dtype, np.floating):
        # NaN fails this comparison too.
        if not (array.min() >= 0 and array.max() <= 1):
            raise ImageError("unsupported", f"an image of floats must have values from 0 to 1, {got}")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError("unsupported", f"an image given as an array must be {expected}, {got}")

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return _decode(Image.fromarray(np.ascontiguousarray(array)), "the array")


# --- pixels


def _decode(image: Image.Image, name: str) -> Image.Image:
    """Decode an image of which only the header may have been read, and return it in RGB."""
    width, height = image.size
    if width == 0 or height == 0:
        raise ImageError("empty", f"{name} has no pixels ({width} x {height})")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height}")

    try:
        image.load()
        return _to_rgb(image, name)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, f"far more than {MAX_PIXELS:,}") from error
    except _DECODING_ERRORS as error:
        raise _truncated(name, error) from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    image = _upright(image)

    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;"):
        return Image.fromarray(_to_8_bits(np.asarray(image), name)).convert("RGB")

    # `transparency` is a palette's or a colour's alpha, of GIF and PNG files.
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), with_alpha).convert("RGB")

    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF says; EXIF that can't be read says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except _DECODING_ERRORS:
        return image


def _to_8_bits(pixels: np.ndarray, name: str) -> np.ndarray:
    """Scale deep grey values to 0-255.

    Whole numbers take the smallest usual bit depth that holds them, since a file with 16 bits for each pixel
    may come from a scanner of 12. Floats are from 0 to 1 or to 255. Any other range is stretched.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("unsupported", f"{name} has pixels that are not finite: save it with whole numbers")

    if np.issubdtype(pixels.dtype, np.integer):
        for bits in _BIT_DEPTHS:
            if low >= 0 and high < 2**bits:
                return (pixels.astype(np.int64) >> (bits - 8)).astype(np.uint8)
    elif low >= 0 and high <= 255:
        return np.round(pixels * (255 if high <= 1 else 1)).astype(np.uint8)

    # An image of one value has no range to divide by.
    spread = (pixels.astype(np.float64) - low) / max(high - low, 1e-30)
    return np.round(spread * 255).astype(np.uint8)


# --- errors


def _truncated(name: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ImageError(
        "truncated",
        f"{name} cannot be read as an image ({reason}): expected a whole JPEG, PNG, WebP, TIFF or GIF file",
    )


def _too_large(name: str, size: str) -> ImageError:
    return ImageError(
        "too-large",
        f"{name} has {size} pixels; a side may have {MAX_SIDE:,} and an image {MAX_PIXELS:,}: resize it",
    )
