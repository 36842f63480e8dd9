"""All explorers, on tiny models."""

import pytest
from PIL import Image

from monkeylib import explore
from monkeylib.experiments.lora_effect import describe_loras
from tests.support.caption_models import Colours, Halves


@pytest.fixture()
def explorers(tiled_monkey, image, predictions):
    loras = describe_loras(tiled_monkey.model.vision)
    second_block = [row | {"block": 1, "norm": row["norm"] / 2} for row in loras]
    return {
        "tiles": explore.show_tiles(tiled_monkey, image),
        "answers": explore.compare_answers(tiled_monkey, image, "x", base=tiled_monkey, max_new_tokens=3),
        "attention": explore.show_attention(tiled_monkey, image, "x"),
        "queries": explore.show_queries(tiled_monkey, image),
        "loras": explore.show_loras([*loras, *second_block]),
        "captions": explore.show_captions(Image.new("RGB", (40, 30), "red"), [Colours(), Halves()]),
        "errors": explore.show_errors(predictions),
        "costs": explore.show_costs(tiled_monkey.model.config),
    }
