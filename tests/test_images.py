"""Whatever people pass as an image is read as a viewer shows it, or refused with a reason."""

import base64
import gzip
import io
import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, TiffImagePlugin

from monkeylib import images, resources
from monkeylib.image_sources import split_page
from monkeylib.images import (
    MAX_PIXELS,
    ImageError,
    ImageWarning,
    MissingImageError,
    encode_image,
    list_pages,
    open_image,
    read_size,
)
from tests.support import image_files
from tests.support.image_files import encoded, pdf, scene, with_alpha

READABLE = image_files.readable_files()
UNREADABLE = image_files.unreadable_files()

pytestmark = [
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings("ignore::monkeylib.images.ImageWarning"),
]


@pytest.mark.parametrize("name", READABLE)
def test_file_is_read_as_a_viewer_shows_it(name, tmp_path):
    case = READABLE[name]
    path = tmp_path / case.name
    path.write_bytes(case.content)

    image = open_image(path)

    assert image.mode == "RGB" and image.size == case.reference.size
    difference = np.asarray(image).astype(float) - np.asarray(case.reference.convert("RGB"))
    assert np.abs(difference).mean() <= case.expected


@pytest.mark.parametrize("name", READABLE)
def test_size_that_is_read_is_that_of_the_opened_image(name, tmp_path):
    case = READABLE[name]
    path = tmp_path / case.name
    path.write_bytes(case.content)
    assert read_size(path) == read_size(str(path)) == read_size(case.content) == open_image(path).size


def test_size_is_read_from_the_header_alone(tmp_path):
    content = encoded(scene((640, 480)), "JPEG")
    assert read_size(content[:700]) == (640, 480)
    with pytest.raises(ImageError):
        open_image(content[:700])


def test_size_of_a_png_file_whose_exif_is_behind_its_pixels_is_that_of_the_opened_image(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = encoded(scene((640, 480)), "PNG", exif=exif)
    start = content.index(b"eXIf") - 4
    chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
    end = content.index(b"IEND") - 4
    path = tmp_path / "a.png"
    path.write_bytes(content.replace(chunk, b"")[: end - len(chunk)] + chunk + content[end:])

    assert read_size(path) == open_image(path).size == (480, 640)
    assert read_size(path.read_bytes()) == (480, 640)


@pytest.mark.parametrize("image", [scene(), np.zeros((48, 64), np.uint8), "data:image/png;base64,"])
def test_size_of_what_is_no_file_is_that_of_the_opened_image(image):
    if isinstance(image, str):
        image += base64.b64encode(encoded(scene(), "PNG")).decode()
    assert read_size(image) == open_image(image).size == (64, 48)


def test_size_of_what_is_no_image_is_refused_as_opening_it(tmp_path):
    # Pillow refuses its header.
    huge = UNREADABLE["GIF that claims 65,535 x 65,535 pixels"].content
    wide = UNREADABLE["a side of 20,000 pixels"].content
    sources = (tmp_path / "gone.png", tmp_path, b"text", huge, wide, "http://host/a.png", 5, "", "a" * 5000)
    for source in sources:
        with pytest.raises(ImageError) as opened:
            open_image(source)
        with pytest.raises(ImageError) as sized:
            read_size(source)
        with pytest.raises(ImageError) as encoded_again:
            encode_image(source)
        assert str(sized.value) == str(opened.value) == str(encoded_again.value)


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
    "a link": lambda path: linked(path),
    "an object with a path": lambda path: _PathLike(path),
    "the first page of an image": lambda path: f"{path}#1",
    "a path relative to the working folder": lambda path: os.path.relpath(path),
    "an unpacked file": lambda path: packed(path),
    "an unbuffered file": lambda path: path.open("rb", buffering=0),
    "a data: URI with parameters": lambda path: uri("data:image/png;charset=utf-8;base64,"),
    "a data: URI in capitals": lambda path: uri("DATA:image/png;BASE64,"),
    "a data: URI of no type": lambda path: uri("data:;base64,"),
    "a data: URI in lines": lambda path: "data:image/png;base64," + base64.encodebytes(PNG).decode(),
    "RGBX": lambda path: scene().convert("RGBX"),
    "an opaque RGBA image": lambda path: scene().convert("RGBA"),
    "a lazily read Pillow image of bytes": lambda path: Image.open(io.BytesIO(PNG)),
    "[4, H, W]": lambda path: np.asarray(scene().convert("RGBA")).transpose(2, 0, 1),
    "an array in Fortran's order": lambda path: np.asfortranarray(PIXELS),
    "a read-only array": lambda path: PIXELS,
    "float64 in channels first": lambda path: PIXELS.transpose(2, 0, 1) / 255,
    "a memory map": lambda path: mapped(path),
    "a tensor of bfloat16": lambda path: (torch.from_numpy(PIXELS // 128) * 1.0).bfloat16(),
}


class _PathLike(os.PathLike):
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


def uri(beginning):
    return beginning + base64.b64encode(PNG).decode()


def linked(path):
    path.with_name("link.png").symlink_to(path)
    return path.with_name("link.png")


def packed(path):
    with gzip.open(path.with_name("a.png.gz"), "wb") as file:
        file.write(PNG)
    return gzip.open(path.with_name("a.png.gz"))


def mapped(path):
    PIXELS.tofile(path.with_name("a.raw"))
    return np.memmap(path.with_name("a.raw"), np.uint8, "r", shape=PIXELS.shape)


@pytest.mark.parametrize("name", VALUES)
def test_value_is_read(name, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)

    expected = PIXELS // 128 * 255 if "bfloat16" in name else PIXELS
    assert np.array_equal(np.asarray(open_image(VALUES[name](path))), expected)


def closed_file():
    file = io.BytesIO(PNG)
    file.close()
    return file


def closed_image():
    image = Image.open(io.BytesIO(PNG))
    image.close()
    return image


class Stream(io.BytesIO):
    """A file object without a start to go to, such as a pipe."""

    def seek(self, *_):
        raise io.UnsupportedOperation("seek")


def read_stream():
    stream = Stream(PNG)
    stream.read()
    return stream


NO_VALUES = {
    "truth": (True, "unsupported", "there is no image in bool"),
    "zero": (0, "unsupported", "there is no image in int"),
    "an empty list": ([], "unsupported", "there is no image in list"),
    "a list of paths": (["a.png"], "unsupported", "there is no image in list"),
    "a dictionary": ({"bytes": PNG}, "unsupported", "there is no image in dict"),
    "a class": (Image.Image, "unsupported", "there is no image in type"),
    "a file address": ("file:///photos/a.png", "unsupported", "file:///photos/a.png is an address.* path"),
    "a bucket's address": (Path("s3://b/a.png"), "unsupported", "s3:/b/a.png is an address"),
    "a file that the home folder lacks": ("~/no/a.png", "missing", "no image at ~/no/a.png: check the path"),
    "a blank behind a path": ("a.png ", "missing", "no image at a.png : .* ends with white space"),
    "a path of many characters": ("a" * 400, "missing", "no image at a{300}…: check the path"),
    "half of a surrogate pair": ("\ud800.png", "missing", "check the path"),
    "base64 of a small image": (base64.b64encode(PNG).decode(), "unsupported", "is base64, not a path"),
    "base64 of a JPEG": ("/9j/4AAQSkZJRgABAQ", "unsupported", "is base64, not a path"),
    "a device": ("/dev/zero", "unsupported", "/dev/zero is no regular file"),
    "a folder": (Path("/"), "unsupported", "/ is a folder, not an image file"),
    "a path below a file": (f"{__file__}/a.png", "missing", "test_images.py/a.png: check the path"),
    "a page of a file that is gone": ("gone.pdf#2", "missing", "there is no image at gone.pdf#2"),
    "the path as bytes": (b"/photos/a.png", "unsupported", "the image cannot be read"),
    "text": (Path(__file__), "unsupported", "test_images.py cannot be read as an image"),
    "a data: URI that is cut off": ("data:image/png;base64", "unsupported", "must look like data:"),
    "a data: URI of text": ("data:text/plain;base64,aGVsbG8=", "unsupported", "data: URI cannot be read"),
    "a closed file": (closed_file(), "unsupported", "the image cannot be read .*closed.*: pass an open file"),
    "a closed image": (closed_image(), "truncated", "the image cannot be read"),
    "a stream that has been read": (read_stream(), "empty", "can be read once: pass its bytes"),
    "bytes cut off": (PNG[:100], "truncated", "the image cannot be read"),
    "bool": (np.ones((5, 5), bool), "unsupported", "must be uint8.* got bool"),
    "uint16": (np.ones((5, 5), np.uint16), "unsupported", "must be uint8.* got uint16"),
    "complex": (np.ones((5, 5), complex), "unsupported", "must be uint8.* got complex"),
    "objects": (np.array([[None]]), "unsupported", "must be uint8.* got object"),
    "negative floats": (-np.ones((5, 5)), "unsupported", "values from 0 to 1"),
    "a tensor without values": (torch.empty(3, 5, 5, device="meta"), "unsupported", "on meta has no pixels"),
    "a sparse tensor": (torch.eye(5).to_sparse(), "unsupported", "has no pixels: pass a dense one"),
    "an integer tensor": (torch.ones(3, 5, 5, dtype=torch.long), "unsupported", "must be uint8.* got int64"),
    "nothing": (None, "unsupported", "there is no image in NoneType"),
    "a number": (5, "unsupported", "there is no image in int"),
    "a list": ([PIXELS], "unsupported", "there is no image in list"),
    "an address": ("https://example.org/a.png", "unsupported", "download the image and pass its path"),
    "base64 alone": ("iVBORw0KGgo" * 1000, "unsupported", "data: URI for base64"),
    "NUL in a path": ("a\0.png", "unsupported", "no path of an image"),
    "an empty text": ("", "unsupported", "an empty text is no path"),
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


def test_tables_of_files_and_ways_are_long_enough():
    assert len(READABLE) + len(UNREADABLE) >= 120
    assert len(VALUES) >= 20 and len(VALUES) + len(NO_VALUES) >= 46


def test_home_folder_stands_in_place_of_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    Image.new("RGB", (5, 4)).save(tmp_path / "home" / "a.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "home" / "a.pdf")
    monkeypatch.chdir(tmp_path)

    for path in ("~/a.png", Path("~/a.png"), "~/a.pdf#1"):
        assert images.open_image(path).size == images.read_size(path)
        assert images.open_late(path).size == images.read_size(path)
        assert images.encode_image(path)[1] == "PNG"
        assert images.list_pages(path) == [Path(path)]
    assert images.is_image_file("~/a.png")

    # A folder that bears the name comes first.
    (tmp_path / "~").mkdir()
    Image.new("RGB", (7, 6)).save(tmp_path / "~" / "a.png")
    assert images.read_size("~/a.png") == (7, 6)


def test_file_object_is_read_from_its_start_each_time(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    with (tmp_path / "a.png").open("rb") as opened:
        for file in (opened, io.BytesIO(PNG)):
            for _ in range(2):
                assert np.array_equal(np.asarray(open_image(file)), PIXELS)
                assert images.read_size(file) == images.open_late(file).size == PIXELS.shape[1::-1]
                assert images.encode_image(file)[1] == "PNG"

    stream = Stream(PNG)
    assert open_image(stream).size == PIXELS.shape[1::-1]
    with pytest.raises(ImageError, match="can be read once"):
        open_image(stream)


def test_file_that_is_opened_as_text_is_named(tmp_path):
    for content in (PNG, b"text"):
        (tmp_path / "a.png").write_bytes(content)
        with (tmp_path / "a.png").open(encoding="utf-8") as file:
            with pytest.raises(ImageError, match=r"a.png must be opened in binary mode: open\(path, 'rb'\)"):
                open_image(file)

    with (tmp_path / "b.png").open("wb") as file, pytest.raises(ImageError, match="b.png cannot be read"):
        open_image(file)


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


# --- pages

COLORS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


@pytest.fixture(params=["a.pdf", "a.tif"])
def document(request, tmp_path):
    pages = [Image.new("RGB", (60, 40), color) for color in COLORS]
    path = tmp_path / request.param
    if path.suffix == ".pdf":
        path.write_bytes(pdf(pages))
    else:
        pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def test_pages_of_a_document_are_images(document):
    pages = list_pages(document)
    assert pages == [document.with_name(f"{document.name}#{number}") for number in (1, 2, 3)]
    assert pages == list_pages(str(document))

    for page, color in zip(pages, COLORS, strict=True):
        for given in (page, str(page)):
            image = open_image(given)
            assert image.mode == "RGB" and image.size == (60, 40)
            assert np.abs(np.array(image.getpixel((9, 9))) - color).max() < 20
        assert list_pages(page) == [page]


@pytest.mark.parametrize("number", [0, 4, 999_999_999])
def test_page_that_a_document_lacks_is_refused(document, number):
    for read in (open_image, list_pages):
        with pytest.raises(ImageError, match=rf"a\....#{number}: the file has 3 pages.* no page") as error:
            read(f"{document}#{number}")
        assert error.value.code == "missing"


def test_pages_that_are_left_out_are_told(document):
    with pytest.warns(ImageWarning, match=r"a\.... has 3 pages: the first is read, 2 left out; .*#2 is the"):
        image = open_image(document)
    assert np.abs(np.array(image.getpixel((9, 9))) - COLORS[0]).max() < 20


def test_frames_that_are_left_out_are_told(tmp_path):
    frames = [Image.new("RGB", (60, 40), color) for color in COLORS]
    for ending in ("gif", "webp", "png"):
        path = tmp_path / f"a.{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with pytest.warns(ImageWarning, match=rf"a.{ending} has 3 frames: the first is read, 2 left out"):
            open_image(path)
        assert list_pages(path) == [path]


@pytest.mark.filterwarnings("error::monkeylib.images.ImageWarning")
def test_single_images_and_named_pages_cause_no_warning(document, tmp_path):
    open_image(f"{document}#1")
    for ending in ("png", "tif", "gif", "webp", "jpg", "mpo"):
        scene().save(tmp_path / f"one.{ending}", **({"append_images": [scene()]} if ending == "mpo" else {}))
        open_image(tmp_path / f"one.{ending}")


def test_one_page_of_a_pdf_has_a_number_and_of_a_tiff_has_none(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf([scene()]))
    scene().save(tmp_path / "a.tif")

    assert list_pages(tmp_path / "a.pdf") == [tmp_path / "a.pdf#1"]
    assert list_pages(tmp_path / "a.tif") == [tmp_path / "a.tif"]
    assert open_image(tmp_path / "a.tif#1").size == scene().size
    with pytest.raises(ImageError, match="has one page, counted from 1, so there is no page 2"):
        open_image(tmp_path / "a.tif#2")


def test_smaller_copies_in_a_tiff_are_no_pages(tmp_path):
    path = tmp_path / "a.tif"
    with TiffImagePlugin.AppendingTiffWriter(path) as file:
        for image, kind in [(scene((16, 12)), 1), (scene(), 0), (scene((16, 12)), 1), (scene((60, 40)), 2)]:
            image.save(file, "TIFF", tiffinfo={254: kind})
            file.newFrame()

    assert open_image(path).size == (64, 48)
    assert [open_image(page).size for page in list_pages(path)] == [(64, 48), (60, 40)]


def test_file_whose_name_ends_like_a_page_is_a_file(tmp_path):
    for name in ("a#3", "a.pdf#2", "a.tif#1"):
        (tmp_path / name).write_bytes(PNG)
        assert open_image(tmp_path / name).tobytes() == scene().tobytes()
        assert split_page(tmp_path / name) == (tmp_path / name, None)
        assert list_pages(tmp_path / name) == [tmp_path / name]

    with pytest.raises(MissingImageError, match="there is no image at .*gone.pdf#2: check"):
        open_image(tmp_path / "gone.pdf#2")


def test_list_of_pages_needs_a_document_that_can_be_read(tmp_path):
    os.mkfifo(tmp_path / "p.pdf")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4")
    for name, code in [("gone.pdf", "missing"), ("p.pdf", "unsupported"), ("broken.pdf", "truncated")]:
        with pytest.raises(ImageError, match=name) as error:
            list_pages(tmp_path / name)
        assert error.value.code == code


# --- encoded images


def test_encoded_images_stay_as_they_are(tmp_path):
    for format in ("PNG", "JPEG", "WEBP"):
        content = encoded(scene(), format)
        path = tmp_path / "a"
        path.write_bytes(content)
        uri = "data:image/png;base64," + base64.b64encode(content).decode()
        for source in (content, bytearray(content), path, str(path), uri):
            assert encode_image(source) == (content, format)


def test_pixels_and_pages_are_encoded_as_png(document):
    for source in (scene(), PIXELS, f"{document}#2"):
        content, format = encode_image(source)
        assert format == "PNG" and open_image(content).tobytes() == open_image(source).tobytes()

    content, format = encode_image(document)
    assert format == ("PNG" if document.suffix == ".pdf" else "TIFF")


@pytest.mark.parametrize("source", [b"", b"text", "gone.png", None, "https://a.b/c.png"])
def test_what_is_no_image_is_not_encoded(source):
    with pytest.raises(ImageError):
        encode_image(source)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_image_of_a_file_is_complete_and_the_file_is_closed(format, tmp_path):
    path = tmp_path / "a.image"
    scene((40, 30)).save(path, format, **({"quality": 95} if format == "JPEG" else {}))
    opened = images.open_image(path)
    path.unlink()

    assert opened.mode == "RGB" and getattr(opened, "fp", None) is None
    for other in (opened.copy(), pickle.loads(pickle.dumps(opened)), opened.convert("RGB")):
        assert other.tobytes() == opened.tobytes()
    again = images.open_image(opened)
    again.putpixel((0, 0), (1, 2, 3))
    assert again.tobytes() != opened.tobytes()
