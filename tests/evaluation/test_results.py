"""Scores from prediction files, and the tables made of them."""

import pytest

from monkeylib.evaluation import results
from monkeylib.evaluation.benchmarks import BENCHMARKS
from monkeylib.evaluation.results import ScoreRow


def test_summary_has_a_line_per_benchmark_and_metric_and_a_column_per_model(monkeypatch):
    rows = [
        ScoreRow(model, split, group, metric, value, value - 0.1, value + 0.1, 50)
        for model, value in (("a", 0.5), ("b", 0.75))
        for split, metric in (("nano-fine", "exact_match"), ("nano-fine", "anls"), ("nano-large", "anls"))
        for group in ("all", "menu")
    ]
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
        ("deepform", "release_containment", "40.6 (chart)"),
        ("klc", "release_containment", "32.8 (chart)"),
        ("wtq", "release_containment", "25.3 (chart)"),
        ("ai2d", "release_containment", "57.9"),
        ("textvqa", "release_vqa_score", "67.6"),
        ("released-wtq", "release_containment", "25.3 (chart)"),
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


def test_model_name_of_a_folder_is_read_back(tmp_path):
    assert results.read_model_name(tmp_path) == tmp_path.name, "without a file, the folder's name"
    results.write_model_name(tmp_path, "someone/model")
    assert results.read_model_name(tmp_path) == "someone/model"


def test_prediction_files_come_in_the_order_of_the_benchmarks(tmp_path):
    with pytest.raises(FileNotFoundError, match="no predictions in"):
        results.prediction_files(tmp_path)

    for name in ("nano-large", "other", "nano-fine"):
        (tmp_path / f"{name}.jsonl").write_text("")
    assert list(results.prediction_files(tmp_path)) == ["nano-fine", "nano-large"]
    assert list(results.prediction_files(tmp_path, any_name=True)) == ["nano-fine", "nano-large", "other"]
