import numpy as np
import pytest

from monkeylib import tables
from monkeylib.boxes import clip
from monkeylib.data import synthetic
from monkeylib.experiments import other_signs

SIZE = (192, 192)


@pytest.fixture(scope="module")
def questions():
    """Questions about a large sign beside others."""
    selected = [q for q in synthetic.make_test_set("large", 60) if len(q.sample.signs) > 1]
    assert len(selected) >= 8
    return selected


def test_only_the_other_signs_lose_what_one_view_does_not_show(questions):
    for question in questions:
        shown = other_signs.shrink_other_signs(question, 96)
        before, after = (np.asarray(q.sample.image, dtype=int) for q in (question, shown))
        changed = (before != after).any(axis=2)

        rows, columns = np.nonzero(changed)
        others = [
            sign for sign in question.sample.signs if clip(sign.box, SIZE) != question.annotation.answer_box
        ]
        assert len(others) == len(question.sample.signs) - 1
        for sign in question.sample.signs:
            left, top, right, bottom = (round(edge) for edge in sign.box)
            assert changed[top:bottom, left:right].any() == (sign in others)

        # Nothing but the plates of the others, with their outlines.
        for x, y in zip(columns, rows, strict=True):
            assert any(
                sign.box[0] - 2 <= x <= sign.box[2] + 2 and sign.box[1] - 2 <= y <= sign.box[3] + 2
                for sign in others
            )


def test_the_base_sees_nearly_the_same_image_both_times(questions):
    """Of 255 levels, shrunk to the view that the base has."""
    for question in questions:
        shown = other_signs.shrink_other_signs(question, 96)
        before, after = (np.asarray(q.sample.image.resize((96, 96)), dtype=float) for q in (question, shown))
        assert abs(before - after).mean() < 3


def test_what_is_asked_stays(questions):
    shown = other_signs.shrink_other_signs(questions[0], 96)
    assert (shown.question, shown.answers) == (questions[0].question, questions[0].answers)
    assert shown.sample.signs == questions[0].sample.signs


def test_a_caption_is_refused():
    (caption,) = synthetic.make_test_set("caption", 1)
    with pytest.raises(ValueError, match="caption-0 asks for a caption"):
        other_signs.shrink_other_signs(caption, 96)


def test_too_few_questions_are_refused():
    with pytest.raises(ValueError, match="none of 2 questions about test images asks for a large sign"):
        other_signs.compare([], SIZE, 96, 2)


def test_the_table_compares_base_and_monkey_both_times(tmp_path, monkeypatch):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(other_signs, "COUNT", 60)
    other_signs.main([])
    rows = tables.read_table(other_signs.TABLE, "nano")

    for images in ("test", "fresh"):
        of_images = [row for row in rows if row["images"] == images]
        for others in ("drawn", "shrunk"):
            whole, *parts = [row for row in of_images if row["others"] == others]
            assert [str(row["signs"]) for row in (whole, *parts)] == ["all", "2", "3"]
            assert whole["n"] == sum(row["n"] for row in parts) > 8
            assert whole["monkey"] - whole["base"] == pytest.approx(whole["difference"], abs=1e-5)
