import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from monkeylib.evaluation.examples import Prediction
from monkeylib.experiments.attention import Looks
from monkeylib.experiments.qualitative import Case
from monkeylib.plots.images import Card, card_of, draw_attention, draw_cards, draw_resolutions
from monkeylib.tiling import Grid

CASE = Case(
    Prediction(
        id="fine-3-0",
        image="nano-test-3",
        question="what is the title?",
        answers=["rain feb"],
        prompt="vqa",
        prediction="rain feb",
        model="",
        meta={"evidence": [10.0, 20.0, 110.0, 50.0]},
    ),
    {"base": "rain fob", "monkey": "rain feb"},
)


def boxes(ax):
    return [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in ax.patches]


def texts(ax):
    return " ".join(text.get_text() for text in ax.texts).replace("\n", " ")


def test_a_card_says_question_label_and_who_was_right():
    card = card_of(CASE, "nano-fine")
    lines = ("what is the title?", "label: rain feb", "✗ base: rain fob", "✓ monkey: rain feb")
    assert card.lines == lines and card.box == (10, 20, 110, 50) and card.image.size == (192, 192)


def test_cards_fill_rows():
    image = Image.new("RGB", (100, 100))
    cards = [
        Card(image, f"title {n}", (f"a question of some length number {n}?", "label: x")) for n in range(5)
    ]
    fig = draw_cards(cards, columns=3)
    assert len(fig.axes) == 6
    assert "number 4?" in texts(fig.axes[4]) and not fig.axes[5].images
    assert not fig.axes[0].patches, "no evidence, no box"
    plt.close(fig)
    plt.close(draw_cards([]))


def test_the_evidence_is_boxed_in_the_pixels_that_are_shown():
    sides = {"base": 96, "monkey": 192}
    fig = draw_resolutions({"only monkey": CASE}, sides, {"base": "base at 96 px", "monkey": "Monkey"})
    small, large = fig.axes
    assert small.images[0].get_array().shape == (96, 96, 3)
    assert large.images[0].get_array().shape == (192, 192, 3)
    room = 0.012
    assert boxes(small)[0] == pytest.approx(
        (4.5 - room * 96, 9.5 - room * 96, 50 + 2 * room * 96, 15 + 2 * room * 96)
    )
    assert boxes(large)[0] == pytest.approx(
        (9.5 - room * 192, 19.5 - room * 192, 100 + 2 * room * 192, 30 + 2 * room * 192)
    )
    assert texts(small) == "base at 96 px: ✗ rain fob" and texts(large) == "Monkey: ✓ rain feb"
    plt.close(fig)


def test_attention_is_drawn_for_all_queries_and_for_single_ones():
    weights = torch.rand(5, 4, 2, 2)
    looks = Looks(torch.rand(5, 3, 8, 8), weights, Grid(2, 2))
    fig = draw_attention(looks, [1, 3])
    axes = np.reshape(fig.axes, (2, 4))
    titles = [ax.get_title() or ax.get_title(loc="left") for ax in axes[0]]
    assert titles == ["tiles", "all queries", "query 1", "query 3"]
    shown = axes[0, 2].images[1].get_array()
    assert np.allclose(shown, looks.tiles(1) / looks.tiles(1).max())
    assert axes[1, 3].images[1].get_array().shape == (2, 2) and axes[0, 0].images[0].get_array().shape == (
        16,
        16,
        3,
    )
    plt.close(fig)
