"""What an image costs a model that is not loaded."""

import pytest

from monkeylib import explore, profiles, sizing
from monkeylib.explore.costs import ImageCosts, image_costs
from monkeylib.tiling import Grid


@pytest.fixture(scope="module")
def paper():
    return profiles.build_config(profiles.load_profile("paper-896"))


def test_costs_are_those_of_the_sizing(paper):
    costs = image_costs(paper, Grid(2, 3), text_tokens=100)
    assert costs.visual_tokens == 7 * 256
    assert costs.flops == sizing.count_flops(paper, Grid(2, 3), 100)
    memory = sizing.inference_bytes(paper, Grid(2, 3), 100)
    assert (costs.weights, costs.cache) == (memory["weights"], memory["cache"])

    rows = dict(costs.rows())
    assert rows["grid"] == "2x3: 6 tiles" and rows["weights"] == "19.42 GB"
    assert rows["visual tokens"] == "1,792" and rows["operations"].endswith(" TFLOP")


def test_images_that_fit_beside_the_weights():
    costs = ImageCosts(Grid(2, 2), 0, {"ViT": 1}, weights=18_000_000_000, cache=1_000_000_000)
    # Nine tenths of 24 GB are 21.6.
    assert costs.examples_at_once(24) == 3
    assert costs.examples_at_once(80) == 54
    assert costs.examples_at_once(16) == 0


def test_impossible_costs_are_refused(paper):
    with pytest.raises(ValueError, match="got the grid 0x0 and 32 tokens"):
        image_costs(paper, Grid(0, 0))
    with pytest.raises(ValueError, match="0 or more tokens"):
        image_costs(paper, Grid(1, 1), text_tokens=-1)
    with pytest.raises(ValueError, match="a grid of 1 to 9 tiles"):
        explore.show_costs(paper, "4x4")


def test_figure_marks_the_displayed_grid(paper):
    explorer = explore.show_costs(paper, "2x3")
    fig = explorer.figure()
    operations, memory = fig.axes
    assert "1,792" in fig.get_suptitle() and "80 GB" in fig.get_suptitle()

    # 1 to 9 tiles; a bar for each part of the model, and one of keys and values.
    assert [tick for tick in memory.get_xticks()] == list(range(1, 10))
    assert len(memory.containers) == 1 and len(operations.containers) == 4
    heights = [bar.get_height() for bar in memory.containers[0]]
    assert heights == sorted(heights)
    assert heights[5] == pytest.approx(explorer.costs().cache / 1e9)
