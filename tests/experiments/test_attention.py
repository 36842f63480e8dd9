"""Where queries look: the attention of the resampler, laid out over an image."""

import numpy as np
import pytest
import torch
from PIL import Image

from monkeylib.data import synthetic
from monkeylib.experiments import attention
from monkeylib.tiling import Grid


def test_looks_hold_the_views_as_the_model_gets_them(monkey, make_image):
    image = make_image(1, 112, 112)
    looks = attention.look(monkey, image)
    side = monkey.model.config.vision_config.tile_size // monkey.model.config.vision_config.patch_size
    assert looks.views.shape == (5, 3, 56, 56) and looks.grid == Grid(2, 2)
    assert looks.weights.shape == (5, 16, side, side)
    assert torch.allclose(looks.weights.sum((2, 3)), torch.ones(5, 16), atol=1e-5)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert torch.allclose(looks.views[1], pixels[:, :56, 56:], atol=1e-5), "the tile at the top right"


def test_attention_is_laid_out_as_the_tiles_are():
    weights = torch.arange(5 * 2 * 2 * 2, dtype=torch.float).reshape(5, 2, 2, 2)
    looks = attention.Looks(torch.zeros(5, 3, 4, 4), weights, Grid(2, 2))
    joined = looks.tiles(query=1)
    assert joined.shape == (4, 4)
    assert torch.equal(joined[:2, 2:], weights[1, 1]) and torch.equal(joined[2:, :2], weights[2, 1])
    assert torch.equal(looks.whole(query=0), weights[4, 0])
    assert torch.equal(looks.whole(), weights[4].mean(0))


@pytest.fixture(scope="module")
def document():
    return synthetic.make_sample(3, "val", (112, 112), "document")


def test_written_patches_are_where_the_letters_are(document):
    cover = attention.written(document, Grid(2, 2), side=4, tile=56)
    assert cover.shape == (5, 4, 4) and 0 <= cover.min() and cover.max() <= 1
    mask = np.zeros((112, 112))
    for glyph in (glyph for text in document.texts for glyph in text.glyphs):
        x0, y0, x1, y1 = (max(0, round(edge)) for edge in glyph.box)
        mask[y0:y1, x0:x1] = 1
    assert cover[1, 0, 0].item() == pytest.approx(mask[:14, 56:70].mean(), abs=1e-5)
    assert cover[:4].mean().item() == pytest.approx(mask.mean(), abs=1e-5)
    assert cover[4].mean().item() == pytest.approx(mask.mean(), abs=1e-5), "the whole has the same letters"


def test_queries_that_look_everywhere_alike_have_the_letters_share(monkey, document, monkeypatch):
    looked = attention.look(monkey, document.image)
    even = torch.full_like(looked.weights, 1 / 16)
    monkeypatch.setattr(attention, "look", lambda *_: attention.Looks(looked.views, even, looked.grid))
    rows = attention.on_print(monkey, [document])
    assert [row["views"] for row in rows] == ["tiles", "global view"]
    assert all(row["ratio"] == pytest.approx(1) for row in rows)
    cover = attention.written(document, Grid(2, 2), 4, 56)
    first = (cover == cover.amax((1, 2), keepdim=True)).float()
    first /= first.sum((1, 2), keepdim=True)
    monkeypatch.setattr(
        attention,
        "look",
        lambda *_: attention.Looks(looked.views, first[:, None].expand_as(even), looked.grid),
    )
    assert all(row["ratio"] > 1 for row in attention.on_print(monkey, [document])), "at letters alone"


def test_views_come_back_from_their_normalisation(processor):
    grey = Image.new("RGB", (112, 112), (255, 128, 0))
    images = processor.image_processor
    views = attention.unnormalised(images(grey)["pixel_values"], images)
    assert views[0, :, 5, 5].tolist() == pytest.approx([1, 128 / 255, 0], abs=1e-5)
