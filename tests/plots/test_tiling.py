import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import Rectangle
from PIL import Image

from monkeylib.experiments.tiling_schemes import SCHEMES
from monkeylib.plots import tiling as plots
from monkeylib.tiling import Grid, global_view, split_tiles, tile_boxes


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def page() -> torch.Tensor:
    """Fine stripes on the left, wide ones on the right, 64 x 64 pixels."""
    pixels = torch.zeros(3, 64, 64)
    pixels[:, :, :32:2] = 1
    pixels[:, :, 32:48] = 1
    return pixels


@pytest.mark.parametrize("grid", [Grid(2, 2), Grid(2, 3), Grid(1, 1)])
def test_tiles_are_drawn_with_boxes_and_numbers(grid):
    image = torch.rand(3, grid.rows * 8, grid.cols * 8)
    fig = plots.draw_views(split_tiles(image, 8), global_view(image, 8), grid)
    image_ax, tiles_ax, global_ax = fig.axes
    drawn = torch.as_tensor(image_ax.images[0].get_array()).permute(2, 0, 1)

    assert torch.equal(drawn, image)
    boxes = [patch for patch in image_ax.patches if isinstance(patch, Rectangle)]
    corners = [(box.get_x() + 0.5, box.get_y() + 0.5, box.get_width(), box.get_height()) for box in boxes]

    assert corners == [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in tile_boxes(grid, 8)]
    assert [text.get_text() for text in tiles_ax.texts] == [str(tile) for tile in range(grid.tiles)]
    assert len(tiles_ax.images) == grid.tiles and global_ax.images[0].get_array().shape[:2] == (8, 8)


def test_boxes_of_overlapping_tiles_lie_where_they_were_cut():
    image = torch.rand(3, 16, 16)
    fig = plots.draw_views(split_tiles(image, 8, 4), global_view(image, 8), Grid(3, 3), overlap=4)
    drawn = torch.as_tensor(fig.axes[0].images[0].get_array()).permute(2, 0, 1)
    assert torch.allclose(drawn, image, atol=1e-6)
    assert fig.axes[0].get_title() == "16 x 16 pixels, grid 3x3"

    boxes = [patch for patch in fig.axes[0].patches if isinstance(patch, Rectangle)]
    assert [box.get_x() + 0.5 for box in boxes] == [0, 4, 8] * 3


def test_separated_tiles_keep_their_order():
    image = torch.rand(3, 16, 24)
    tiles = split_tiles(image, 8)
    tiles_ax = plots.draw_views(tiles, global_view(image, 8), Grid(2, 3)).axes[1]
    lefts, tops = zip(*(image.get_extent()[::3] for image in tiles_ax.images), strict=True)

    assert sorted(zip(tops, lefts, strict=True)) == list(zip(tops, lefts, strict=True))
    assert torch.equal(torch.as_tensor(tiles_ax.images[4].get_array()).permute(2, 0, 1), tiles[4])


def test_downscaling_loses_fine_strokes_only():
    image = page()
    small = plots.downscale(image, 32)
    fine, wide = (
        plots.explained_variance(image, small, (4, 4, 28, 60)),
        plots.explained_variance(image, small, (34, 4, 62, 60)),
    )

    assert fine < 0.1 and wide > 0.9


def test_image_itself_explains_all_variance():
    assert plots.explained_variance(page(), page(), (0, 0, 64, 64)) == pytest.approx(1)


def test_crop_shows_the_same_part_at_every_resolution():
    image = torch.linspace(0, 1, 64).expand(3, 64, 64)
    box = (20, 10, 40, 30)
    full = plots.crop(image, box, 64, margin=0)
    small = plots.crop(plots.downscale(image, 32), box, 64, margin=0)

    assert full.shape[-1] == 21 and small.shape[-1] == 11
    assert small.mean() == pytest.approx(float(full.mean()), abs=0.02)
    assert plots.crop(image, (0, 0, 10, 10), 64).shape[-1] == 14  # the margin ends at the edge


def test_text_is_drawn_at_every_resolution():
    image = page()
    fig = plots.draw_text_crops(
        image, {"small": plots.downscale(image, 32)}, {"fine": (4, 4, 28, 20), "wide": (34, 4, 62, 60)}
    )
    titles = [ax.get_title(loc="left") + ax.get_title() for ax in fig.axes]

    assert titles == ["fine, 64 pixels", "fine, small", "wide, 64 pixels", "wide, small"]


def test_schemes_are_drawn_with_borders_cut_words_and_facts():
    images = [
        (Image.new("RGB", (200, 100), "white"), [(90, 20, 110, 30), (10, 20, 30, 30)]),
        (Image.new("RGB", (50, 50), "white"), []),
    ]
    schemes = {name: SCHEMES[name] for name in ("Monkey", "S2")}
    fig = plots.draw_schemes(images, schemes)
    first, monkey, s2, photograph, *_ = fig.axes
    assert [ax.get_title() for ax in fig.axes[:3]] == ["image", "Monkey", "S2"]
    assert first.get_xlabel() == "200 x 100 pixels\n2 words"
    assert photograph.get_xlabel() == "50 x 50 pixels\nno text"

    # Of a square there is nothing to say of its shape, and of an image without text nothing of words.
    assert monkey.get_xlabel() == "1,280 tokens\n1 word cut\nstretched 2.0 times"
    assert s2.get_xlabel() == "576 tokens\n0 words cut"
    assert fig.axes[4].get_xlabel() == "1,280 tokens"

    (cut,) = monkey.patches
    assert (cut.get_x(), cut.get_width()) == (pytest.approx(90 * 4.48), pytest.approx(20 * 4.48))
    assert len(monkey.lines) == 3 + 3 and len(s2.lines) == 4 + 4
    assert s2.images[0].get_extent() == [0, 1008, 756, 252]  # padding above and below
