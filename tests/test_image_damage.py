"""Damage within JPEG files is told, and intact files are not suspected."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from monkeylib import resources
from monkeylib.image_damage import find_jpeg_damage
from monkeylib.images import ImageError, ImageWarning, open_image
from tests.support.image_files import encoded

OPTIONS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restart intervals": {"restart_marker_blocks": 5},
    "progressive with restart intervals": {"progressive": True, "restart_marker_rows": 1},
    "full colour": {"subsampling": 0},
    "the best quality": {"quality": 100},
    "a low quality": {"quality": 5},
    "RGB": {"keep_rgb": True},
}


def photo(size=(150, 100)) -> Image.Image:
    """Return a photograph: damage in a drawing changes little."""
    with Image.open(resources.samples() / "coffee.jpg") as image:
        return image.convert("RGB").resize(size)


def pixels(content: bytes) -> np.ndarray | None:
    """Return the pixels as Pillow reads them, None if it refuses."""
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            return np.asarray(image.convert("RGB")).astype(int)
    except (OSError, SyntaxError):
        return None


@pytest.mark.parametrize("name", OPTIONS)
def test_intact_files_are_not_suspected(name):
    for size in [(150, 100), (97, 61), (8, 8), (1, 1), (16, 300)]:
        image = photo(size)
        for drawing in (image, image.convert("L"), Image.new("RGB", size, "white"), Image.new("L", size)):
            assert find_jpeg_damage(encoded(drawing, "JPEG", **OPTIONS[name])) is None


def test_intact_files_of_other_kinds_are_not_suspected():
    jpeg = encoded(photo(), "JPEG")
    text = np.random.default_rng(0).choice([0, 255], (100, 150)).astype(np.uint8)
    for content in [
        jpeg + b"\0" * 5000,
        jpeg + encoded(photo((40, 30)), "JPEG"),
        encoded(photo(), "MPO", save_all=True, append_images=[photo()]),
        encoded(photo().convert("CMYK"), "JPEG"),
        encoded(photo(), "JPEG", comment=b"\xff\xd9 a comment"),
        encoded(photo(), "JPEG", exif=Image.Exif(), icc_profile=b"\xff\xda" * 500),
        encoded(Image.fromarray(text), "JPEG", quality=30),
        *(path.read_bytes() for path in resources.samples().glob("*.jpg")),
    ]:
        assert find_jpeg_damage(content) is None


@pytest.mark.parametrize("name", ["baseline", "progressive", "restart intervals", "a low quality"])
def test_most_of_the_damage_that_shows_is_told(name):
    jpeg = encoded(photo(), "JPEG", **OPTIONS[name])
    intact = pixels(jpeg)
    start = jpeg.index(b"\xff\xda") + 20
    random_bytes = random.Random(0)

    visible = told = 0
    for _ in range(100):
        position = random_bytes.randrange(start, len(jpeg) - 60)
        damaged = jpeg[:position] + random_bytes.randbytes(40) + jpeg[position + 40 :]
        shown = pixels(damaged)

        # Pillow refuses some itself; of the others, those that a viewer shows wrongly count.
        if shown is not None and (np.abs(shown - intact).max(axis=-1) > 40).mean() > 0.05:
            visible += 1
            told += find_jpeg_damage(damaged) is not None

    assert visible > 10 and told / visible > 0.75


def _first_damaged(is_wanted) -> bytes:
    """Return a damaged file of which the damage is of a kind."""
    jpeg = encoded(photo((320, 320)), "JPEG")
    random_bytes = random.Random(1)
    for _ in range(500):
        position = random_bytes.randrange(700, len(jpeg) - 40)
        damaged = jpeg[:position] + random_bytes.randbytes(16) + jpeg[position + 16 :]
        damage = find_jpeg_damage(damaged)
        if damage is not None and pixels(damaged) is not None and is_wanted(damage):
            return damaged
    raise AssertionError("no such damage came about")


def test_lost_data_are_refused_like_a_file_that_is_cut_off(tmp_path):
    (tmp_path / "a.jpg").write_bytes(_first_damaged(lambda damage: damage.is_certain))
    with pytest.raises(ImageError, match=r"a.jpg is damaged within \(.*\): fetch the image again") as error:
        open_image(tmp_path / "a.jpg")
    assert error.value.code == "truncated"


@pytest.mark.parametrize("words", ["extraneous bytes", "brightness of"])
def test_odd_data_are_read_and_told(words, tmp_path):
    (tmp_path / "a.jpg").write_bytes(_first_damaged(lambda damage: words in damage.description))
    with pytest.warns(ImageWarning, match=rf"a.jpg may be damaged \(.*{words}.*\): compare it"):
        assert open_image(tmp_path / "a.jpg").size == (320, 320)


def test_file_of_another_kind_of_jpeg_is_left_to_its_decoder():
    for content in (b"", b"\xff\xd8", b"\xff\xd8\xff\xdb\0\0", b"\xff\xd8\xff\xdb\xff\xff", b"\xff" * 100):
        assert find_jpeg_damage(content) is None
