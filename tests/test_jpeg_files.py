import io

import numpy as np
import pytest
from PIL import Image

from monkeylib.images import ImageError, JpegFile, open_image, open_late, read_pixels


def jpeg(image, **options):
    content = io.BytesIO()
    image.save(content, "JPEG", **options)
    return content.getvalue()


def test_file_is_decoded_late_and_as_pillow_does(make_image, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(make_image(0, 60, 40)))
    opened = open_late(path)
    assert isinstance(opened, JpegFile) and opened.size == (60, 40)
    assert np.array_equal(read_pixels(opened), np.array(open_image(path)))
    assert np.array_equal(np.array(open_image(opened)), np.array(open_image(path)))


@pytest.mark.parametrize(
    ("enough", "size"), [((49, 30), (96, 64)), ((48, 32), (48, 32)), ((12, 9), (24, 16)), ((5, 5), (12, 8))]
)
def test_large_file_is_decoded_as_small_as_suffices(make_image, enough, size):
    pixels = read_pixels(open_late(jpeg(make_image(0, 96, 64))), enough)
    assert pixels.shape == (size[1], size[0], 3)


def test_what_only_pillow_shows_is_opened_at_once(make_image):
    turned = Image.Exif()
    turned[0x0112] = 6
    for content in (
        jpeg(make_image(), exif=turned),
        jpeg(make_image().convert("CMYK")),
        make_image(),
        np.zeros((4, 5, 3), np.uint8),
    ):
        opened = open_late(content)
        assert isinstance(opened, Image.Image) and opened.size == open_image(content).size
        assert read_pixels(opened).shape == (opened.height, opened.width, 3)


def test_damaged_file_is_told_of_when_it_is_decoded(make_image):
    content = jpeg(make_image(0, 200, 200), quality=95)
    with pytest.raises(ImageError, match="damaged|cut off|truncated"):
        read_pixels(open_late(content[: len(content) // 2]))
    with pytest.raises(ImageError):
        open_late(b"\xff\xd8 no image")


@pytest.mark.parametrize("name", ["a" * 300, "a" * 5000, "a\0b", "", "gone.jpg#2", "/dev/null/a.jpg"])
def test_what_is_no_file_is_refused_as_by_open_image(name):
    with pytest.raises(ImageError) as expected:
        open_image(name)
    with pytest.raises(ImageError) as error:
        open_late(name)
    assert (str(error.value), error.value.code) == (str(expected.value), expected.value.code)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("is_progressive", [False, True])
def test_pixels_are_those_that_pillow_decodes(make_image, subsampling, is_progressive):
    content = jpeg(make_image(0, 61, 43), subsampling=subsampling, progressive=is_progressive)
    assert np.array_equal(read_pixels(open_late(content)), np.array(open_image(content)))
