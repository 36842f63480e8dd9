"""An image's aspect ratio, kept or not, as the release, LLaVA-1.5 and CLIP treat it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from monkeylib.processing import CLIP_MEAN, MonkeyImageProcessor
from monkeylib.tiling import resize

SIDE = 56
SIZES = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
THEIRS = {
    "pad": lambda: LlavaImageProcessorPil(**SIZES, do_pad=True),
    "crop": lambda: LlavaImageProcessorPil(**SIZES),
    "crop as CLIP": lambda: CLIPImageProcessorPil(**SIZES),
}


@pytest.mark.parametrize("size", [(90, 71), (60, 133), (56, 56), (200, 31)])
@pytest.mark.parametrize("kind", THEIRS)
def test_a_view_is_that_of_the_librarys_own_processor(kind, size, make_image):
    image = make_image(1, *size)
    theirs = THEIRS[kind]()(image, return_tensors="pt")["pixel_values"]
    ours = MonkeyImageProcessor(SIDE, views="global", resize_mode=kind.split()[0])(image)["pixel_values"]
    assert torch.allclose(ours, theirs, atol=1e-5)
    stretched = MonkeyImageProcessor(SIDE, views="global")(image)["pixel_values"]
    assert torch.allclose(ours, stretched, atol=1e-5) == (size[0] == size[1])


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([(8, 8), (16, 8), (8, 24)]))
def test_every_image_gets_the_size_that_is_asked_for(width, height, wanted):
    image = Image.new("RGB", (width, height), (200, 100, 50))
    for fit in ("stretch", "pad", "crop"):
        assert resize(image, *wanted, fit).size == wanted
    cropped = np.asarray(resize(image, *wanted, "crop"))
    assert (cropped == (200, 100, 50)).all(), "nothing but the image is seen"


def test_a_padded_image_lies_whole_in_the_middle_of_a_wider_canvas():
    image = Image.new("RGB", (20, 20), (255, 255, 255))
    padded = np.asarray(resize(image, 40, 20, "pad", CLIP_MEAN))
    assert padded[10, 0].tolist() == padded[10, 39].tolist() == [122, 116, 104]
    assert (padded[2:18, 12:28] == 255).all()


def test_tiles_and_global_view_are_of_the_same_fitted_image(make_image):
    image = make_image(0, 80, 40)
    for fit in ("pad", "crop"):
        views = MonkeyImageProcessor(SIDE, 2, 2, resize_mode=fit, global_from="original")(image)[
            "pixel_values"
        ]
        alone = MonkeyImageProcessor(SIDE, views="global", resize_mode=fit)(image)["pixel_values"]
        assert torch.equal(views[4:], alone)
        top = torch.cat([views[0], views[1]], 2)
        whole = torch.cat([top, torch.cat([views[2], views[3]], 2)], 1)
        shrunk = torch.nn.functional.avg_pool2d(whole[None], 2)
        assert (shrunk - alone).abs().mean() < 0.25 * alone.abs().mean()


def test_an_unknown_fit_is_refused():
    with pytest.raises(ValueError, match="'stretch', 'pad' and 'crop', got 'squeeze'"):
        MonkeyImageProcessor(resize_mode="squeeze")
