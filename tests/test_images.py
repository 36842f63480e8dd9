"""Whatever people pass as an image is read as a viewer shows it, or refused with a reason."""

import base64
import io
import os
import pickle
import stat

import numpy as np
import pytest
import torch
from PIL import Image

from monkeylib import resources
from monkeylib.images import MAX_PIXELS, ImageError, MissingImageError, open_image
from tests.support import image_files
from tests.support.image_files import encoded, scene, with_alpha

READABLE = image_files.readable_files()
UNREADABLE = image_files.unreadable_files()

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@pytest.mark.parametrize("name", READABLE)
def test_file_is_read_as_a_viewer_shows_it(name, tmp_path):
    case = READABLE[name]
    path = tmp_path / case.name
    path.write_bytes(case.content)

    image = open_image(path)

    assert image.mode == "RGB" and image.size == case.reference.size
    difference = np.asarray(image).astype(float) - np.asarray(case.reference.convert("RGB"))
    assert np.abs(difference).mean() <= case.expected


@pytest.mark.parametrize("name", UNREADABLE)
def test_file_is_refused_with_its_name_and_a_reason(name, tmp_path):
    case = UNREADABLE[name]
    path = tmp_path / case.name
    path.write_bytes(case.content)

    with pytest.raises(ImageError) as error:
        open_image(path)

    assert error.value.code == case.expected
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    program, log = tmp_path / "gs", tmp_path / "started"
    program.write_text(f"#!/bin/sh\necho started >> {log}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    photo = tmp_path / "photo.png"
    photo.write_bytes(UNREADABLE["PostScript"].content)

    with pytest.raises(ImageError, match="cannot be read as an image"):
        open_image(photo)

    assert not log.exists()


PNG = encoded(scene(), "PNG")
PIXELS = np.asarray(scene())


class _Upload:
    """A file object without a name, as web frameworks pass them."""

    def read(self) -> bytes:
        return PNG


VALUES = {
    "bytes": lambda path: PNG,
    "a bytearray": lambda path: bytearray(PNG),
    "a memoryview": lambda path: memoryview(PNG),
    "BytesIO": lambda path: io.BytesIO(PNG),
    "an open file": lambda path: path.open("rb"),
    "an upload": lambda path: _Upload(),
    "a path as text": lambda path: str(path),
    "a path": lambda path: path,
    "a data: URI": lambda path: "data:image/png;base64," + base64.b64encode(PNG).decode(),
    "a Pillow image": lambda path: scene(),
    "a Pillow image of a file": lambda path: Image.open(path),
    "[H, W, 3]": lambda path: PIXELS,
    "[3, H, W]": lambda path: PIXELS.transpose(2, 0, 1),
    "[H, W, 4]": lambda path: np.asarray(scene().convert("RGBA")),
    "floats": lambda path: PIXELS / 255,
    "float16": lambda path: (PIXELS / 255).astype(np.float32),
    "a view of an array": lambda path: PIXELS[::1, ::-1][:, ::-1],
    "a tensor": lambda path: torch.from_numpy(PIXELS.copy()),
    "a tensor [3, H, W] of floats": lambda path: torch.from_numpy(PIXELS.copy()).permute(2, 0, 1) / 255,
    "a tensor with gradients": lambda path: (torch.from_numpy(PIXELS.copy()) / 255).requires_grad_(),
}


@pytest.mark.parametrize("name", VALUES)
def test_value_is_read(name, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)

    assert np.array_equal(np.asarray(open_image(VALUES[name](path))), PIXELS)


NO_VALUES = {
    "nothing": (None, "unsupported", "there is no image in NoneType"),
    "a number": (5, "unsupported", "there is no image in int"),
    "a list": ([PIXELS], "unsupported", "there is no image in list"),
    "an address": ("https://example.org/a.png", "unsupported", "download the image and pass its path"),
    "base64 alone": ("iVBORw0KGgo" * 1000, "unsupported", "data: URI for base64"),
    "NUL in a path": ("a\0.png", "unsupported", "no path of an image"),
    "an empty text": ("", "unsupported", "is a folder"),
    "a data: URI without base64": ("data:image/png,abc", "unsupported", "must look like data:"),
    "a data: URI of broken base64": ("data:image/png;base64,@@@", "truncated", "no valid base64"),
    "a data: URI of nothing": ("data:image/png;base64,", "empty", "has no bytes"),
    "no bytes": (b"", "empty", "has no bytes"),
    "a file of text": (io.StringIO("a"), "unsupported", "binary mode"),
    "an array without pixels": (np.zeros((0, 0, 3), np.uint8), "empty", "needs pixels"),
    "an image without pixels": (Image.new("RGB", (0, 0)), "empty", "has no pixels"),
    "one dimension": (np.zeros(5, np.uint8), "unsupported", r"must be uint8.* got uint8 of shape \[5\]"),
    "five channels": (np.zeros((5, 5, 5), np.uint8), "unsupported", "1, 3 or 4 channels"),
    "a batch": (np.zeros((1, 5, 5, 3), np.uint8), "unsupported", "must be uint8"),
    "int64": (np.zeros((5, 5), np.int64), "unsupported", "must be uint8"),
    "floats up to 255": (PIXELS.astype(float), "unsupported", "values from 0 to 1"),
    "NaN": (np.full((5, 5), np.nan), "unsupported", "values from 0 to 1"),
    "too many pixels": (np.broadcast_to(np.uint8(0), (9000, 10_000)), "too-large", f"{MAX_PIXELS:,}"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_VALUES)
def test_value_is_refused(name):
    value, code, message = NO_VALUES[name]
    with pytest.raises(ImageError, match=message) as error:
        open_image(value)
    assert error.value.code == code


def test_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "p.jpg")
    with pytest.raises(ImageError, match="p.jpg is no regular file"):
        open_image(tmp_path / "p.jpg")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_file_without_permission_is_told_from_a_broken_one(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    path.chmod(stat.S_IWUSR)
    with pytest.raises(ImageError, match="permissions") as error:
        open_image(path)
    assert error.value.code == "permission"


def test_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(MissingImageError, match="there is no image at .*gone.png: check the path") as error:
        open_image(tmp_path / "gone.png")
    assert isinstance(error.value, FileNotFoundError) and error.value.code == "missing"


def test_errors_pass_between_processes():
    error = pickle.loads(pickle.dumps(ImageError("empty", "a.png is an empty file")))
    assert (error.code, str(error)) == ("empty", "a.png is an empty file")


def test_image_of_the_caller_stays_as_it_is():
    image = with_alpha(scene())
    before = image.tobytes()
    open_image(image)
    assert image.mode == "RGBA" and image.tobytes() == before


def test_sample_images_are_the_same_as_pillow_reads_them():
    for path in sorted(resources.samples().glob("*.png")):
        with Image.open(path) as image:
            if image.mode in ("RGB", "L"):
                assert open_image(path).tobytes() == image.convert("RGB").tobytes()
