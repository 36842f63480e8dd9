"""Scores from prediction files, and the tables made of them."""

import csv
from dataclasses import replace

import pytest

from monkeylib.evaluation import results, score_tables
from monkeylib.evaluation.foreign_predictions import NO_PREDICTION
from monkeylib.evaluation.metrics import mme
from tests.support import prediction_rows
from tests.support.prediction_rows import predictions_of_images, write_predictions

# --- scores ---------------------------------------------------------------------------------------


def test_scores_intervals_and_groups_come_from_the_file(tmp_path):
    path = write_predictions(tmp_path / "half.jsonl", predictions_of_images(lambda image: image % 2))
    # Half of the images are answered correctly, both of their questions.
    score = prediction_rows.score(path, "exact_match")

    assert (score.metric, score.value, score.n) == ("exact_match", 0.5, 40)
    assert score.low < 0.4 and score.high > 0.6, "twenty images, not forty independent questions"

    # All questions about images of odd numbers, the family "general", are answered correctly.
    rows = results.score_runs({("model", "test"): path}, {"test": ["exact_match", "anls"]}, by="family")
    values = {(row.group, row.metric): row.value for row in rows}
    assert values["all", "exact_match"] == 0.5
    assert values["general", "exact_match"] == 1 and values["document", "anls"] == 0

    table = results.write_table(rows, tmp_path / "results" / "table.csv")
    lines = list(csv.DictReader(table.open()))
    assert list(lines[0]) == ["model", "split", "group", "metric", "value", "low", "high", "n"]
    assert (lines[0]["model"], lines[0]["split"], float(lines[0]["value"])) == ("model", "test", 0.5)
    assert len(lines) == 6


def test_group_needs_a_field_with_few_values():
    rows = [
        replace(row, meta=row.meta | {"box": [1, 2], "key": row.id}) for row in predictions_of_images(bool)
    ]
    rows[0].meta["family"] = "<other>"
    runs = {("m", "x"): rows}
    by_field = {"box": "by 'box': expected texts or numbers, got .1, 2.", "gone": "choose one of family, key"}
    for field, sentence in by_field.items():
        with pytest.raises(ValueError, match=sentence):
            results.score_runs(runs, {"x": ["exact_match"]}, by=field)

    many = {("m", "x"): [replace(row, meta={"key": str(n)}) for n, row in enumerate(rows * 6)]}
    with pytest.raises(ValueError, match="by 'key': it has 240 values, expected at most 200"):
        results.score_runs(many, {"x": ["exact_match"]}, by="key")

    # A split without the field is scored as a whole.
    both = runs | {("m", "y"): [replace(row, meta={}) for row in rows]}
    groups = results.score_runs(both, {"x": ["anls"], "y": ["anls"]}, by="family")
    assert [row.group for row in groups if row.split == "y"] == ["all"]


def test_two_runs_are_compared_example_by_example():
    better = predictions_of_images(lambda image: image < 15)
    worse = predictions_of_images(lambda image: image < 8)
    difference = results.compare(better, worse, "exact_match")

    assert difference.value == pytest.approx(7 / 20)
    assert difference.low > 0 and difference.n == 40
    assert results.compare(worse, better, "exact_match").high < 0


def _equal_answers(prediction, images):
    """Return two predictions about each image, of one of ten tasks; only "yes" is right."""
    return [
        replace(
            row, answers=["yes"], prediction=prediction, meta={"task": mme.MME_PERCEPTION[number // 2 % 10]}
        )
        for number, row in enumerate(predictions_of_images(bool, images))
    ]


@pytest.mark.parametrize("metric", ["exact_match", "anls", "character_error", "cider_d", "mme_perception"])
@pytest.mark.parametrize("prediction", ["yes", "maybe"])
def test_answers_that_all_have_one_score_leave_an_interval(metric, prediction):
    """Twenty images that are all right, or all wrong, do not say that all others are."""
    rows = _equal_answers(prediction, images=20)
    score = prediction_rows.score(rows, metric)

    assert score.high - score.low > 0.1
    assert score.low <= score.value <= score.high

    # Nor do two runs that answer alike.
    difference = results.compare(rows, rows, metric)
    assert difference.value == 0 and difference.low < -0.05 and difference.high > 0.05


def test_interval_of_a_task_of_mme_is_on_the_scale_of_one_task():
    runs = {("m", "mme"): _equal_answers("yes", images=200)}
    groups = results.score_runs(runs, {"mme": ["mme_perception"]}, by="task")

    # Accuracy and accuracy+ of each task.
    assert {row.value for row in groups} == {2, 20}
    for row in groups:
        assert 0.7 * row.value < row.low < row.value == row.high


def test_runs_on_different_examples_are_not_compared():
    predictions = predictions_of_images(lambda image: True)
    with pytest.raises(ValueError, match="1 ids are in one alone, such as"):
        results.compare(predictions, predictions[1:], "exact_match")


def test_empty_file_or_split_without_metrics_raises(tmp_path):
    path = write_predictions(tmp_path / "p.jsonl", [])
    with pytest.raises(ValueError, match="p.jsonl is empty"):
        prediction_rows.score(path, "exact_match")
    with pytest.raises(ValueError, match="got no predictions"):
        prediction_rows.score([], "exact_match")
    with pytest.raises(ValueError, match="No metrics are given for the split 'x'"):
        results.score_runs({("m", "x"): path}, {"test": ["anls"]})


def test_questions_without_an_accepted_answer_are_named():
    rows = predictions_of_images(lambda image: True, images=2)
    rows[1] = replace(rows[1], answers=[])
    with pytest.raises(ValueError, match="1 of the 4 questions of x have no accepted answer, such as '0-1'"):
        results.score_runs({("m", "x"): rows}, {"x": ["anls"]})


def test_failures_count_as_wrong_and_are_counted_beside_empty_and_cut_answers(tmp_path):
    rows = predictions_of_images(lambda image: True, images=5)
    rows[0] = replace(rows[0], prediction="", error="image: truncated")
    rows[1] = replace(rows[1], prediction=" \n")
    rows[2] = replace(rows[2], is_cut=True)
    path = write_predictions(tmp_path / "p.jsonl", rows)

    (row,) = results.score_runs({("m", "x"): path}, {"x": ["exact_match"]})
    assert (row.value, row.n) == (0.8, 10)
    assert (row.failed, row.empty, row.cut) == (1, 1, 1)

    # Tables of results have the scores alone, scores.csv has the counts too.
    columns = "model,split,group,metric,value,low,high,n"
    assert results.write_table([row], tmp_path / "a.csv").read_text().splitlines()[0] == columns
    table = results.write_table([row], tmp_path / "b.csv", answer_counts=True)
    assert table.read_text().splitlines()[0] == f"{columns},failed,missing,empty,cut"
    assert table.read_text().splitlines()[1].endswith(",10,1,0,1,1")


def test_missing_predictions_are_no_failures():
    rows = predictions_of_images(lambda image: True, images=2)
    rows[1:] = [replace(row, prediction="", error=NO_PREDICTION) for row in rows[1:]]

    table = results.score_runs({("m", "x"): rows}, {"x": ["exact_match"]})
    assert (table[0].value, table[0].failed, table[0].missing, table[0].empty) == (0.25, 0, 3, 0)
    (line,) = score_tables.summary_table(table)
    assert line["missing"] == 3 and "failed" not in line
    assert score_tables.answer_warnings(table) == []


def test_last_line_without_its_end_is_read_and_an_incomplete_one_is_an_error(tmp_path):
    path = write_predictions(tmp_path / "p.jsonl", predictions_of_images(lambda image: image == 0, images=2))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(results.scores_by_id(path, "exact_match")) == 4

    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="Line 4 of .*interrupted.*`monkeylib evaluate` again"):
        results.scores_by_id(path, "exact_match")
