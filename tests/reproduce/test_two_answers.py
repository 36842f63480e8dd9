"""The figure of the README: its table has what the shipped models answer."""

import pytest

from monkeylib import resources, tables
from monkeylib.reproduce import figures, two_answers


def test_table_shows_a_wrong_answer_of_one_view_and_a_right_one_of_tiles():
    base, monkey = tables.read_csv(resources.REPOSITORY / "data/results/nano/two_answers.csv")
    assert (base["rows"], monkey["rows"]) == (1, 2)
    assert (base["exact_match"], monkey["exact_match"]) == (0, 1)
    assert monkey["answer"] == monkey["ground_truth"] != base["answer"]


@pytest.mark.parametrize("row", [1])
def test_model_gives_the_answer_of_the_table(row):
    # The base guesses, and on another CPU may guess something else.
    committed = tables.read_csv(resources.REPOSITORY / "data/results/nano/two_answers.csv")
    predicted = two_answers.predict_answers()
    assert str(predicted[row]["answer"]) == str(committed[row]["answer"])
    assert predicted[0]["exact_match"] == 0


def test_figure_is_drawn_from_the_table(monkeypatch, tmp_path):
    rows = tables.read_csv(resources.REPOSITORY / "data/results/nano/two_answers.csv")
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    tables.write_table(rows, two_answers.NAME, "nano")
    two_answers.draw(rows)

    entry = figures.manifest("nano")["two_answers"]
    assert (entry["number"], entry["overlaps"]) == ("1", [])
    assert entry["data"] == ["data/results/nano/two_answers.csv"]
