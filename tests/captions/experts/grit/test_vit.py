"""GRiT's image encoder against the released code's values, stage by stage."""

import pytest
import torch

from monkeylib.captions.experts.grit import vit
from monkeylib.captions.experts.grit.config import GritConfig
from tests.support.grit_goldens import assert_near, small_grit

STEPS = {"a": 3, "b": 2}  # the goldens hold every third, and every second, row and column


def test_embedding_is_that_of_the_released_code(run):
    step = STEPS[run.name]
    patches = run.outputs["vit.patch_embedding"][0].permute(1, 2, 0)
    positions = small_grit().vit._position_embedding(*patches.shape[:2])[0]

    assert_near(patches[::step, ::step], f"{run.name}.patch_embed_grid{step}", 1e-5)
    assert_near((patches + positions)[::step, ::step], f"{run.name}.embed_grid{step}", 1e-5)


def test_attention_is_that_of_the_released_code(run):
    """Block 0 attends inside windows, where padded places are not masked; block 1 to the full image."""
    step = STEPS[run.name]
    windows = run.outputs["vit.blocks.0.attention"][:, [0, 6, 13]][:, :, [0, 6, 13]]
    full = run.outputs["vit.blocks.1.attention"][0]

    assert_near(windows, f"{run.name}.block0.attn_windows", 2e-4)
    assert_near(full[::step, ::step], f"{run.name}.block1.attn_grid{step}", 2e-4)


def test_blocks_and_features_are_those_of_the_released_code(run):
    step = STEPS[run.name]
    for index in range(4):
        block = run.outputs[f"vit.blocks.{index}"][0, ::step, ::step]
        assert_near(block, f"{run.name}.block{index}_grid{step}", 2e-4)

    features = run.outputs["vit"][0].permute(2, 0, 1)
    if run.name == "a":
        assert_near(features[:, ::2, ::2], "a.trunk_grid2", 2e-4)
    else:
        assert_near(features, "b.trunk", 2e-4)


@pytest.mark.parametrize("scores", [1, 15 * 3 * 9 * 20, 1 << 30], ids=["one row", "some rows", "all"])
def test_attention_in_chunks_is_attention_at_once(monkeypatch, scores):
    attention = small_grit().vit.blocks[1].attention
    x = torch.linspace(-2, 2, 9 * 20 * 48).sin().view(1, 9, 20, 48)
    at_once = reference_attention(attention, x)

    monkeypatch.setattr(vit, "SCORES_AT_ONCE", scores)
    with torch.inference_mode():
        torch.testing.assert_close(attention(x), at_once, rtol=0, atol=1e-5)


def test_chunks_bound_the_scores_in_memory(monkeypatch):
    """The largest softmax of a global block stays within the limit, whatever the image."""
    sizes = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(
        torch.Tensor, "softmax", lambda x, dim: sizes.append(x.numel()) or softmax(x, dim=dim)
    )
    monkeypatch.setattr(vit, "SCORES_AT_ONCE", 20_000)
    with torch.inference_mode():
        small_grit().vit.blocks[1].attention(torch.zeros(1, 9, 20, 48))

    assert max(sizes) <= 20_000 < sum(sizes) == 3 * (9 * 20) ** 2


def test_padded_places_are_attended_to():
    """Windows of a grid that they don't divide: what stands in the padding's place changes the result."""
    block = vit.Block(GritConfig(width=8, heads=2, mlp_width=8), window=14).eval()
    torch.nn.init.constant_(block.attention.qkv.bias, 1.0)
    x = torch.linspace(-1, 1, 14 * 10 * 8).view(1, 14, 10, 8)

    narrow = block._attend_in_windows(x, 14)
    zeros = block._attend_in_windows(torch.nn.functional.pad(x, (0, 0, 0, 4)), 14)[:, :, :10]
    torch.testing.assert_close(narrow, zeros)


@torch.inference_mode()
def reference_attention(attention: vit.Attention, x: torch.Tensor) -> torch.Tensor:
    """Attention with all scores in memory, one query after the other."""
    _, rows, columns, width = x.shape
    d = width // attention.heads
    q, k, v = attention.qkv(x)[0].view(rows, columns, 3, attention.heads, d).unbind(2)
    tables = [
        vit._relative_positions(table, side)
        for table, side in ((attention.relative_rows, rows), (attention.relative_columns, columns))
    ]

    attended = torch.empty(1, rows, columns, width)
    for i in range(rows):
        for j in range(columns):
            scores = torch.einsum("hd,klhd->hkl", q[i, j], k) / d**0.5
            scores = scores + (q[i, j] @ tables[0][i].T)[:, :, None] + (q[i, j] @ tables[1][j].T)[:, None]
            weights = scores.flatten(1).softmax(1).view_as(scores)
            attended[0, i, j] = torch.einsum("hkl,klhd->hd", weights, v).flatten()

    return attention.out(attended)
