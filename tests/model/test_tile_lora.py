import doctest

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.model import tile_lora as lora_module
from monkeylib.model.tile_lora import NO_LORA, TileLoRA, group_neighbours, plan_chunks, tile_loras

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
