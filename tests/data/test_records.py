"""Images of records: broken, too large or missing ones raise an error that names them."""

import io

import pytest
from PIL import Image

from monkeylib.data.records import BadRecord
from tests.support import record_files as files


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with one good image."""
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))
    (tmp_path / "a.png").write_bytes(files.png())
    return tmp_path


def jpeg():
    """A JPEG of noise, of more than 1,500 bytes."""
    data = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(data, "JPEG")
    return data.getvalue()


IMAGES = {
    "no file": (None, "there is no image at .*b.png: check the path and the dataset's `images` folder"),
    "a JPEG that is cut off": (lambda: jpeg()[:1500], "cannot be read .*truncated"),
    "a PNG that is cut off": (lambda: files.png(90, 90)[:60], "cannot be read"),
    "text": (lambda: b"not an image", "cannot be read .*expected a JPEG, PNG, .*, JPEG 2000 or PDF file"),
    "an empty file": (lambda: b"", "is an empty file"),
    "a side of 20,000 pixels": (lambda: files.png(20_000, 2), "has 20000 x 2 pixels; a side may have 16,384"),
    "a hundred megapixels": (lambda: files.png_claiming(10_000, 10_000), "has 10000 x 10000 pixels"),
    "a decompression bomb": (
        lambda: files.png_claiming(60_000, 60_000),
        "has far more than 89,478,485 pixels",
    ),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("what", IMAGES)
def test_broken_image_raises(what, folder):
    content, sentence = IMAGES[what]
    if content is not None:
        (folder / "b.png").write_bytes(content())
    files.write_list(
        folder / "rows.json", [files.conversation(), files.conversation("<img>b.png</img> what?")]
    )
    records = files.read_dataset(files.entry("conversations", "rows.json"), folder)

    # The good record beside it can still be read.
    assert records[0].open_images()
    with pytest.raises(
        BadRecord, match=rf"^dataset pets: rows.json, record 2 \(line \d+\), image 1: .*{sentence}"
    ):
        records[1].open_images()


def test_image_is_not_downloaded_from_an_address(folder):
    files.write_list(folder / "rows.json", [files.conversation("<img>https://example.com/a.png</img> what?")])
    record = files.read_dataset(files.entry("conversations", "rows.json"), folder)[0]
    with pytest.raises(BadRecord, match="is an address: download the image"):
        record.open_images()


def test_broken_image_in_a_shard_raises(folder):
    files.write_tar(folder / "s.tar", [("1.jpg", b"x"), ("1.json", b'{"question": "q?", "answer": "x"}')])
    # Reading the record only takes its text; the image fails when it is opened.
    record = files.read_dataset(files.entry("webdataset", "s.tar"), folder)[0]
    with pytest.raises(BadRecord, match="dataset pets: s.tar, key 1, image 1: the image cannot be read"):
        record.open_images()
