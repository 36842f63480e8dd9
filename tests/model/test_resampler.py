import pytest
import torch

from monkeylib.model.resampler import sincos_position_embedding


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

    values = resampler.qkv(resampler.ln_kv(resampler.kv_proj(features)))[..., 64:].view(3, 16, 2, 16)
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
