"""What the pipeline's models share: crops of images."""

import numpy as np
from PIL import Image

from monkeylib.captions.annotations import Mask
from monkeylib.captions.models import crop, cut_out
from tests.support.caption_records import region

GREY = Image.new("RGB", (16, 10), (9, 9, 9))


def test_crops_are_full_pixels_inside_the_image():
    assert crop(GREY, (-3, 2.6, 8.4, 99)).size == (8, 8)
    assert crop(GREY, (15.9, 9.9, 16, 10)).size == (1, 1)
    assert crop(GREY, (40, 40, 50, 50)).size == (1, 1)


def test_region_is_cut_out_on_white():
    mask = np.zeros((10, 16), dtype=bool)
    mask[:, 8:] = True
    inside = region(box=(4, 0, 16, 10), mask=Mask.from_array(mask))

    pixels = np.asarray(cut_out(GREY, inside))
    assert pixels.shape == (10, 12, 3)
    assert (pixels[:, :4] == 255).all() and (pixels[:, 4:] == 9).all()
    assert np.asarray(GREY).max() == 9, "the image itself is unchanged"


def test_region_without_a_mask_is_its_box():
    assert (np.asarray(cut_out(GREY, region(box=(0, 0, 5, 5)))) == 9).all()
