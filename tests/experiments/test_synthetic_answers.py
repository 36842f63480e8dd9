"""What is known of answers without images: counted anew, and as the data card says it."""

import pytest

from monkeylib import resources, tables
from monkeylib.data.synthetic import make_test_set
from monkeylib.experiments import synthetic_answers
from monkeylib.experiments.synthetic_answers import BlindBaseline, Pair
from monkeylib.profiles import load_profile
from monkeylib.reproduce.tables import render_page
from monkeylib.training.synthetic_records import SyntheticRecords


def pairs(*texts):
    """Pairs from texts such as "colour: ball red"."""
    return [Pair(text.split()[1], text.split()[2], text.split(":")[0]) for text in texts]


TRAINING = pairs(
    "colour: ball red", "colour: ball red", "colour: ball blue", "colour: star blue", "colour: kite blue"
)


def test_baseline_answers_with_what_is_most_frequent_in_training():
    baseline = BlindBaseline(TRAINING)
    assert baseline.answer(Pair("ball", "", "colour")) == "red"
    assert baseline.answer(Pair("star", "", "colour")) == "blue"

    # A question that training does not have has the answer of its kind, a kind that it lacks none.
    assert baseline.answer(Pair("moon", "", "colour")) == "blue"
    assert baseline.answer(Pair("moon", "", "where")) == ""


def test_equally_frequent_answers_are_taken_by_the_alphabet():
    for order in (["count: ball two", "count: ball one"], ["count: ball one", "count: ball two"]):
        assert BlindBaseline(pairs(*order)).answer(Pair("ball", "", "count")) == "one"


def test_table_counts_pairs_and_right_answers():
    test = pairs("colour: ball red", "colour: ball red", "colour: star red", "where: ball left")
    rows = synthetic_answers.count_answers(TRAINING, {"general": test})

    assert [row["kind"] for row in rows] == ["all", "colour", "where"]
    assert rows[0] == {
        "test_set": "general",
        "kind": "all",
        "questions": 4,
        "distinct_pairs": 3,
        "in_training": 0.5,
        "training_pairs": 4,
        "blind": 0.5,
    }
    assert rows[1]["in_training"] == rows[1]["blind"] == pytest.approx(2 / 3, abs=1e-4)
    assert rows[2]["in_training"] == rows[2]["blind"] == rows[2]["training_pairs"] == 0


def test_training_pairs_are_those_of_the_records_of_a_run():
    records = SyntheticRecords(load_profile("nano"), "train")
    known = {(pair.question, pair.answer) for pair in synthetic_answers.training_pairs(records, 4)}

    # Every question that the run reads is among them.
    read = set()
    for index in range(4):
        for prompt, answer in records[synthetic_answers.FIRST_UNSEEN_IMAGE + index].turns:
            question = next((question for question, _ in known if question in prompt), None)
            if question is not None:
                read.add((question, answer))
    assert read and read <= known


# --- the committed table ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed_rows():
    rows = tables.read_table(synthetic_answers.TABLE, resources.COMMITTED_PROFILE)
    return {(row["test_set"], row["kind"]): row for row in rows}


@pytest.mark.parametrize("test_set", synthetic_answers.TEST_SETS)
def test_committed_table_counts_the_test_sets_of_today(committed_rows, test_set):
    questions = make_test_set(test_set, synthetic_answers.QUESTIONS)
    counted = [Pair.of(question.annotation) for question in questions]
    for (name, kind), row in committed_rows.items():
        if name == test_set:
            selected = [pair for pair in counted if kind in ("all", pair.kind)]
            assert row["questions"] == len(selected)
            assert row["distinct_pairs"] == len(set(selected))


def test_text_is_not_remembered_from_training_and_general_answers_may_be(committed_rows):
    """By the rule of the splits, no answer that is read in a test image is read in training."""
    for (_, kind), row in committed_rows.items():
        if kind in ("read", "title", "value", "cell"):
            assert row["in_training"] == 0
    assert committed_rows["general", "all"]["in_training"] > 0.9


def test_data_card_has_the_numbers_of_the_table():
    card = (resources.REPOSITORY / "data" / "README.md").read_text(encoding="utf-8")
    assert f"table:{synthetic_answers.TABLE}" in card
    assert render_page(card, resources.COMMITTED_PROFILE) == card, (
        "the data card has other numbers than its table: run `monkeylib reproduce --publish`"
    )
