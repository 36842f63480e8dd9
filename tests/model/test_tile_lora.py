import doctest

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.model import MonkeyConfig
from monkeylib.model import tile_lora as lora_module
from monkeylib.model.tile_lora import (
    NO_LORA,
    TileLoRA,
    check_grid,
    group_neighbours,
    limit_auto_grid,
    lora_of_tiles,
    plan_chunks,
    tile_loras,
)
from monkeylib.tiling import AutoGrid, Grid

LORA_INDEX = [2, NO_LORA, 0, 3, 1, 0, NO_LORA, 2]


@pytest.fixture()
def views():
    return torch.randn(len(LORA_INDEX), 3, 56, 56, generator=torch.Generator().manual_seed(1))


def test_tile_i_meets_lora_i_and_the_global_view_none(tiny):
    model = tiny()
    assert model.lora_index(torch.tensor([[2, 2], [0, 0]])) == [0, 1, 2, 3, NO_LORA, NO_LORA]


def test_shared_mode_has_one_lora_for_all_tiles(tiny):
    model = tiny(lora_mode="shared")
    assert len(model.vision.blocks[0].mlp_lora.lora_A) == 1
    assert model.lora_index(torch.tensor([[2, 2], [0, 0]])) == [0, 0, 0, 0, NO_LORA, NO_LORA]


@pytest.mark.parametrize("mode", ["none", "full"])
def test_modes_without_lora_treat_all_views_alike(mode, tiny):
    model = tiny(lora_mode=mode)
    assert tile_loras(model) == []
    assert model.lora_index(torch.tensor([[2, 2]])) == [NO_LORA] * 5


@given(st.lists(st.integers(NO_LORA, 3), min_size=1, max_size=20), st.integers(1, 6))
def test_chunks_hold_every_view_once_with_its_lora(lora_index, chunk_size):
    chunks = plan_chunks(lora_index, chunk_size)
    assert sorted(view for chunk in chunks for view in chunk.views) == list(range(len(lora_index)))

    for views, lora_groups in chunks:
        assert 1 <= len(views) <= chunk_size
        met = [lora_index[view] for view in views]
        if lora_groups is None:
            assert set(met) == {NO_LORA}
        else:
            group_size = len(views) // len(lora_groups)
            assert met == [number for number in lora_groups for _ in range(group_size)]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12).map(sorted))
def test_groups_are_equally_large(lora_index):
    groups = group_neighbours(lora_index)
    group_size, rest = divmod(len(lora_index), len(groups))
    assert rest == 0
    assert [number for number in groups for _ in range(group_size)] == lora_index


def test_each_group_gets_scaling_times_b_times_a(tiny):
    lora = tiny().vision.blocks[0].mlp_lora
    x = torch.randn(3, 16, 32)
    added = lora.add(torch.zeros(3, 16, 32), x, torch.tensor([2, 0, 1]))
    for view, tile in enumerate([2, 0, 1]):
        expected = lora.scaling[tile] * x[view] @ lora.lora_A[tile].T @ lora.lora_B[tile].T
        assert torch.allclose(added[view], expected, atol=1e-5)


def test_dropout_acts_on_the_input_in_training_only():
    lora = TileLoRA(tiles=1, rank=4, d_in=32, d_out=32, dropout=0.5)
    torch.nn.init.normal_(lora.lora_B)
    x, group = torch.ones(1, 400, 32), torch.tensor([0])
    in_training = lora.train().add(torch.zeros(1, 400, 32), x, group)
    in_evaluation = lora.eval().add(torch.zeros(1, 400, 32), x, group)

    assert (in_training - in_evaluation).abs().max() > 0.1
    assert torch.allclose(in_training.mean(1), in_evaluation.mean(1), atol=0.3)


def test_fresh_lora_changes_nothing(tiny, views):
    model = tiny()
    for lora in tile_loras(model):
        lora.reset_parameters()
        assert lora.lora_A.abs().max() <= 32**-0.5
        assert lora.lora_A.std().item() == pytest.approx(32**-0.5 / 3**0.5, rel=0.15)

    with torch.no_grad():
        assert torch.allclose(model.vision(views, LORA_INDEX), model.vision(views), atol=1e-6)


def test_only_the_tiles_in_a_batch_train_their_lora(tiny, views):
    model = tiny()
    model.freeze_for_finetuning()
    model.vision(views[:3], [NO_LORA, 1, 3]).sum().backward()

    for lora in tile_loras(model):
        for parameter in (lora.lora_A, lora.lora_B, lora.scaling):
            gradient_per_tile = parameter.grad.reshape(4, -1).abs().sum(1)
            assert (gradient_per_tile > 0).tolist() == [False, True, False, True]

    frozen = [parameter for name, parameter in model.vision.named_parameters() if "_lora" not in name]

    assert all(parameter.grad is None for parameter in frozen)


@pytest.mark.parametrize("autocast", [True, False])
def test_lora_works_in_bfloat16(tiny, views, autocast):
    vision = tiny(lora_dropout=0.0).vision
    exact = vision(views, LORA_INDEX)

    lower = vision if autocast else vision.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rounded = lower(views, LORA_INDEX)

    assert torch.nn.functional.cosine_similarity(rounded.float(), exact, dim=-1).min() > 0.99

    rounded.float().square().mean().backward()

    for lora in tile_loras(vision):
        assert lora.lora_A.grad.abs().max() > 0
        assert lora.lora_B.grad.abs().max() > 0


def test_examples_in_docstrings_hold():
    results = doctest.testmod(lora_module)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("ranks", "kept"),
    [
        ({"attention_rank": 0}, {"mlp_lora"}),
        ({"mlp_rank": 0}, {"attention.qkv_lora", "attention.out_lora"}),
    ],
)
def test_rank_zero_leaves_that_lora_out(ranks, kept, tiny, views):
    model = tiny(**ranks)
    names = {
        name.removeprefix("blocks.0.")
        for name, module in model.vision.blocks.named_modules(prefix="blocks")
        if isinstance(module, TileLoRA) and name.startswith("blocks.0.")
    }
    assert names == kept

    with torch.no_grad():
        changed = (model.vision(views, LORA_INDEX) - model.vision(views)).abs().amax((1, 2)) > 0
    assert changed.tolist() == [number != NO_LORA for number in LORA_INDEX]


def test_global_view_has_the_last_lora_or_the_shared_one(tiny):
    grids = torch.tensor([[2, 2], [0, 0]])
    per_tile, shared = tiny(lora_on_global_view=True), tiny(lora_on_global_view=True, lora_mode="shared")
    assert per_tile.lora_index(grids) == [0, 1, 2, 3, 4, 4]
    assert len(per_tile.vision.blocks[0].mlp_lora.lora_A) == 5
    assert shared.lora_index(grids) == [0] * 6
    assert len(shared.vision.blocks[0].mlp_lora.lora_A) == 1

    without = tiny(lora_on_global_view=True, lora_mode="none")
    assert without.lora_index(grids) == [NO_LORA] * 6


# Which grids a model takes, and which LoRA a tile of them meets


@pytest.mark.parametrize(
    "grid, loras",
    [((2, 3), [0, 1, 2, 3, 4, 5]), ((1, 1), [0]), ((1, 2), [0, 1]), ((2, 1), [0, 3]), ((2, 2), [0, 1, 3, 4])],
)
def test_tiles_of_a_grid_inside_the_trained_one_meet_the_lora_of_their_position(grid, loras):
    assert lora_of_tiles(MonkeyConfig(grids=[[2, 3]]), *grid) == loras


@pytest.mark.parametrize(
    "grid, loras",
    [((1, 4), [0, 1, 2, 3]), ((2, 2), [0, 1, 4, 5]), ((4, 1), [0, 4, 6, 7]), ((3, 1), [0, 4, 6])],
)
def test_tiles_of_automatic_grids_meet_the_lora_of_their_position(grid, loras):
    config = MonkeyConfig(max_tiles=4)
    assert config.lora_count == 8
    assert lora_of_tiles(config, *grid) == loras


@given(max_tiles=st.integers(1, 12), rows=st.integers(1, 12), cols=st.integers(1, 12))
def test_each_lora_of_automatic_grids_has_one_position(max_tiles, rows, cols):
    config = MonkeyConfig(max_tiles=max_tiles)
    if rows * cols > max_tiles:
        with pytest.raises(
            ValueError, match=f"grids of up to {max_tiles} tiles, got an image of {rows}x{cols}"
        ):
            lora_of_tiles(config, rows, cols)
        return

    positions = [config.lora_positions[number] for number in lora_of_tiles(config, rows, cols)]
    assert positions == [(row, col) for row in range(rows) for col in range(cols)]


def test_an_added_grid_numbers_its_tiles_row_by_row():
    config = MonkeyConfig(grids=[[2, 2], [3, 1]])
    assert lora_of_tiles(config, 3, 1) == [0, 1, 2]
    assert lora_of_tiles(config, 2, 1) == [0, 2]


@pytest.mark.parametrize("grid", [(3, 1), (1, 3), (6, 1)])
def test_grid_beyond_the_trained_one_raises(grid):
    with pytest.raises(ValueError, match="made for the grid 2x2 .* one inside 2x2, or auto.*--set grid=auto"):
        check_grid(MonkeyConfig(grids=[[2, 2]]), *grid)


@pytest.mark.parametrize("mode", ["shared", "none", "full"])
def test_any_grid_is_taken_where_no_lora_belongs_to_a_position(mode):
    for config in (MonkeyConfig(grids=[[2, 2]], lora_mode=mode), MonkeyConfig(max_tiles=4, lora_mode=mode)):
        check_grid(config, 7, 3)
        assert limit_auto_grid(config, AutoGrid(9)) == AutoGrid(9)
        assert limit_auto_grid(config, AutoGrid()) == AutoGrid(4)


def test_model_of_one_view_takes_no_tiles():
    config = MonkeyConfig(lora_mode="none", views="global")
    check_grid(config, 0, 0)
    with pytest.raises(
        ValueError, match="one global view per image, got an image of 2x2 tiles: leave the grid"
    ):
        check_grid(config, 2, 2)
    with pytest.raises(ValueError, match="takes no tiles"):
        limit_auto_grid(config, AutoGrid(4))


def test_automatic_grids_of_a_fixed_checkpoint_lie_inside_its_grid():
    config = MonkeyConfig(grids=[[2, 3]])
    assert limit_auto_grid(config, AutoGrid()) == AutoGrid(6, within=Grid(2, 3))
    assert limit_auto_grid(config, AutoGrid(2)) == AutoGrid(2, within=Grid(2, 3))
    assert limit_auto_grid(config, AutoGrid(4, Grid(1, 9))) == AutoGrid(4, within=Grid(1, 3))


@pytest.mark.parametrize("config", [MonkeyConfig(grids=[[2, 3]]), MonkeyConfig(max_tiles=6)])
def test_automatic_grids_of_more_tiles_than_lora_raise(config):
    with pytest.raises(ValueError, match="choose auto or auto:6, or train with .*--set max_tiles=7"):
        limit_auto_grid(config, AutoGrid(7))
