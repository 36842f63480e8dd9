"""Resize modes give what the released code, LLaVA-1.5 and CLIP make of an image's aspect ratio."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from monkeylib.processing import CLIP_MEAN, MonkeyImageProcessor
from monkeylib.tiling import Grid, join_tiles, resize

SIDE = 56
SIZES = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
REFERENCES = {
    "pad": lambda: LlavaImageProcessorPil(**SIZES, do_pad=True),
    "crop": lambda: LlavaImageProcessorPil(**SIZES),
    "crop as CLIP": lambda: CLIPImageProcessorPil(**SIZES),
}


@pytest.mark.parametrize("size", [(90, 71), (60, 133), (56, 56), (200, 31)])
@pytest.mark.parametrize("kind", REFERENCES)
def test_view_is_that_of_the_processor_in_transformers(kind, size, make_image):
    image = make_image(1, *size)
    reference = REFERENCES[kind]()(image, return_tensors="pt")["pixel_values"]
    views = MonkeyImageProcessor(SIDE, views="global", resize_mode=kind.split()[0])(image)["pixel_values"]
    assert torch.allclose(views, reference, atol=1e-5)

    stretched = MonkeyImageProcessor(SIDE, views="global")(image)["pixel_values"]

    assert torch.allclose(views, stretched, atol=1e-5) == (size[0] == size[1])


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([(8, 8), (16, 8), (8, 24)]))
def test_every_mode_gives_the_requested_size(width, height, size):
    image = Image.new("RGB", (width, height), (200, 100, 50))
    for mode in ("stretch", "pad", "crop"):
        assert resize(image, *size, mode).size == size
    cropped = np.asarray(resize(image, *size, "crop"))
    assert (cropped == (200, 100, 50)).all(), "there is nothing but the image"


def test_padding_puts_the_image_in_the_middle_of_a_wider_canvas():
    image = Image.new("RGB", (20, 20), (255, 255, 255))
    padded = np.asarray(resize(image, 40, 20, "pad", CLIP_MEAN))
    assert padded[10, 0].tolist() == padded[10, 39].tolist() == [122, 116, 104]
    assert (padded[2:18, 12:28] == 255).all()


def test_tiles_and_global_view_show_the_same_resized_image(make_image):
    image = make_image(0, 80, 40)
    for mode in ("pad", "crop"):
        with_tiles = MonkeyImageProcessor(SIDE, 2, 2, resize_mode=mode, global_from="original")
        global_only = MonkeyImageProcessor(SIDE, views="global", resize_mode=mode)
        *tiles, global_view = with_tiles(image)["pixel_values"]
        assert torch.equal(global_view[None], global_only(image)["pixel_values"])

        joined = join_tiles(torch.stack(tiles), Grid(2, 2))
        shrunk = torch.nn.functional.avg_pool2d(joined, 2)
        assert (shrunk - global_view).abs().mean() < 0.25 * global_view.abs().mean()


def test_unknown_resize_mode_raises():
    with pytest.raises(ValueError, match="called 'squeeze': choose one of stretch, pad, crop"):
        MonkeyImageProcessor(resize_mode="squeeze")
