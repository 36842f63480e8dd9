"""Images of any mode become the RGB that a viewer shows."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from monkeylib.images import ImageError
from monkeylib.rgb_conversion import convert_to_rgb
from tests.support import image_files
from tests.support.image_files import encoded, png_of_size, scene


@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [("1", 0), ("L", 0), ("LA", 0), ("P", 30), ("PA", 30), ("La", 1), ("RGBa", 1), ("CMYK", 1),
     ("YCbCr", 2), ("HSV", 3), ("LAB", 3), ("I", 1), ("F", 1), ("I;16", 1)],
)  # fmt: skip
def test_every_mode_of_a_pillow_image_is_read(mode, tolerance):
    image, expected = scene(), scene()
    if mode in ("1", "L", "LA", "La", "I", "F", "I;16"):
        image = expected = image_files.gray_scene()
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    elif mode in ("La", "RGBa", "PA"):
        image = image.convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}[mode]).convert(mode)
    else:
        image = image.convert(mode)
        expected = image.convert("L") if mode == "1" else expected

    difference = np.asarray(convert_to_rgb(image, "a")).astype(float) - np.asarray(expected.convert("RGB"))
    assert np.abs(difference).mean() <= tolerance


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa"])
def test_what_is_transparent_is_white(mode):
    image = scene().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size).point(lambda value: 255 * (value > 127)))
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)

    pixels = np.asarray(convert_to_rgb(image, "a"))
    height = len(pixels)
    assert (pixels[: height // 2] == 255).all() and (pixels[height // 2 :] < 255).any()


@pytest.mark.parametrize(
    ("highest", "white"), [(255, 255), (1023, 1023), (4095, 4095), (4096, 16383), (65535, 65535)]
)
def test_deep_grey_values_take_the_smallest_depth_that_holds_them(highest, white):
    values = np.linspace(0, highest, 64).astype(np.int32).reshape(8, 8)
    pixels = np.asarray(convert_to_rgb(Image.fromarray(values), "a"))[..., 0]
    assert np.abs(pixels - values * 255 / white).max() <= 1


def test_float_values_are_from_0_to_1_or_to_255_or_are_stretched():
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    expected = np.round(values * 255)
    for given in (values, values * 255, values * 900 - 50):
        pixels = np.asarray(convert_to_rgb(Image.fromarray(given), "a"))[..., 0]
        assert np.abs(pixels - expected).max() <= 1

    values[0, 0] = np.inf
    with pytest.raises(
        ImageError, match="scan.tif has pixels that are not finite: save it with whole"
    ) as error:
        convert_to_rgb(Image.fromarray(values), "scan.tif")
    assert error.value.code == "unsupported"


READ_AND_MEASURE = """
import resource, sys, warnings
from monkeylib.images import open_image
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
open_image(sys.argv[1])  # what is imported on the first call does not count
before = peak()
for path in sys.argv[2:]:
    open_image(path)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units")
def test_image_takes_little_more_memory_than_two_copies(tmp_path):
    small, *large = [tmp_path / f"{number}.png" for number in range(4)]
    small.write_bytes(encoded(scene(), "PNG"))
    for path, bits, channels in zip(large, (1, 16, 8), (1, 1, 4), strict=True):
        path.write_bytes(png_of_size(5000, 5000, bits, channels))

    # Of 4 bytes a pixel, as Pillow holds them.
    command = [sys.executable, "-c", READ_AND_MEASURE, small, *large]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken < 2.6 * 4 * 5000 * 5000
