"""Tables of scores for readers."""

from dataclasses import replace

import pytest

from monkeylib import tables
from monkeylib.evaluation import benchmarks, score_tables
from monkeylib.evaluation.benchmarks import BENCHMARKS
from monkeylib.evaluation.results import ScoreRow


def test_summary_has_a_line_per_benchmark_and_metric_and_a_column_per_model(monkeypatch):
    rows = [
        ScoreRow(model, split, group, metric, value, value - 0.1, value + 0.1, 50)
        for model, value in (("a", 0.5), ("b", 0.75))
        for split, metric in (("nano-fine", "exact_match"), ("nano-fine", "anls"), ("nano-large", "anls"))
        for group in ("all",)
    ]
    # The same reported score for each benchmark, whichever metric it belongs to.
    monkeypatch.setattr(score_tables, "reported_scores", lambda benchmark: {"Monkey (paper)": "66.6"})
    lines = score_tables.summary_table(rows)

    assert [(line["benchmark"], line["metric"]) for line in lines] == [
        ("nano-fine", "exact_match"),
        ("nano-fine", "anls"),
        ("nano-large", "anls"),
    ]
    assert lines[0]["questions"] == 50
    assert (lines[0]["a"], lines[0]["b"]) == ("50.0 (40.0–60.0)", "75.0 (65.0–85.0)")
    assert [line["Monkey (paper)"] for line in lines] == ["66.6", None, None], "only beside its metric"
    assert list(lines[1]) == list(lines[0]), "every line has all columns"


def test_groups_are_lines_of_their_own_without_the_papers_scores():
    rows = [
        ScoreRow("a", "textvqa", group, "released_vqa_score", 0.5, 0.4, 0.6, 50)
        for group in ("all", "menu", "sign")
    ]
    lines = score_tables.summary_table(rows)
    assert [line["group"] for line in lines] == ["all", "menu", "sign"]
    assert list(lines[0])[:4] == ["benchmark", "group", "metric", "questions"]
    assert [line["Monkey (paper)"] for line in lines] == ["67.6", None, None]
    assert "group" not in score_tables.summary_table(rows[:1])[0]


def test_summary_counts_answers_only_where_there_is_something_to_count():
    full = ScoreRow("a", "nano-fine", "all", "anls", 0.5, 0.4, 0.6, 50)
    assert "empty" not in score_tables.summary_table([full])[0]

    fewer = replace(full, model="b", n=20, empty=11)
    (line,) = score_tables.summary_table([full, fewer])
    assert (line["questions"], line["empty"]) == ("50 / 20", "0 / 11")
    assert "failed" not in line and "cut" not in line


def test_model_with_mostly_empty_or_cut_answers_gets_a_sentence():
    row = ScoreRow("a", "nano-fine", "all", "anls", 0.0, 0.0, 0.0, 50)
    rows = [replace(row, metric=metric, empty=26, cut=25) for metric in ("anls", "exact_match")]
    rows += [replace(row, model="b", cut=50, failed=30), replace(row, group="menu", empty=50)]

    first, *second = score_tables.answer_warnings(rows)
    assert first.startswith("a, nano-fine: 26 of 50 questions have an empty answer")
    assert len(second) == 2
    assert second[0].startswith("b, nano-fine: 30 of 50 questions could not be answered and count as wrong")
    assert second[1].startswith("b, nano-fine: 50 of 50 questions have an answer that reached the maximum")


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
    lines = score_tables.summary_table(
        [ScoreRow("a", benchmark, "all", name, 0.5, 0.4, 0.6, 9) for name in metrics]
    )

    assert {line["metric"]: line.get("Monkey (paper)") for line in lines} == {
        name: reported if name == metric else None for name in metrics
    }


def test_reported_scores_name_their_origin_unless_it_is_a_table():
    textvqa = score_tables.reported_scores(BENCHMARKS["textvqa"])
    assert textvqa == {"Monkey (paper)": "67.6", "Qwen-VL (paper)": "63.8"}
    assert score_tables.reported_scores(BENCHMARKS["docvqa"])["Monkey (paper)"] == "66.5 (chart)"
    assert score_tables.reported_scores(BENCHMARKS["nano-fine"]) == {}


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
    lines = {line["benchmark"]: line for line in score_tables.paper_table(rows)}

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
        score_tables.paper_table([_row("gone", 0.5, metric="anls")])


def test_committed_table_is_computed_from_the_committed_scores():
    assert tables.read_table(score_tables.PAPER_TABLE, "nano") == score_tables.paper_table(
        tables.read_table("evaluation", "nano")
    )


def test_table_of_the_papers_models_has_every_benchmark_and_ends_with_monkey():
    rows = {row["benchmark"]: row for row in score_tables.paper_models_table()}
    assert len(rows) == sum(
        bool(benchmark.reported) and not name.startswith("released-")
        for name, benchmark in BENCHMARKS.items()
    )
    assert rows["GQA"]["LLaVA-1.5"] == 62.0 and rows["GQA"]["Monkey"] == 60.7
    assert rows["TextVQA"]["Flamingo-80B"] is None
    assert list(rows["GQA"])[-2:] == ["Qwen-VL", "Monkey"]

    # Beside our own scores only Monkey and its base stand.
    assert set(score_tables.reported_scores(BENCHMARKS["gqa"])) == {"Monkey (paper)", "Qwen-VL (paper)"}
