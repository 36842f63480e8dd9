import numpy as np
import pytest
import torch

from monkeylib import tiling
from monkeylib.byte_views import global_view_bytes, resize_bytes


@pytest.mark.parametrize("mode", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(90, 40), (30, 75), (48, 32)])
def test_resized_bytes_are_pillows_up_to_rounding(make_image, mode, size):
    # Low contrast: where an edge overshoots black or white, the order of the two passes shows.
    image = make_image(0, *size).point(lambda value: 96 + value // 4)
    colour = (0.3, 0.5, 0.9)
    expected = np.array(tiling.resize(image, 48, 32, mode, colour)).astype(int)
    resized = resize_bytes(np.array(image), 48, 32, mode, colour)
    assert resized.dtype == torch.uint8 and resized.shape == (3, 32, 48)
    assert np.abs(resized.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_global_view_is_that_of_floats_up_to_rounding(make_image):
    image = torch.from_numpy(np.array(make_image(0, 64, 64)) // 4 + 96).permute(2, 0, 1)
    expected = tiling.global_view(image.float(), 32).clamp(0, 255)
    assert (global_view_bytes(image, 32).float() - expected).abs().max() <= 1.5
