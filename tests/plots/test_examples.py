import matplotlib.pyplot as plt
import pytest
from PIL import Image

from monkeylib.evaluation.examples import Prediction
from monkeylib.experiments.qualitative import QualitativeExample
from monkeylib.plots.examples import draw_border_failures, draw_resolutions, draw_two_answers
from monkeylib.tiling import Grid

EXAMPLE = QualitativeExample(
    Prediction(
        id="fine-3-0",
        image="nano-test-3",
        question="what is the title?",
        answers=["rain feb"],
        prompt="vqa",
        prediction="rain feb",
        model="",
        meta={"answer_box": [10.0, 20.0, 110.0, 50.0]},
    ),
    {"base": "rain fob", "monkey": "rain feb"},
)


def boxes(ax):
    return [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in ax.patches]


def texts(ax):
    return " ".join(text.get_text() for text in ax.texts).replace("\n", " ")


def test_answers_are_boxed_at_every_resolution():
    sides = {"base": 96, "monkey": 192}
    fig = draw_resolutions({"only monkey": EXAMPLE}, sides, {"base": "base at 96 px", "monkey": "Monkey"})
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


def test_two_answers_stand_below_what_each_model_sees():
    answers = {"base": (Grid(1, 1), "50.88", False), "Monkey": (Grid(2, 2), "49.35", True)}
    fig = draw_two_answers(Image.new("RGB", (192, 192)), (10, 20, 30, 40), "what is the total?", answers, 96)
    base, monkey = fig.axes

    assert fig.get_suptitle() == "\u201cwhat is the total?\u201d"
    assert base.images[0].get_array().shape == (96, 96, 3)
    assert monkey.images[0].get_array().shape == (192, 192, 3)
    assert texts(base) == "✗ 50.88" and texts(monkey) == "✓ 49.35"
    # The box of the answer, and four tiles.
    assert len(boxes(base)) == 1 and len(boxes(monkey)) == 5
    plt.close(fig)


def test_failures_at_borders_show_the_borders_and_the_text_that_they_cut():
    fig = draw_border_failures({"between letters": [EXAMPLE, EXAMPLE]}, "base", Grid(2, 2))
    above, _, below, _ = fig.axes

    assert above.get_title("center").startswith("cut between letters")
    assert len(boxes(above)) == 1
    for ax in (above, below):
        down, across = (line.get_xydata() for line in ax.lines)
        assert set(down[:, 0]) == {95.5} and set(across[:, 1]) == {95.5}
    # The box of the answer, 10 to 110 across and 20 to 50 down, lies in what is enlarged.
    left, right = below.get_xlim()
    bottom, top = below.get_ylim()
    assert left <= 10 and right >= 110 and top <= 20 and bottom >= 50
    assert right - left == pytest.approx(2 * (bottom - top))
    assert texts(below) == "true: rain feb ✗ rain fob"
    plt.close(fig)
