"""Scores from prediction files, and the tables made of them."""

import pytest

from monkeylib.evaluation import results
from monkeylib.evaluation.benchmarks import BENCHMARKS


def test_a_summary_has_a_line_per_benchmark_and_a_column_per_model(monkeypatch):
    rows = [
        results.ScoreRow(model, split, group, metric, value, value - 0.1, value + 0.1, 50)
        for model, value in (("a", 0.5), ("b", 0.75))
        for split, metric in (("nano-fine", "exact_match"), ("nano-fine", "anls"), ("nano-large", "anls"))
        for group in ("all", "menu")
    ]
    monkeypatch.setattr(results, "published", lambda entry: {"Monkey (paper)": "66.6"})
    lines = results.summary(rows)
    assert [(line["benchmark"], line["metric"]) for line in lines] == [
        ("nano-fine", "exact_match"),
        ("nano-fine", "anls"),
        ("nano-large", "anls"),
    ]
    assert lines[0] | {"questions": 50, "a": "50.0 (40.0–60.0)", "b": "75.0 (65.0–85.0)"} == lines[0]
    assert [line["Monkey (paper)"] for line in lines] == ["66.6", None, None], "of the first metric alone"
    assert list(lines[1]) == list(lines[0])


@pytest.mark.parametrize(
    ("benchmark", "metric", "figure"),
    [
        ("deepform", "release_containment", "40.6 (chart)"),
        ("klc", "release_containment", "32.8 (chart)"),
        ("wtq", "release_containment", "25.3 (chart)"),
        ("ai2d", "release_containment", "57.9"),
        ("textvqa", "release_vqa_score", "67.6"),
        ("released-wtq", "release_containment", "25.3 (chart)"),
        ("scienceqa", "multiple_choice", "69.4"),  # which the release has no code for
        ("mme", "mme_perception", "1505.3 (text)"),
    ],
)
def test_the_papers_figure_stands_beside_the_metric_it_was_measured_with(benchmark, metric, figure):
    metrics = BENCHMARKS[benchmark].metrics
    lines = results.summary(
        [results.ScoreRow("a", benchmark, "all", name, 0.5, 0.4, 0.6, 9) for name in metrics]
    )
    assert {line["metric"]: line.get("Monkey (paper)") for line in lines} == {
        name: figure if name == metric else None for name in metrics
    }


def test_the_papers_figures_come_with_their_source_where_it_is_no_table():
    assert results.published(BENCHMARKS["textvqa"]) == {"Monkey (paper)": "67.6", "Qwen-VL (paper)": "63.8"}
    assert results.published(BENCHMARKS["docvqa"])["Monkey (paper)"] == "66.5 (chart)"
    assert results.published(BENCHMARKS["nano-fine"]) == {}


def test_a_folder_says_whose_it_is(tmp_path):
    assert results.model_of(tmp_path) == tmp_path.name
    results.note(tmp_path, "someone/model")
    assert results.model_of(tmp_path) == "someone/model"
    with pytest.raises(FileNotFoundError, match="no predictions in"):
        results.predictions(tmp_path)
    for name in ("nano-large", "other", "nano-fine"):
        (tmp_path / f"{name}.jsonl").write_text("")
    assert list(results.predictions(tmp_path)) == [n for n in BENCHMARKS if n in ("nano-fine", "nano-large")]
    assert list(results.predictions(tmp_path, any_name=True))[-1] == "other"
