"""Scores from prediction files, and the tables made of them."""

import csv
import json

import pytest

from monkeylib import tables
from monkeylib.evaluation import benchmarks, results
from monkeylib.evaluation.benchmarks import BENCHMARKS
from monkeylib.evaluation.examples import Prediction
from monkeylib.evaluation.results import ScoreRow
from tests.support import prediction_rows
from tests.support.prediction_rows import write_predictions


def _predictions(is_correct, images=20):
    """Two questions about each image, answered correctly where `is_correct(image)`."""
    return [
        Prediction(
            id=f"{image}-{number}",
            image=f"image {image}",
            question="what is it?",
            answers=["yes", "no"],
            prompt="vqa",
            prediction="yes" if is_correct(image) else "maybe",
            model="",
            meta={"family": "general" if image % 2 else "document"},
        )
        for image in range(images)
        for number in range(2)
    ]


# --- scores ---------------------------------------------------------------------------------------


def test_scores_intervals_and_groups_come_from_the_file(tmp_path):
    path = write_predictions(tmp_path / "half.jsonl", _predictions(lambda image: image % 2))
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


def test_two_runs_are_compared_example_by_example():
    better = _predictions(lambda image: image < 15)
    worse = _predictions(lambda image: image < 8)
    difference = results.compare(better, worse, "exact_match")

    assert difference.value == pytest.approx(7 / 20)
    assert difference.low > 0 and difference.n == 40
    assert results.compare(worse, better, "exact_match").high < 0


def test_runs_on_different_examples_are_not_compared():
    predictions = _predictions(lambda image: True)
    with pytest.raises(ValueError, match="1 ids are in one alone, such as"):
        results.compare(predictions, predictions[1:], "exact_match")


def test_empty_file_or_split_without_metrics_raises(tmp_path):
    path = write_predictions(tmp_path / "p.jsonl", [])
    with pytest.raises(ValueError, match="got no predictions"):
        prediction_rows.score(path, "exact_match")
    with pytest.raises(ValueError, match="No metrics are given for the split 'x'"):
        results.score_runs({("m", "x"): path}, {"test": ["anls"]})


# --- tables ---------------------------------------------------------------------------------------


def test_summary_has_a_line_per_benchmark_and_metric_and_a_column_per_model(monkeypatch):
    rows = [
        ScoreRow(model, split, group, metric, value, value - 0.1, value + 0.1, 50)
        for model, value in (("a", 0.5), ("b", 0.75))
        for split, metric in (("nano-fine", "exact_match"), ("nano-fine", "anls"), ("nano-large", "anls"))
        for group in ("all", "menu")
    ]
    # The same reported score for each benchmark, whichever metric it belongs to.
    monkeypatch.setattr(results, "reported_scores", lambda benchmark: {"Monkey (paper)": "66.6"})
    lines = results.summary_table(rows)

    assert [(line["benchmark"], line["metric"]) for line in lines] == [
        ("nano-fine", "exact_match"),
        ("nano-fine", "anls"),
        ("nano-large", "anls"),
    ]
    assert lines[0]["questions"] == 50
    assert (lines[0]["a"], lines[0]["b"]) == ("50.0 (40.0–60.0)", "75.0 (65.0–85.0)")
    assert [line["Monkey (paper)"] for line in lines] == ["66.6", None, None], "only beside its metric"
    assert list(lines[1]) == list(lines[0]), "every line has all columns"


@pytest.mark.parametrize(
    ("benchmark", "metric", "reported"),
    [
        ("deepform", "released_containment", "40.6 (chart)"),
        ("klc", "released_containment", "32.8 (chart)"),
        ("wtq", "released_containment", "25.3 (chart)"),
        ("ai2d", "released_containment", "57.9"),
        ("textvqa", "released_vqa_score", "67.6"),
        ("released-wtq", "released_containment", "25.3 (chart)"),
        ("scienceqa", "multiple_choice", "69.4"),  # not covered by the released code
        ("mme", "mme_perception", "1505.3 (text)"),
    ],
)
def test_reported_score_stands_beside_the_metric_that_it_was_measured_with(benchmark, metric, reported):
    metrics = BENCHMARKS[benchmark].metrics
    lines = results.summary_table(
        [ScoreRow("a", benchmark, "all", name, 0.5, 0.4, 0.6, 9) for name in metrics]
    )

    assert {line["metric"]: line.get("Monkey (paper)") for line in lines} == {
        name: reported if name == metric else None for name in metrics
    }


def test_reported_scores_name_their_origin_unless_it_is_a_table():
    textvqa = results.reported_scores(BENCHMARKS["textvqa"])
    assert textvqa == {"Monkey (paper)": "67.6", "Qwen-VL (paper)": "63.8"}
    assert results.reported_scores(BENCHMARKS["docvqa"])["Monkey (paper)"] == "66.5 (chart)"
    assert results.reported_scores(BENCHMARKS["nano-fine"]) == {}


def _row(split, value, model="first", group="all", metric=None):
    metric = metric or benchmarks.get(split).metrics[0]
    return {"model": model, "split": split, "group": group, "metric": metric, "n": 5} | {
        "value": value, "low": value - 0.01, "high": value + 0.01,
    }  # fmt: skip


def test_paper_table_has_measured_scores_beside_the_papers():
    rows = [
        _row("nano-fine", 0.25),
        _row("deepform", 0.5),
        _row("deepform", 0.9, metric="released_containment"),
    ]
    rows += [_row("deepform", 0.1, group="x"), _row("mme", 15.5, "other"), _row("released-klc", 0.3)]
    lines = {line["benchmark"]: line for line in results.paper_table(rows)}

    assert (
        list(lines)[:18]
        == [
            benchmark.title
            for benchmark in BENCHMARKS.values()
            if benchmark.reported and not benchmark.name.startswith("released-")
        ]
        and len(lines) == 20
    )

    # The score of DeepForm's main metric over all examples; the other rows of it are ignored.
    deepform = {"group": "documents", "benchmark": "DeepForm", "metric": "F1", "as released": "containment"}
    deepform |= {"Qwen-VL (paper)": "4.1 (derived)", "Monkey (paper)": "40.6 (chart)"}
    assert lines["DeepForm"] == deepform | {"first (measured)": "50.0 (49.0–51.0)", "other (measured)": None}
    assert lines["MME perception"]["other (measured)"] == "1550.0 (1549.0–1551.0)"
    assert lines["Nano, small text"]["Monkey (paper)"] is None
    assert lines["Nano, small text"]["first (measured)"] == "25.0 (24.0–26.0)"
    with pytest.raises(ValueError, match="benchmark 'gone' that isn't there"):
        results.paper_table([_row("gone", 0.5, metric="anls")])


def test_committed_table_is_computed_from_the_committed_scores():
    assert tables.read_table(results.PAPER_TABLE, "nano") == results.paper_table(
        tables.read_table("evaluation", "nano")
    )


# --- folders --------------------------------------------------------------------------------------


def test_model_name_of_a_folder_is_read_back(tmp_path):
    assert results.read_model_name(tmp_path) == tmp_path.name, "without a file, the folder's name"
    (tmp_path / "run.json").write_text(json.dumps({"notes": {"model": "someone/model"}}))
    assert results.read_model_name(tmp_path) == "someone/model"

    # As the first version wrote it.
    (tmp_path / "run.json").write_text(json.dumps({"model": "someone/model"}))
    assert results.read_model_name(tmp_path) == "someone/model"


def test_prediction_files_come_in_the_order_of_the_benchmarks(tmp_path):
    with pytest.raises(FileNotFoundError, match="no predictions in"):
        results.prediction_files(tmp_path)

    # Benchmarks come in their order, other names after them.
    for name in ("nano-large", "other", "nano-fine"):
        (tmp_path / f"{name}.jsonl").write_text("")
    assert list(results.prediction_files(tmp_path)) == ["nano-fine", "nano-large"]
    assert list(results.prediction_files(tmp_path, any_name=True)) == ["nano-fine", "nano-large", "other"]
