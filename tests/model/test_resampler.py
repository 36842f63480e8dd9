import pytest
import torch

from monkeylib.model import MonkeyForConditionalGeneration, MonkeyResamplerConfig
from monkeylib.model.resampler import average_tokens, sincos_position_embedding


@torch.no_grad()
def test_any_patch_grid_gives_as_many_tokens_as_queries(tiny):
    resampler = tiny().resampler
    assert resampler(torch.randn(2, 64, 32)).shape == (2, 16, 32)
    assert resampler(torch.randn(2, 32, 32), patch_grid=(4, 8)).shape == (2, 16, 32)


def test_patches_that_do_not_form_the_grid_raise(tiny):
    with pytest.raises(ValueError, match="32 patches do not form a 5x5 grid"):
        tiny().resampler(torch.zeros(1, 32, 32))


@torch.no_grad()
def test_returned_attention_is_what_the_tokens_are_computed_with(tiny):
    resampler = tiny().resampler
    features = torch.randn(3, 16, 32)
    tokens, attention = resampler(features, return_attention=True)
    assert torch.equal(tokens, resampler(features))
    assert attention.shape == (3, 2, 16, 16)
    assert torch.allclose(attention.sum(-1), torch.ones(3, 2, 16))

    values = resampler.qkv.value(resampler.ln_kv(resampler.kv_proj(features))).view(3, 16, 2, 16)
    context = torch.einsum("nhqk,nkhd->nqhd", attention, values).flatten(2)

    assert torch.allclose(resampler.proj(resampler.ln_post(resampler.out(context))), tokens, atol=1e-5)


def test_position_embedding_encodes_x_first():
    embedding = sincos_position_embedding(8, 3).view(3, 3, 8)
    assert torch.equal(embedding[0, :, :4], embedding[2, :, :4]), "the first half depends on the column alone"
    assert torch.equal(embedding[:, 0, 4:], embedding[:, 2, 4:]), "the second half on the row"

    angles = torch.tensor([2.0, 0.02])  # x = 2, with the frequencies 1 and 1 / 100

    assert torch.allclose(embedding[0, 2, :4], torch.cat([angles.sin(), angles.cos()]))


def test_width_that_is_no_multiple_of_four_raises():
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_position_embedding(6, 3)


@pytest.mark.parametrize(("queries", "grid"), [(256, (16, 16)), (320, (16, 20)), (2, (1, 2)), (1, (1, 1))])
def test_queries_lie_on_the_most_square_grid(queries, grid):
    assert MonkeyResamplerConfig(queries=queries).query_grid == grid


def test_positions_of_a_grid_that_is_no_square_are_those_of_its_rows_and_columns():
    embedding = sincos_position_embedding(8, 2, 3).view(2, 3, 8)
    assert torch.equal(embedding, sincos_position_embedding(8, 3).view(3, 3, 8)[:2])


def test_neighbouring_tokens_are_averaged_in_squares():
    tokens = torch.arange(8.0).view(1, 8, 1)  # 2 rows of 4
    assert average_tokens(tokens, (2, 4), 2).flatten().tolist() == [2.5, 4.5]
    assert average_tokens(tokens, (2, 4), 1) is tokens
    with pytest.raises(ValueError, match="2x4 visual tokens does not divide into squares of 4x4"):
        average_tokens(tokens, (2, 4), 4)


@torch.no_grad()
def test_resampler_averages_its_tokens_where_the_configuration_says_so(tiny):
    model = tiny()
    config = type(model.config).from_dict(model.config.to_dict())
    config.resampler_config = MonkeyResamplerConfig(queries=16, pooling=2, heads=2)
    pooled = MonkeyForConditionalGeneration(config).eval()
    pooled.load_state_dict(model.state_dict())
    assert pooled.config.queries == 4

    features = torch.randn(2, 16, 32)
    tokens = model.resampler(features).view(2, 4, 4, 32)
    expected = torch.stack([tokens[:, :2, :2], tokens[:, :2, 2:], tokens[:, 2:, :2], tokens[:, 2:, 2:]], 1)
    assert torch.allclose(pooled.resampler(features), expected.mean((2, 3)), atol=1e-6)


@torch.no_grad()
def test_more_queries_are_interpolated_between_the_old_ones_in_both_directions(tiny):
    resampler = tiny().resampler
    column = torch.arange(4.0).repeat(4)  # of the 4x4 queries, row by row
    resampler.query.copy_(column[:, None].expand(16, 32))
    positions = resampler.positions.clone()

    resampler.resize_queries(20)  # 4 rows of 5
    assert resampler.query.shape == resampler.positions.shape == (20, 32)
    grid = resampler.query.view(4, 5, 32)
    assert torch.allclose(grid[0], grid[3], atol=1e-6), "what depends on the column alone still does"
    assert (grid[0, 1:, 0] > grid[0, :-1, 0]).all()
    assert resampler(torch.randn(3, 16, 32)).shape == (3, 20, 32)

    # In the coordinates of the old grid: the rows' part has four values, as before.
    assert torch.allclose(resampler.positions.view(4, 5, 32)[:, 0, 16:], positions.view(4, 4, 32)[:, 0, 16:])


@torch.no_grad()
def test_model_of_more_queries_is_saved_and_loaded(tiny, tmp_path):
    model = tiny()
    model.use_queries(20)
    model.save_pretrained(tmp_path)
    loaded = MonkeyForConditionalGeneration.from_pretrained(tmp_path)

    features = torch.randn(2, 16, 32)
    assert loaded.config.queries == 20
    assert torch.equal(loaded.eval().resampler(features), model.resampler(features))


def test_number_of_queries_without_a_grid_raises(tiny):
    model = tiny()
    before = model.resampler.query
    with pytest.raises(ValueError, match="17 queries make a grid of 1x17"):
        model.use_queries(17)
    assert model.resampler.query is before and model.config.queries == 16
