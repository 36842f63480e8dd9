"""The shipped nano Monkey: its card and its answers are its own."""

import shutil

import pytest

from monkeylib import profiles, resources, tables
from monkeylib.experiments import base_vs_monkey
from monkeylib.inference import load_model
from monkeylib.training.validation import validate
from recipes.nano_monkey import ship
from tests.support.smoke_experiments import smallest_profile

FOLDER = resources.shipped_monkey()


@pytest.fixture(scope="module")
def monkey():
    return load_model(FOLDER)


def test_card_follows_from_the_results(tmp_path):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    card = ship.write_card(profiles.load_profile(resources.SHIPPED_MONKEY), tmp_path)
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
    assert validation[-1]["step"] == profiles.load_profile(resources.SHIPPED_MONKEY).training.steps
    assert validation[-1]["loss"] < validation[0]["loss"]


def test_curve_ends_with_what_the_weights_score(monkey, complete_training_runs):
    """Under the profile of notebook 05, which draws the curve beside its own."""
    last = [row for row in tables.read_csv(FOLDER / ship.CURVE) if row["part"] == "val"][-1]
    scores = validate(profiles.load_profile("nano"), monkey.model, monkey.processor)
    assert scores["loss"] == pytest.approx(last["loss"], abs=0.001)
    assert scores["exact"] == pytest.approx(last["exact"], abs=0.005)


def test_scores_are_those_of_the_evaluation(tmp_path, monkeypatch):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    profile = smallest_profile()
    evaluated = tables.read_csv(base_vs_monkey.evaluate(profile))
    checkpoint = base_vs_monkey.train_models(profile)["monkey"]

    rows = ship.main_scores(profile, checkpoint, tmp_path / "answers")
    assert {row["metric"] for row in rows} == {"exact_match", "cider_d"}
    expected = {
        (row["split"], row["group"], row["metric"]): row["value"]
        for row in evaluated
        if row["model"] == "monkey"
    }
    for row in rows:
        assert row["value"] == pytest.approx(expected[row["split"], row["group"], row["metric"]])


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
