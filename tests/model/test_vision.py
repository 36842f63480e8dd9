import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.model import vision as views_module
from monkeylib.model.lora import TileLoRA, group_views
from monkeylib.model.vision import (
    PositionEmbeddingCache,
    interpolate_position_embedding,
    sincos_position_embedding,
)
from tests.support.checkpointing import compare_checkpointed

INDEX = torch.tensor([2, -1, 0, 3, 1, 0, -1, 2])


@pytest.fixture()
def views():
    return torch.randn(len(INDEX), 3, 56, 56, generator=torch.Generator().manual_seed(1))


def one_by_one(vision, views, index):
    return torch.cat([vision(view[None], adapter[None]) for view, adapter in zip(views, index, strict=True)])


@torch.no_grad()
def test_each_view_meets_its_own_adapter_in_any_order(tiny, views):
    vision = tiny().vision
    together = vision(views, INDEX)
    assert torch.allclose(together, one_by_one(vision, views, INDEX), atol=1e-5)
    # and every adapter makes a difference of its own
    same_view = vision(views[:1].expand(5, -1, -1, -1), torch.tensor([-1, 0, 1, 2, 3]))
    for i in range(5):
        for j in range(i):
            assert (same_view[i] - same_view[j]).abs().max() > 0.1


@torch.no_grad()
def test_the_size_of_the_chunks_changes_nothing(tiny, views, monkeypatch):
    vision = tiny().vision
    whole = vision(views, INDEX)
    for chunk_bytes in (0, 3 * 16 * 64 * 4):  # one view, three views
        monkeypatch.setattr(views_module, "CPU_CHUNK_BYTES", chunk_bytes)
        assert torch.allclose(vision(views, INDEX), whole, atol=1e-5)


def test_an_adapter_is_scale_times_b_times_a(tiny):
    bank = tiny().vision.blocks[0].mlp_lora
    x = torch.randn(3, 16, 32)
    added = bank.add(torch.zeros(3, 16, 32), x, torch.tensor([2, 0, 1]))
    for view, tile in enumerate([2, 0, 1]):
        expected = bank.scaling[tile] * x[view] @ bank.lora_A[tile].T @ bank.lora_B[tile].T
        assert torch.allclose(added[view], expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("reads", ["residual", "normed"])
def test_what_the_mlp_adapter_reads_is_a_choice(tiny, reads):
    """A block written out: the release's adapter reads the residual stream, the paper's the MLP's input."""
    block = tiny(mlp_lora_input=reads).vision.blocks[0]
    x, group = torch.randn(1, 16, 32), torch.tensor([3])
    y = x + block.attention(block.ln_1(x), group)
    mlp = block.proj(torch.nn.functional.gelu(block.fc(block.ln_2(y))))
    read = y if reads == "residual" else block.ln_2(y)
    expected = y + block.mlp_lora.add(mlp.clone(), read, group)
    assert torch.allclose(block(x, group), expected, atol=1e-5)


def test_dropout_acts_on_the_adapters_input_in_training_only():
    bank = TileLoRA(1, 4, 32, 32, dropout=0.5)
    torch.nn.init.normal_(bank.lora_B)
    x, group = torch.ones(1, 400, 32), torch.tensor([0])
    trained = bank.train().add(torch.zeros(1, 400, 32), x, group)
    evaluated = bank.eval().add(torch.zeros(1, 400, 32), x, group)
    assert (trained - evaluated).abs().max() > 0.1
    assert torch.allclose(trained.mean(1), evaluated.mean(1), atol=0.3)


def test_fresh_adapters_change_nothing(tiny, views):
    model = tiny()
    for module in model.modules():
        if isinstance(module, TileLoRA):
            module.reset_parameters()
            assert module.lora_A.abs().max() <= 32**-0.5
            assert module.lora_A.std().item() == pytest.approx(32**-0.5 / 3**0.5, rel=0.15)
    with torch.no_grad():
        assert torch.allclose(model.vision(views, INDEX), model.vision(views), atol=1e-6)


@torch.no_grad()
def test_shared_mode_uses_one_adapter_for_all_tiles(tiny, make_image, processor):
    model = tiny(lora_mode="shared")
    assert model.vision.blocks[0].mlp_lora.lora_A.shape[0] == 1
    assert model.lora_index(torch.tensor([[2, 2], [0, 0]])).tolist() == [0, 0, 0, 0, -1, -1]


@pytest.mark.parametrize("mode", ["none", "full"])
@torch.no_grad()
def test_modes_without_adapters_treat_all_views_alike(mode, tiny, views):
    vision = tiny(lora_mode=mode).vision
    assert not any(isinstance(module, TileLoRA) for module in vision.modules())
    assert torch.equal(vision(views, INDEX), vision(views))


def test_only_the_tiles_in_a_batch_train_their_adapters(tiny, views):
    model = tiny()
    model.freeze_for_finetuning()
    model.vision(views[:3], torch.tensor([-1, 1, 3])).sum().backward()
    for module in model.vision.modules():
        if isinstance(module, TileLoRA):
            for parameter in (module.lora_A, module.lora_B, module.scaling):
                moved = parameter.grad.flatten(1).abs().sum(1) if parameter.ndim > 1 else parameter.grad.abs()
                assert (moved > 0).tolist() == [False, True, False, True]
    assert all(p.grad is None for n, p in model.vision.named_parameters() if "_lora" not in n)


def test_global_views_build_no_graph_while_the_trunk_is_frozen(tiny, views):
    model = tiny()
    model.freeze_for_finetuning()
    assert not model.vision(views, torch.full((8,), -1)).requires_grad
    assert model.vision(views, INDEX).requires_grad


@pytest.mark.parametrize("mode", ["per_tile", "full"])
def test_checkpointing_changes_nothing_but_what_is_saved(tiny, processor, make_image, mode):
    plain, checkpointed = (tiny(lora_mode=mode, lora_dropout=0.0) for _ in range(2))
    checkpointed.gradient_checkpointing_enable()
    inputs = processor([make_image()], ["What is it? Answer: a cat"])
    compare_checkpointed(plain, checkpointed, inputs | {"labels": inputs["input_ids"]})


@pytest.mark.parametrize("autocast", [True, False])
def test_adapters_work_in_bfloat16(tiny, views, autocast):
    vision = tiny(lora_dropout=0.0).vision
    exact = vision(views, INDEX)
    lower = vision if autocast else vision.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rounded = lower(views, INDEX)
    assert torch.nn.functional.cosine_similarity(rounded.float(), exact, dim=-1).min() > 0.99
    rounded.float().square().mean().backward()
    for bank in (module for module in vision.modules() if isinstance(module, TileLoRA)):
        assert bank.lora_A.grad.abs().max() > 0 and bank.lora_B.grad.abs().max() > 0


@torch.no_grad()
def test_larger_views_interpolate_the_positions(tiny):
    model = tiny()
    features = model.vision(torch.randn(2, 3, 112, 112))
    assert features.shape == (2, 64, 32)
    assert model.resampler(features).shape == (2, 16, 32)
    oblong = model.vision(torch.randn(2, 3, 56, 112))
    assert model.resampler(oblong, patch_grid=(4, 8)).shape == (2, 16, 32)


def test_sizes_that_do_not_fit_are_refused(tiny):
    model = tiny()
    with pytest.raises(ValueError, match="60x56 pixels.*patches of 14"):
        model.vision(torch.zeros(1, 3, 60, 56))
    with pytest.raises(ValueError, match="32 patches do not form a 5x5 grid"):
        model.resampler(torch.zeros(1, 32, 32))


@torch.no_grad()
def test_the_resampler_can_return_its_attention(tiny):
    resampler = tiny().resampler
    features = torch.randn(3, 16, 32)
    tokens, attention = resampler(features, return_attention=True)
    assert torch.equal(tokens, resampler(features))
    assert attention.shape == (3, 2, 16, 16)
    assert torch.allclose(attention.sum(-1), torch.ones(3, 2, 16))
    # The tokens are what these weights make of the values.
    values = resampler.qkv(resampler.ln_kv(resampler.kv_proj(features)))[..., 64:].view(3, 16, 2, 16)
    context = torch.einsum("nhqk,nkhd->nqhd", attention, values).flatten(2)
    assert torch.allclose(resampler.proj(resampler.ln_post(resampler.out(context))), tokens, atol=1e-5)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12).map(sorted))
def test_groups_give_every_view_its_adapter(index):
    groups = group_views(index)
    size, rest = divmod(len(index), len(groups))
    assert rest == 0
    assert [adapter for adapter in groups for _ in range(size)] == index


def test_positions_encode_x_first():
    table = sincos_position_embedding(8, 3).view(3, 3, 8)
    assert torch.equal(table[0, :, :4], table[2, :, :4])  # the first half depends on the column alone
    assert torch.equal(table[:, 0, 4:], table[:, 2, 4:])
    assert torch.allclose(
        table[0, 2, :4],
        torch.tensor([2.0, 0.02])
        .repeat(2)
        .sin()
        .where(torch.tensor([True, True, False, False]), torch.tensor([2.0, 0.02]).repeat(2).cos()),
    )
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_position_embedding(6, 3)


def test_a_table_of_the_right_size_is_taken_as_it_is():
    table = torch.randn(9, 4)
    assert interpolate_position_embedding(table, 3, 3) is table


def test_interpolation_is_kept_until_the_table_changes():
    cache, table = PositionEmbeddingCache(), torch.nn.Parameter(torch.randn(9, 4))
    with torch.inference_mode():
        first = cache(table, 6, 6)
    with torch.no_grad():
        assert cache(table, 6, 6) is first
        table += 1
        assert torch.allclose(cache(table, 6, 6), first + 1, atol=1e-5)
    trained = cache(table, 6, 6)
    trained.sum().backward()
    assert table.grad.sum() == pytest.approx(36 * 4, rel=1e-4)
