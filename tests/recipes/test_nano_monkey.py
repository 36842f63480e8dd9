"""The shipped nano Monkey: its card and its answers are its own."""

import shutil

import pytest

from monkeylib import profiles, resources, tables
from monkeylib.inference import load_model
from recipes.nano_monkey import ship

FOLDER = resources.models() / ship.NAME


@pytest.fixture(scope="module")
def monkey():
    return load_model(FOLDER)


def test_card_follows_from_the_results(tmp_path):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    card = ship.write_card(profiles.load_profile(ship.NAME), tmp_path)
    assert card.read_text() == (FOLDER / "README.md").read_text()

    stated = tables.read_csv(FOLDER / ship.ANSWERS)
    right = sum(str(row["answer"]) == str(row["truth"]) for row in stated)
    assert f"of which {right} of {len(stated)} are answered rightly" in card.read_text() and right < len(
        stated
    )


def test_answers_of_the_card_are_those_of_the_weights(monkey):
    stated = tables.read_csv(FOLDER / ship.ANSWERS)
    rows = ship.answer_samples(monkey)
    assert [(row["image"], row["question"], row["truth"]) for row in rows] == [
        (row["image"], row["question"], str(row["truth"])) for row in stated
    ]
    # Another CPU may round another way, and with it turn an answer that was close.
    agreed = sum(str(row["answer"]) == str(old["answer"]) for row, old in zip(rows, stated, strict=True))
    assert agreed >= len(rows) - 1
    for row, old in zip(rows, stated, strict=True):
        assert row["log_likelihood"] == pytest.approx(old["log_likelihood"], abs=0.05)


def test_curve_ends_with_the_last_step_of_the_profile():
    rows = tables.read_csv(FOLDER / ship.CURVE)
    validation = [row for row in rows if row["part"] == "val"]
    assert validation[-1]["step"] == profiles.load_profile(ship.NAME).training.steps
    assert validation[-1]["loss"] < validation[0]["loss"]


def test_model_is_small_enough_for_every_clone():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 14 * 2**20


@pytest.mark.parametrize(
    ("image", "question", "answer"),
    [
        ("receipt.png", "how much is the juice?", "1.75"),
        ("sign.png", "what does the red sign say?", "floor 92"),
    ],
)
def test_examples_of_the_readme_are_answered_rightly(monkey, image, question, answer):
    assert monkey.answer(resources.samples() / image, question) == answer
