"""The one place where anything becomes an image: files, bytes, `data:` URIs, Pillow images, arrays, tensors.

`open_image` returns what an image viewer shows, in RGB: turned as the camera was held, laid on white where it
is transparent, and with deep pixels (10 to 32 bits, floats) scaled to 8 bits.

`scan.pdf#3` is the third page of a document, PDF or TIFF, and `list_pages` lists them. Of a document without
a number, and of an animation, the first page or frame is read, and an `ImageWarning` tells of the others.

What can't be read raises `ImageError`, whose `code` tells why. Nothing is decoded before its size is known.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from monkeylib import image_addresses, pdf_files
from monkeylib.image_damage import find_jpeg_damage
from monkeylib.image_errors import (
    FILE_FORMATS,
    ErrorCode,
    ImageError,
    ImageWarning,
    MissingImageError,
    truncated,
)
from monkeylib.image_sources import (
    decode_data_uri,
    is_address,
    is_data_uri,
    missing_image,
    page_of_address,
    split_page,
)
from monkeylib.jpeg_files import JpegFile, read_jpeg_file
from monkeylib.redaction import redact
from monkeylib.rgb_conversion import convert_to_rgb

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "MAX_SIDE",
    "ErrorCode",
    "ImageError",
    "ImageInput",
    "ImageWarning",
    "JpegFile",
    "MissingImageError",
    "encode_image",
    "is_image_file",
    "is_pdf",
    "list_pages",
    "open_image",
    "open_late",
    "read_image",
    "read_pixels",
    "read_size",
]

ImageInput = Image.Image | JpegFile | np.ndarray | str | Path | bytes | BinaryIO
# An image in RGB, and what is to be told of it.
_Reading = tuple[Image.Image, tuple[str, ...]]

MAX_SIDE = 16_384  # pixels
# Where Pillow begins to warn of a decompression bomb; large photographs of phones come near it. Reading such
# an image takes 0.4 to 0.9 GB, from a WebP file 1.4 GB: Pillow holds 4 bytes for each pixel, and an image is
# there twice, as it was stored and in RGB.
MAX_PIXELS = 89_478_485

_PDF_MAGIC = b"%PDF-"
_PDF_MAGIC_RANGE = 1024  # bytes of a file within which readers look for it

# Formats that Pillow decodes itself. Others, such as EPS, start another program, or are of no use here.
# With PDF, those of `image_errors.FILE_FORMATS`.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
# Those of them whose header states the size of what is shown.
_SIZED_BY_HEADER = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # chunks that can state the orientation

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

# NewSubfileType of a TIFF page: bits of a smaller copy of another page, and of a mask.
_SUBFILE_TYPE, _COPY_OR_MASK = 254, 0b101

_LONGEST_PATH = 4096  # characters; a longer text is no path


def open_image(image: ImageInput, *, allow_address: bool = False) -> Image.Image:
    """Return an image in RGB as a viewer shows it.

    An `ImageWarning` tells of pages and frames that are left out, and of signs of damage.

    Args:
        image: path, page of a document (`scan.pdf#3`), encoded bytes, file object (read from its start),
            `data:` URI or Pillow image. Arrays and tensors are `[H, W]`, `[H, W, 1 or 3 or 4]` or
            `[1 or 3 or 4, H, W]`, as uint8 or as floats from 0 to 1.
        allow_address: whether an http or https address is fetched, within the limits of `image_addresses`.
            Pass True only for what the user typed, never for what a prompt or a record holds.

    Raises:
        ImageError: it is no image, damaged, or larger than `MAX_SIDE` or `MAX_PIXELS`.
        MissingImageError: there is no such file.
    """
    rgb_image, notices = read_image(image, allow_address=allow_address)
    for notice in notices:
        warnings.warn(notice, ImageWarning, stacklevel=2)
    return rgb_image


def read_image(image: ImageInput, *, allow_address: bool = False) -> tuple[Image.Image, tuple[str, ...]]:
    """Return an image like `open_image`, and the notices that it would warn with."""
    if isinstance(image, Image.Image):
        return _decode(image, "the image"), ()
    if isinstance(image, np.ndarray) or hasattr(image, "is_floating_point"):
        return _from_array(image), ()

    if isinstance(image, JpegFile):
        return _from_bytes(image.content, image.name)
    if isinstance(image, bytes | bytearray | memoryview):
        return _from_bytes(bytes(image), "the image")
    if hasattr(image, "read"):
        return _from_file_object(image)

    if is_data_uri(image):
        return _from_bytes(decode_data_uri(image), "the image of a data: URI")
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        if is_address(name):
            return _from_address(name, allow_address)
        if isinstance(name, str):
            return _from_path(name)

    raise ImageError(
        "unsupported",
        f"there is no image in {type(image).__name__}: pass a path, bytes, a file object, a data: URI, a "
        "Pillow image, an array or a tensor",
    )


def open_late(image: ImageInput) -> Image.Image | JpegFile:
    """Open an image, and leave the pixels of a JPEG file to `read_pixels`, which knows how many are needed.

    Raises:
        ImageError, MissingImageError: as `open_image`, but for damage behind the header of a JPEG file.
    """
    content = None
    name = "the image"
    if isinstance(image, bytes):
        content = image
    elif isinstance(image, str | os.PathLike) and not is_data_uri(image) and not is_address(image):
        path, page = split_page(os.fspath(image))
        # Unlike a path's own method, this one takes names that no file can have.
        if page is None and os.path.isfile(path):
            name = os.fspath(image)
            with _open_file(path, name) as file:
                content = file.read()

    jpeg = None if content is None else read_jpeg_file(content, name, _identify)
    if jpeg is None:
        return open_image(image)
    _check_size(jpeg.size, name)
    return jpeg


def read_pixels(image: Image.Image | JpegFile, enough: tuple[int, int] | None = None) -> np.ndarray:
    """Return the pixels `[height, width, 3]` of an opened image as bytes, the caller's own.

    Of a JPEG file, signs of damage that are no proof aren't looked for (`image_damage`).

    Args:
        image: as `open_late` or `open_image` returns it.
        enough: width and height in pixels that suffice, see `JpegFile.decode`.

    Raises:
        ImageError: the file is damaged.
    """
    if not isinstance(image, JpegFile):
        return np.array(image)

    pixels = image.decode(enough)
    return np.array(open_image(image)) if pixels is None else pixels


def read_size(image: ImageInput) -> tuple[int, int]:
    """Return width and height in pixels of what `open_image` gives.

    Of the usual files only the header is read.

    Raises:
        ImageError, MissingImageError: as `open_image`, but for damage behind the header.
    """
    size = None
    name = "the image"
    if isinstance(image, bytes):
        size = _read_header(io.BytesIO(image))
    elif isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        path, page = split_page(name)
        if page is None and os.path.isfile(path):
            with _open_file(path, name) as file:
                size = _read_header(file)

    if size is None:
        return open_image(image).size
    _check_size(size, name)
    return size


def encode_image(image: ImageInput) -> tuple[bytes, str]:
    """Return an image as the content of a file, and Pillow's name of its format.

    What is encoded already stays as it is; pixels, and pages of documents, become PNG.

    Raises:
        ImageError, MissingImageError: as `open_image`, but for damage behind the header of a file.
    """
    content = None
    name = "the image"
    if isinstance(image, bytes | bytearray | memoryview):
        content = bytes(image)
    elif is_data_uri(image):
        content = decode_data_uri(image)
    elif isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        path, page = split_page(name)
        if page is None and os.path.isfile(path):
            with _open_file(path, name) as file:
                content = file.read()

    if content and not is_pdf(io.BytesIO(content)):
        with _identify(io.BytesIO(content), name) as opened:
            _check_size(opened.size, name)
            return content, opened.format or ""

    png = io.BytesIO()
    open_image(image).save(png, "PNG")
    return png.getvalue(), "PNG"


def list_pages(path: str | Path) -> list[Path]:
    """Return the pages of a document, each as a path that `open_image` takes.

    A PDF file gives `scan.pdf#1`, `scan.pdf#2` and so on, also if it has one page, and a TIFF file of several
    pages likewise. Any other image is its own only page, and so is an animation.

    Raises:
        ImageError: it is no document and no image, or damaged.
        MissingImageError: there is no such file.
    """
    file_path, page = split_page(path)
    name = str(path)

    with _open_file(file_path, name) as file:
        if is_pdf(file):
            count = pdf_files.count_pages(file, name)
            is_document = True
        else:
            with _identify(file, name) as image:
                count = len(_page_frames(image, name)) if image.format == "TIFF" else 1
            is_document = count > 1

    if page is not None:
        pdf_files.check_page(page, count, name)
    if page is not None or not is_document:
        return [Path(path)]
    return [Path(f"{path}#{number}") for number in range(1, count + 1)]


def is_pdf(file: BinaryIO) -> bool:
    """Return whether an open file is a PDF file; it is left at its start."""
    file.seek(0)
    beginning = file.read(_PDF_MAGIC_RANGE)
    file.seek(0)
    return _PDF_MAGIC in beginning


def is_image_file(path: str | Path) -> bool:
    """Return whether a file is an image or a PDF file by its first bytes, whatever its name."""
    try:
        with _open_file(split_page(path)[0], str(path)) as file:
            if not is_pdf(file):
                _identify(file, str(path)).close()
            return True
    except (ImageError, OSError):
        return False


# --- what an image is made of


def _from_path(name: str) -> _Reading:
    if len(name) > _LONGEST_PATH or "\0" in name:
        raise ImageError(
            "unsupported",
            f"a text of {len(name)} characters is no path of an image: pass bytes, or a data: URI for base64",
        )

    # `Path` makes the current folder of it.
    if not name:
        raise ImageError("unsupported", "an empty text is no path of an image: name a file")

    path, page = split_page(name)
    with _open_file(path, name) as file:
        return _from_file(file, name, page)


@contextmanager
def _open_file(path: Path, name: str) -> Iterator[BinaryIO]:
    """Open a regular file; `name` stands for it in messages."""
    try:
        status = path.stat()
    except PermissionError as error:
        raise ImageError("permission", f"{name} cannot be read: its folder may not be opened") from error
    except (OSError, ValueError) as error:
        raise missing_image(name) from error

    # A pipe or a device would be waited for.
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise ImageError("unsupported", f"{name} is {kind}, not an image file")
    if status.st_size == 0:
        raise ImageError("empty", f"{name} is an empty file: fetch the image again")

    try:
        with path.open("rb") as file:
            yield file
    except PermissionError as error:
        raise ImageError("permission", f"{name} cannot be read: its permissions don't allow it") from error


def _read_header(file: BinaryIO) -> tuple[int, int] | None:
    """Return the size that the header of a file states; None where the pixels have to be decoded to tell."""
    try:
        with Image.open(file, formats=_SIZED_BY_HEADER) as image:
            width, height = image.size
            # Of a PNG file, Pillow decodes the pixels to see what is behind them: mostly nothing is.
            if image.format == "PNG" and not _has_text_behind_pixels(file):
                exif = Image.Image.getexif(image)
            else:
                exif = image.getexif()
            orientation = exif.get(ExifTags.Base.Orientation, 1)
    # Those who decode it tell what is wrong.
    except (Image.DecompressionBombError, *_DECODING_ERRORS):
        return None

    is_on_its_side = orientation in (5, 6, 7, 8)
    return (height, width) if is_on_its_side else (width, height)


def _has_text_behind_pixels(file: BinaryIO) -> bool:
    """Return whether a PNG file has chunks behind its pixels that can hold EXIF, by their heads."""
    position = file.tell()
    is_behind = found = False
    file.seek(len(_PNG_SIGNATURE))
    while not found and len(head := file.read(8)) == 8:
        kind = head[4:]
        is_behind = is_behind or kind == b"IDAT"
        found = is_behind and kind in _PNG_TEXTS
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)  # the content, and its checksum

    file.seek(position)
    return found


def _from_address(address: str, is_allowed: bool) -> _Reading:
    if not is_allowed:
        raise ImageError(
            "unsupported",
            f"{redact(address)} is an address: download the image and pass its path, or allow addresses "
            "(--allow-address, allow_address=True)",
        )

    content = image_addresses.fetch(address)
    return _from_bytes(content, redact(address), page_of_address(address))


def _from_file_object(file: BinaryIO) -> _Reading:
    """Return the image of a file object, from its start as Pillow does: one may be given several times."""
    name = str(getattr(file, "name", "the image"))
    # A pipe or a response of the web has no start to go to, and can be read once.
    has_start = True
    try:
        file.seek(0)
    except (AttributeError, OSError, ValueError):
        has_start = False

    try:
        content = file.read()
    except UnicodeDecodeError:  # a file of text that holds none
        content = ""
    except (OSError, ValueError) as error:
        raise ImageError("unsupported", f"{name} cannot be read ({error}): pass an open file") from error

    if not isinstance(content, bytes | bytearray | memoryview):
        raise ImageError("unsupported", f"{name} must be opened in binary mode: open(path, 'rb')")
    if not content and not has_start:
        raise ImageError(
            "empty", f"{name} is a stream that has no bytes left, since it can be read once: pass its bytes"
        )
    return _from_bytes(bytes(content), name)


def _from_bytes(content: bytes, name: str, page: int | None = None) -> _Reading:
    if not content:
        raise ImageError("empty", f"{name} has no bytes")
    return _from_file(io.BytesIO(content), name, page)


def _from_file(file: BinaryIO, name: str, page: int | None) -> _Reading:
    """Return the image of an open file; `name` stands for it in messages."""
    if is_pdf(file):
        number = 1 if page is None else page
        image, count = pdf_files.render_page(file, name, number, max_side=MAX_SIDE, max_pixels=MAX_PIXELS)
        return image, _notices_of_others(name, count, "page") if page is None else ()

    with _identify(file, name) as image:
        frames = _page_frames(image, name)
        if page is None:
            unit = "page" if image.format == "TIFF" else "frame"
            notices = _notices_of_others(name, len(frames), unit)
        else:
            pdf_files.check_page(page, len(frames), name)
            image.seek(frames[page - 1])
            notices = ()
        rgb_image = _decode(image, name, is_own=True)

    if image.format in ("JPEG", "MPO"):
        notices += _notices_of_damage(file, name)
    return rgb_image, notices


def _identify(file: BinaryIO, name: str) -> Image.Image:
    """Return the image of an open file, of which only the header is read."""
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(name, f"far more than {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            "unsupported",
            f"{name} cannot be read as an image: expected a {FILE_FORMATS} file",
        ) from error
    except PermissionError:
        raise
    except _DECODING_ERRORS as error:
        raise truncated(name, error) from error


def _page_frames(image: Image.Image, name: str) -> list[int]:
    """Return the numbers of the frames that are pages: of a TIFF file all but smaller copies and masks."""
    try:
        # The further images of a JPEG are previews and depth maps.
        count = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            return list(range(count))

        pages = []
        for frame in range(count):
            image.seek(frame)
            if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _COPY_OR_MASK:
                pages.append(frame)

        image.seek(pages[0] if pages else 0)
        return pages or list(range(count))
    except _DECODING_ERRORS as error:
        raise truncated(name, error) from error


def _notices_of_others(name: str, count: int, unit: str) -> tuple[str, ...]:
    """Return what tells that one page or frame of several is read."""
    if count <= 1:
        return ()
    advice = f"; {name}#2 is the next" if unit == "page" else ""
    return (f"{name} has {count} {unit}s: the first is read, {count - 1} left out{advice}",)


def _notices_of_damage(file: BinaryIO, name: str) -> tuple[str, ...]:
    """Return what tells that a JPEG file may be damaged within.

    Raises:
        ImageError: a part of it is surely lost.
    """
    file.seek(0)
    damage = find_jpeg_damage(file.read())
    if damage is None:
        return ()
    if damage.is_certain:
        raise ImageError(
            "truncated", f"{name} is damaged within ({damage.description}): fetch the image again"
        )
    return (f"{name} may be damaged ({damage.description}): compare it with its original",)


def _from_array(array: Any) -> Image.Image:
    """Return the image of a NumPy array or a tensor."""
    if hasattr(array, "is_floating_point"):  # torch itself isn't imported here
        try:
            array = array.detach().cpu()
            array = array.float().numpy() if array.is_floating_point() else array.numpy()
        except (RuntimeError, TypeError) as error:  # sparse, or without values
            raise ImageError(
                "unsupported", f"a tensor of {array.layout} on {array.device} has no pixels: pass a dense one"
            ) from error

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


def _decode(image: Image.Image, name: str, *, is_own: bool = False) -> Image.Image:
    """Decode an image of which only the header may have been read, and return it in RGB.

    Unless `is_own`, the image is somebody else's, and what is returned is another one.
    """
    _check_size(image.size, name)
    try:
        image.load()
        upright = _upright(image)
        # A PNG file in RGB may name a colour that is transparent.
        is_rgb = upright.mode == "RGB" and "transparency" not in upright.info
        rgb_image = upright if is_rgb else convert_to_rgb(upright, name)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, f"far more than {MAX_PIXELS:,}") from error
    except _DECODING_ERRORS as error:
        raise truncated(name, error) from error

    # A copy takes a sixth of the time in which a photograph of a camera becomes views.
    return rgb_image.copy() if rgb_image is image and not is_own else rgb_image


def _check_size(size: tuple[int, int], name: str) -> None:
    """Raise an `ImageError` unless an image of this width and height has pixels, and not too many."""
    width, height = size
    if width == 0 or height == 0:
        raise ImageError("empty", f"{name} has no pixels ({width} x {height})")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height}")


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF says; EXIF that can't be read says nothing."""
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except _DECODING_ERRORS:
        return image


def _too_large(name: str, size: str) -> ImageError:
    return ImageError(
        "too-large",
        f"{name} has {size} pixels; a side may have {MAX_SIDE:,} and an image {MAX_PIXELS:,}: resize it",
    )
