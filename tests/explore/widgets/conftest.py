"""All explorers, on tiny models."""

import pytest
from PIL import Image

from monkeylib import explore
from tests.support.caption_models import Colours, Halves


@pytest.fixture()
def explorers(tiled_monkey, image, predictions):
    return {
        "tiles": explore.show_tiles(tiled_monkey, image),
        "answers": explore.compare_answers(tiled_monkey, image, "x", base=tiled_monkey, max_new_tokens=3),
        "attention": explore.show_attention(tiled_monkey, image, "x"),
        "captions": explore.show_captions(Image.new("RGB", (40, 30), "red"), [Colours(), Halves()]),
        "errors": explore.show_errors(predictions),
        "costs": explore.show_costs(tiled_monkey.model.config),
    }
