import doctest

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from monkeylib import tiling
from monkeylib.processing import CLIP_MEAN, MonkeyImageProcessor
from monkeylib.tiling import (
    AutoGrid,
    Grid,
    as_grid,
    check_overlap,
    compute_grid,
    covered_side,
    distortion,
    global_view,
    grid_positions,
    join_tiles,
    parse_grid,
    resize,
    select_grid,
    split_tiles,
    tile_boxes,
)

sizes = st.integers(1, 4)


@given(rows=sizes, cols=sizes, tile=st.integers(1, 6), batch=st.lists(st.integers(1, 2), max_size=2))
def test_joining_undoes_splitting(rows, cols, tile, batch):
    image = torch.arange(2 * rows * cols * tile * tile * torch.tensor(batch).prod()).float()
    image = image.reshape(*batch, 2, rows * tile, cols * tile)
    tiles = split_tiles(image, tile)
    assert tiles.shape == (*batch, rows * cols, 2, tile, tile)
    assert torch.equal(join_tiles(tiles, Grid(rows, cols)), image)


@given(rows=sizes, cols=sizes, tile=st.integers(1, 6))
def test_boxes_are_where_the_tiles_were_cut(rows, cols, tile):
    image = torch.rand(3, rows * tile, cols * tile)
    boxes = tile_boxes(Grid(rows, cols), tile)
    cut = torch.stack([image[:, y0:y1, x0:x1] for x0, y0, x1, y1 in boxes])
    assert torch.equal(cut, split_tiles(image, tile))


overlapping = st.tuples(st.integers(1, 6), st.integers(0, 5)).filter(lambda sides: sides[1] < sides[0])


@given(rows=sizes, cols=sizes, sides=overlapping, batch=st.lists(st.integers(1, 2), max_size=2))
def test_joining_undoes_splitting_into_overlapping_tiles(rows, cols, sides, batch):
    tile, overlap = sides
    size = covered_side(rows, tile, overlap), covered_side(cols, tile, overlap)
    image = torch.rand(*batch, 2, *size, dtype=torch.float64)
    tiles = split_tiles(image, tile, overlap)
    assert tiles.shape == (*batch, rows * cols, 2, tile, tile)
    assert compute_grid(*size, tile, overlap) == Grid(rows, cols)
    assert torch.allclose(join_tiles(tiles, Grid(rows, cols), overlap), image)

    boxes = tile_boxes(Grid(rows, cols), tile, overlap)
    cut = torch.stack([image[..., y0:y1, x0:x1] for x0, y0, x1, y1 in boxes], dim=-4)
    assert torch.equal(cut, tiles)


def test_where_tiles_overlap_their_mean_counts():
    tiles = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    joined = join_tiles(tiles, Grid(1, 2), overlap=2)
    assert joined.shape == (1, 4, 6)
    assert joined[0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


@pytest.mark.parametrize("overlap", [-1, 4, 1.0, True])
def test_impossible_overlap_raises(overlap):
    for cut in (lambda: split_tiles(torch.zeros(1, 8, 8), 4, overlap), lambda: check_overlap(overlap, 4)):
        with pytest.raises(ValueError, match="overlap of tiles of 4 pixels .* from 0 to 3, got"):
            cut()


def test_image_that_overlapping_tiles_do_not_cover_raises():
    with pytest.raises(ValueError, match="200x192 .* share 48: resize it to 96 and multiples of 48 more"):
        compute_grid(200, 192, 96, 48)


def test_tiles_are_numbered_row_by_row():
    image = torch.zeros(1, 2, 3)
    image[0, 0, 1] = 1  # above, in the middle column
    assert split_tiles(image, 1).flatten().tolist() == [0, 1, 0, 0, 0, 0]


def test_grid_counts_rows_of_the_height():
    assert compute_grid(896, 1344, 448) == Grid(2, 3)
    assert Grid(2, 3).tiles == 6
    assert str(Grid(2, 3)) == "2x3"


@pytest.mark.parametrize("height, width, tile", [(100, 96, 48), (96, 100, 48), (0, 48, 48), (48, 48, 0)])
def test_sizes_that_do_not_divide_raise(height, width, tile):
    with pytest.raises(ValueError, match="tile"):
        compute_grid(height, width, tile)


def test_joining_the_wrong_number_of_tiles_raises():
    with pytest.raises(ValueError, match="2x2 grid has 4 tiles, got 3"):
        join_tiles(torch.zeros(3, 1, 2, 2), Grid(2, 2))


sides = st.integers(1, 3000)
tile_sides = st.sampled_from([56, 96, 448])


@given(width=sides, height=sides, tile=tile_sides, max_tiles=st.integers(1, 12))
def test_no_other_grid_distorts_an_image_less_than_the_selected_one(width, height, tile, max_tiles):
    selected = select_grid(width, height, tile, max_tiles)
    assert 1 <= selected.tiles <= max_tiles

    # No tile without a pixel of its own.
    assert (selected.rows - 1) * tile < height and (selected.cols - 1) * tile < width

    def kept(grid: Grid) -> int:
        return min(width, grid.cols * tile) * min(height, grid.rows * tile)

    for row, col in grid_positions(max_tiles):
        other = Grid(row + 1, col + 1)
        if row * tile < height and col * tile < width:
            # It alone is the best: the order of the candidates doesn't matter.
            better = (-distortion(width, height, selected), kept(selected))
            assert selected == other or better > (-distortion(width, height, other), kept(other))


@given(width=sides, height=sides, tile=tile_sides, max_tiles=st.integers(1, 12))
def test_grid_of_the_turned_image_is_the_turned_grid(width, height, tile, max_tiles):
    grid, turned = select_grid(width, height, tile, max_tiles), select_grid(height, width, tile, max_tiles)
    assert turned == Grid(grid.cols, grid.rows)


@given(width=sides, height=sides, tile=tile_sides, more=st.integers(0, 6))
def test_more_tiles_never_distort_more(width, height, tile, more):
    few, many = select_grid(width, height, tile, 6), select_grid(width, height, tile, 6 + more)
    assert distortion(width, height, many) <= distortion(width, height, few)


@pytest.mark.parametrize(
    "size, max_tiles, grid",
    [
        ((448, 448), 9, "1x1"),  # has pixels for one tile
        ((449, 449), 9, "2x2"),
        ((896, 896), 4, "2x2"),
        ((896, 896), 3, "1x1"),  # 1x1 keeps the shape, 1x2 would not
        ((1344, 1344), 9, "3x3"),  # of one shape with 1x1 and 2x2, but with more pixels
        ((1344, 896), 6, "2x3"),
        ((896, 1344), 6, "3x2"),
        ((300, 3000), 10, "7x1"),  # 3000 pixels fill seven tiles
        ((3000, 300), 4, "1x4"),
        ((10, 3000), 4, "4x1"),
        ((60, 40), 6, "1x1"),
        ((1600, 900), 4, "1x2"),
    ],
)
def test_selected_grids(size, max_tiles, grid):
    assert str(select_grid(*size, 448, max_tiles)) == grid


def test_selection_within_a_grid():
    assert select_grid(300, 3000, 56, 6, within=Grid(2, 2)) == Grid(2, 1)
    assert select_grid(300, 300, 56, 6, within=Grid(2, 2)) == Grid(2, 2)


@pytest.mark.parametrize("arguments", [(0, 5, 8, 4), (5, 0, 8, 4), (5, 5, 0, 4), (5, 5, 8, 0)])
def test_selection_for_nothing_raises(arguments):
    with pytest.raises(ValueError, match="a grid needs an image"):
        select_grid(*arguments)


@given(max_tiles=st.integers(1, 20))
def test_positions_are_those_of_all_grids(max_tiles):
    grids = [
        Grid(rows, cols)
        for rows in range(1, max_tiles + 1)
        for cols in range(1, max_tiles + 1)
        if rows * cols <= max_tiles
    ]
    expected = {(row, col) for grid in grids for row in range(grid.rows) for col in range(grid.cols)}
    positions = grid_positions(max_tiles)
    assert set(positions) == expected and positions == sorted(expected)


@pytest.mark.parametrize(
    "text, grid",
    [("2x3", Grid(2, 3)), ("10x1", Grid(10, 1)), ("auto", AutoGrid()), ("auto:12", AutoGrid(12))],
)
def test_grids_are_parsed_as_they_are_written(text, grid):
    assert parse_grid(text) == grid and str(grid) == text and as_grid(text) == grid == as_grid(grid)


@pytest.mark.parametrize(
    "text", ["", "3", "2x", "x2", "0x2", "2x-1", "2 x 3", "auto:", "auto:0", "auto:x", "Auto"]
)
def test_texts_that_are_no_grid_raise(text):
    with pytest.raises(ValueError, match="ROWSxCOLUMNS, such as 2x3, or as auto"):
        parse_grid(text)


@pytest.mark.parametrize(
    "value", [6, (2,), (2, 3, 4), (2, -1), (2, 0), (0, 2), (True, 2), ("2", "3"), {"rows": 2}, 2.0]
)
def test_values_that_are_no_grid_raise(value):
    with pytest.raises(ValueError, match="a pair of rows and columns"):
        as_grid(value)


@pytest.mark.parametrize("tiles", [0, -3, 2.5, True])
def test_automatic_grid_without_tiles_raises(tiles):
    with pytest.raises(ValueError, match="at least 1 tile"):
        AutoGrid(tiles)


@pytest.mark.parametrize("within", [Grid(0, 0), Grid(2, 0), (2, 2)])
def test_automatic_grid_within_no_grid_raises(within):
    with pytest.raises(ValueError, match="lies within a Grid of at least 1x1, got "):
        AutoGrid(4, within)


def test_selection_within_no_grid_raises():
    with pytest.raises(ValueError, match="a grid needs an image, tiles and at least one of them"):
        tiling.select_grid(5, 5, 8, 4, Grid(0, 1))


def test_global_view_of_a_batch_is_that_of_each_image():
    images = torch.rand(2, 2, 3, 12, 18)
    views = global_view(images, 6)
    assert views.shape == (2, 2, 3, 6, 6)
    assert torch.allclose(views[1, 0], global_view(images[1, 0], 6))


def test_global_view_does_not_antialias():
    # A single bright pixel that the non-antialiased kernel (2 pixels to each side) does not reach.
    image = torch.zeros(1, 24, 24)
    image[0, 8, 8] = 1
    assert global_view(image, 3).abs().max() == 0


def test_examples_in_docstrings_hold():
    results = doctest.testmod(tiling)
    assert results.attempted > 0
    assert results.failed == 0


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
