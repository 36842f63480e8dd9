"""Figures of where a model looks while it answers."""

import pytest
import torch

from monkeylib.experiments.answer_attention import AnswerMaps
from monkeylib.experiments.attention import AttentionMaps
from monkeylib.plots import answers
from monkeylib.tiling import Grid


@pytest.fixture()
def maps():
    weights = torch.full((3, 5, 2, 2), 0.02)
    weights[0, 0, 0, 0] = 0.5  # the first token looks at the upper left corner
    resampler = AttentionMaps(torch.rand(5, 3, 8, 8), torch.full((5, 1, 2, 2), 0.25), Grid(2, 2))
    return AnswerMaps(("a", " ", "<|endoftext|>"), weights, resampler)


def test_tokens_share_one_scale_and_are_named(maps):
    fig = answers.draw_answer_attention(maps, box=(0, 0, 4, 4))
    panels = [ax for ax in fig.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["the image", "“a”", "(space)", "(end)"]

    limits = {ax.images[-1].get_clim() for ax in panels[1:]}
    highest = max(float((maps.over_image(token) / maps.over_image(token).mean()).max()) for token in range(3))
    assert len(limits) == 1 and limits.pop() == pytest.approx((0, highest))
    assert all(len(ax.patches) == 1 for ax in panels), "the box of the answer"
    assert fig.axes[-1].get_ylabel() == "attention, times even attention"


def test_attention_by_view_sums_to_1_with_the_text(maps):
    ax = answers.draw_attention_by_view(maps).axes[0]
    shares = ax.collections[0].get_array().reshape(3, 6)
    assert shares.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert shares[0, 0] == pytest.approx(0.56) and shares[0, 4] == pytest.approx(0.08)
    assert [label.get_text() for label in ax.get_xticklabels()][-2:] == ["global view", "text"]


def test_each_kind_of_map_has_a_scale_with_its_unit():
    kinds = {"attention": torch.tensor([[0.0, 4.0]]), "occlusion": torch.tensor([[-1.0, 2.0]])}
    fig = answers.draw_attention_and_occlusion(torch.rand(3, 8, 16), kinds, ["times", "nats"], (1, 1, 3, 3))
    assert [ax.get_ylabel() for ax in fig.axes if ax.get_ylabel()] == ["times", "nats"]
    drawn = fig.axes[2].images[-1]
    assert drawn.get_clim() == (0, 2) and drawn.get_array().tolist() == [[0, 2]], "what helps counts as 0"


def test_pointing_is_drawn_with_its_intervals():
    rows = [
        {"by": "chance", "points": 0.1, "low": 0.05, "high": 0.2, "n": 9},
        {"by": "attention", "points": 0.9, "low": 0.7, "high": 1.0, "n": 9},
    ]
    ax = answers.draw_pointing(rows).axes[0]
    assert ax.collections[-1].get_offsets().tolist() == [[10, 0], [90, 1]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["chance", "attention"]
