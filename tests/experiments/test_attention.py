"""Attention maps of the resampler, laid out over an image."""

import numpy as np
import pytest
import torch
from PIL import Image

from monkeylib.data import synthetic
from monkeylib.experiments import attention
from monkeylib.experiments.attention import AttentionMaps
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.tiling import Grid, join_tiles


def test_maps_hold_the_views_as_the_model_gets_them(monkey, make_image):
    image = make_image(1, 112, 112)
    maps = attention.compute_attention_maps(monkey, image)

    vision = monkey.model.config.vision_config
    side = vision.tile_size // vision.patch_size

    assert maps.views.shape == (5, 3, 56, 56) and maps.grid == Grid(2, 2)
    assert maps.weights.shape == (5, 16, side, side)
    assert torch.allclose(maps.weights.sum((2, 3)), torch.ones(5, 16), atol=1e-5)

    # The image has the size of the model, so its tiles are crops of it.
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert torch.allclose(maps.views[1], pixels[:, :56, 56:], atol=1e-5), "the tile at the top right"


def test_maps_of_an_automatic_grid_have_that_of_the_image(monkey, make_image, monkeypatch):
    monkey.model.use_auto_grid(4)
    monkeypatch.setattr(monkey.processor.image_processor, "max_tiles", 4)
    maps = attention.compute_attention_maps(monkey, make_image(0, 40, 200))
    assert maps.grid == Grid(4, 1) and len(maps.views) == 5
    assert maps.over_tiles().shape[0] == 4 * maps.over_tiles().shape[1]


def test_maps_have_the_grid_of_the_model(monkey, make_image):
    maps = attention.compute_attention_maps(monkey.with_grid("1x2"), make_image())
    assert maps.grid == Grid(1, 2) and len(maps.views) == 3


def test_attention_is_laid_out_like_the_tiles():
    weights = torch.arange(5 * 2 * 2 * 2, dtype=torch.float).reshape(5, 2, 2, 2)
    maps = AttentionMaps(torch.zeros(5, 3, 4, 4), weights, Grid(2, 2))

    # Tiles are row-major: tile 1 is at the top right, tile 2 at the bottom left.
    over_tiles = maps.over_tiles(query=1)

    assert over_tiles.shape == (4, 4)
    assert torch.equal(over_tiles[:2, 2:], weights[1, 1])
    assert torch.equal(over_tiles[2:, :2], weights[2, 1])
    assert torch.equal(maps.over_global_view(query=0), weights[4, 0])
    assert torch.equal(maps.over_global_view(), weights[4].mean(0))


@pytest.fixture(scope="module")
def document():
    return synthetic.make_sample(3, "val", (112, 112), "document")


def test_text_coverage_is_the_area_of_the_letters(document):
    coverage = attention.text_coverage(document, Grid(2, 2), side=4, tile=56)
    assert coverage.shape == (5, 4, 4)
    assert 0 <= coverage.min() and coverage.max() <= 1

    # The same mask at full resolution; a patch of a tile covers 14 x 14 pixels.
    mask = np.zeros((112, 112))
    for text in document.texts:
        for glyph in text.glyphs:
            x0, y0, x1, y1 = (max(0, round(edge)) for edge in glyph.box)
            mask[y0:y1, x0:x1] = 1

    assert coverage[1, 0, 0].item() == pytest.approx(mask[:14, 56:70].mean(), abs=1e-5)
    assert coverage[:4].mean().item() == pytest.approx(mask.mean(), abs=1e-5)
    assert coverage[4].mean().item() == pytest.approx(mask.mean(), abs=1e-5), "the global view has it all"


def test_attention_on_text_compares_it_with_the_area(monkey, document, monkeypatch):
    maps = attention.compute_attention_maps(monkey, document.image)

    def replace_weights(weights):
        fixed = AttentionMaps(maps.views, weights, maps.grid)
        monkeypatch.setattr(attention, "compute_attention_maps", lambda *_: fixed)

    # Attention that ignores the image falls on text as often as its area is large.
    uniform = torch.full_like(maps.weights, 1 / 16)
    replace_weights(uniform)
    rows = attention.attention_on_text(monkey, [document])

    assert [row["views"] for row in rows] == ["tiles", "global view"]
    assert all(row["ratio"] == pytest.approx(1) for row in rows)

    # All attention on the patches with most text.
    coverage = attention.text_coverage(document, Grid(2, 2), 4, 56)
    most_text = (coverage == coverage.amax((1, 2), keepdim=True)).float()
    most_text /= most_text.sum((1, 2), keepdim=True)
    replace_weights(most_text[:, None].expand_as(uniform))

    assert all(row["ratio"] > 1 for row in attention.attention_on_text(monkey, [document]))


def test_denormalise_restores_the_colours(processor):
    image = Image.new("RGB", (112, 112), (255, 128, 0))
    images = processor.image_processor
    views = attention.denormalise(images(image)["pixel_values"], images)

    assert views[0, :, 5, 5].tolist() == pytest.approx([1, 128 / 255, 0], abs=1e-5)


def test_overlapping_tiles_give_one_map_of_the_image(tiny, tokenizer, document):
    images = MonkeyImageProcessor(56, 3, 3, tile_overlap=28)
    monkey = Monkey(tiny(lora_mode="shared"), MonkeyProcessor(images, tokenizer, queries=16))
    maps = attention.compute_attention_maps(monkey, document.image)
    assert maps.over_tiles().shape == (8, 8)  # 112 pixels, patches of 14

    coverage = attention.text_coverage(document, maps.grid, side=4, tile=56, overlap=28)
    assert torch.allclose(join_tiles(coverage[:9, None], maps.grid, 2)[0, :4, :4], coverage[0], atol=1e-6)

    images.tile_overlap = 20
    with pytest.raises(ValueError, match="overlap by 20 pixels share no whole patches of 14"):
        attention.compute_attention_maps(monkey, document.image)
