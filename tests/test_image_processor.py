import io

import pytest
import torch

from monkeylib.image_processor import MonkeyImageProcessor
from monkeylib.model.normalisation import normalise_bytes
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyProcessor


@pytest.mark.parametrize("views", ["tiles+global", "tiles", "global"])
@pytest.mark.parametrize("global_from", ["resized", "original"])
def test_bytes_normalised_by_the_model_are_the_exact_views_up_to_rounding(make_image, views, global_from):
    settings = {"tile_size": 16, "rows": 2, "cols": 2, "views": views, "global_from": global_from}
    exact = MonkeyImageProcessor(**settings)(make_image(0, 70, 50))
    fast = MonkeyImageProcessor(**settings, exact=False)(make_image(0, 70, 50))

    assert fast["pixel_values"].dtype == torch.uint8 and torch.equal(fast["grids"], exact["grids"])
    difference = normalise_bytes(fast["pixel_values"], "monkey_vision") - exact["pixel_values"]
    # In units of a byte; the resized global view may overshoot, where bytes end at 0 and 255.
    bytes_off = difference.abs() * torch.tensor(exact_std()) * 255
    assert bytes_off[:4].max() < 1.1 and bytes_off.mean() < 0.5


def exact_std():
    return [[[value]] for value in MonkeyImageProcessor().image_std]


def test_overlapping_tiles_of_bytes_are_cut_like_exact_ones(make_image):
    settings = {"tile_size": 16, "rows": 1, "cols": 3, "tile_overlap": 8, "views": "tiles"}
    image = make_image(0, 32, 16)
    exact, fast = (
        MonkeyImageProcessor(**settings, exact=exact)(image)["pixel_values"] for exact in (True, False)
    )
    assert torch.allclose(normalise_bytes(fast, "monkey_vision"), exact, atol=1e-5)


def test_setting_is_stored_only_where_it_is_not_the_usual_one(tmp_path):
    assert "exact" not in MonkeyImageProcessor().to_dict()
    MonkeyImageProcessor(exact=False).save_pretrained(tmp_path)
    assert MonkeyImageProcessor.from_pretrained(tmp_path).exact is False
    with pytest.raises(ValueError, match="exact is 'no': expected true or false"):
        MonkeyImageProcessor(exact="no")


def test_model_takes_views_of_bytes_of_a_large_jpeg(monkey, make_image):
    images = monkey.processor.image_processor
    settings = {
        name: value for name, value in images.to_dict().items() if name in ("tile_size", "rows", "cols")
    }
    content = io.BytesIO()
    # Of the size of the tiles: nothing is resized, and only the global view differs.
    make_image(0, images.cols * images.tile_size, images.rows * images.tile_size).save(content, "JPEG")
    fast = MonkeyProcessor(
        MonkeyImageProcessor(**settings, exact=False), monkey.processor.tokenizer, monkey.processor.queries
    )
    inputs, expected = (processor(content.getvalue(), "what?") for processor in (fast, monkey.processor))
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert inputs["pixel_values"].dtype == torch.uint8

    tokens, exact_tokens = (
        monkey.model.get_image_features(of["pixel_values"], of["grids"]) for of in (inputs, expected)
    )
    assert torch.allclose(tokens[:-1], exact_tokens[:-1], atol=1e-5)
    assert torch.allclose(tokens[-1], exact_tokens[-1], atol=0.2)


def test_bytes_of_another_normalisation_than_the_vision_encoders_are_refused(monkey):
    images = MonkeyImageProcessor(image_mean=[0.5, 0.5, 0.5], exact=False)
    processor = MonkeyProcessor(images, monkey.processor.tokenizer, monkey.processor.queries)
    with pytest.raises(ValueError, match="take a processor with exact=True"):
        Monkey(monkey.model, processor)
