"""Captioned segments: the paper's, from end to end on tiny weights."""

import pytest
from PIL import Image

from monkeylib.captions import experts
from monkeylib.captions.experts import segments
from tests.support.tiny_experts import IMAGES


@pytest.mark.usefixtures("tiny")
def test_paper_set_annotates_images_end_to_end():
    loaded = {expert.name: expert for expert in experts.load_experts("paper")}
    assert list(loaded) == ["blip2", "grit", "sam+blip2", "pp-ocr"]

    # Settings that tiny random weights can fulfil.
    loaded["sam+blip2"].upstream.points, loaded["sam+blip2"].upstream.stability = 6, 0.5
    outputs = {name: expert.annotate(IMAGES) for name, expert in loaded.items()}

    assert all(len(item.captions) == 1 for item in outputs["blip2"])

    assert all(item.regions and all(region.text for region in item.regions) for item in outputs["grit"])

    captioned = [region for item in outputs["sam+blip2"] for region in item.regions]
    assert captioned and all(region.text and region.kind == "segment" for region in captioned)
    assert all(len(item.regions) <= segments.LARGEST for item in outputs["sam+blip2"])

    # The set's default matcher scores their texts.
    matcher = experts.load_matcher("auto", "paper")
    crops = [Image.new("RGB", (9, 9), "red")] * len(captioned)
    assert all(0 < value < 1 for value in matcher.match(crops, [region.text for region in captioned]))
