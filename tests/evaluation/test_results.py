"""Scores from prediction files, and the tables made of them."""

import csv
import json
from dataclasses import replace

import pytest

from monkeylib import tables
from monkeylib.evaluation import benchmarks, results
from monkeylib.evaluation.benchmarks import BENCHMARKS
from monkeylib.evaluation.examples import Prediction
from monkeylib.evaluation.foreign_predictions import NO_PREDICTION
from monkeylib.evaluation.metrics import mme
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


def test_group_needs_a_field_with_few_values():
    rows = [replace(row, meta=row.meta | {"box": [1, 2], "key": row.id}) for row in _predictions(bool)]
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
    better = _predictions(lambda image: image < 15)
    worse = _predictions(lambda image: image < 8)
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
        for number, row in enumerate(_predictions(bool, images))
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
    predictions = _predictions(lambda image: True)
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
    rows = _predictions(lambda image: True, images=2)
    rows[1] = replace(rows[1], answers=[])
    with pytest.raises(ValueError, match="1 of the 4 questions of x have no accepted answer, such as '0-1'"):
        results.score_runs({("m", "x"): rows}, {"x": ["anls"]})


def test_failures_count_as_wrong_and_are_counted_beside_empty_and_cut_answers(tmp_path):
    rows = _predictions(lambda image: True, images=5)
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
    rows = _predictions(lambda image: True, images=2)
    rows[1:] = [replace(row, prediction="", error=NO_PREDICTION) for row in rows[1:]]

    table = results.score_runs({("m", "x"): rows}, {"x": ["exact_match"]})
    assert (table[0].value, table[0].failed, table[0].missing, table[0].empty) == (0.25, 0, 3, 0)
    (line,) = results.summary_table(table)
    assert line["missing"] == 3 and "failed" not in line
    assert results.answer_warnings(table) == []


def test_last_line_without_its_end_is_read_and_an_incomplete_one_is_an_error(tmp_path):
    path = write_predictions(tmp_path / "p.jsonl", _predictions(lambda image: image == 0, images=2))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(results.scores_by_id(path, "exact_match")) == 4

    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="Line 4 of .*interrupted.*`monkeylib evaluate` again"):
        results.scores_by_id(path, "exact_match")


# --- tables ---------------------------------------------------------------------------------------


def test_summary_has_a_line_per_benchmark_and_metric_and_a_column_per_model(monkeypatch):
    rows = [
        ScoreRow(model, split, group, metric, value, value - 0.1, value + 0.1, 50)
        for model, value in (("a", 0.5), ("b", 0.75))
        for split, metric in (("nano-fine", "exact_match"), ("nano-fine", "anls"), ("nano-large", "anls"))
        for group in ("all",)
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


def test_groups_are_lines_of_their_own_without_the_papers_scores():
    rows = [
        ScoreRow("a", "textvqa", group, "released_vqa_score", 0.5, 0.4, 0.6, 50)
        for group in ("all", "menu", "sign")
    ]
    lines = results.summary_table(rows)
    assert [line["group"] for line in lines] == ["all", "menu", "sign"]
    assert list(lines[0])[:4] == ["benchmark", "group", "metric", "questions"]
    assert [line["Monkey (paper)"] for line in lines] == ["67.6", None, None]
    assert "group" not in results.summary_table(rows[:1])[0]


def test_summary_counts_answers_only_where_there_is_something_to_count():
    full = ScoreRow("a", "nano-fine", "all", "anls", 0.5, 0.4, 0.6, 50)
    assert "empty" not in results.summary_table([full])[0]

    fewer = replace(full, model="b", n=20, empty=11)
    (line,) = results.summary_table([full, fewer])
    assert (line["questions"], line["empty"]) == ("50 / 20", "0 / 11")
    assert "failed" not in line and "cut" not in line


def test_model_with_mostly_empty_or_cut_answers_gets_a_sentence():
    row = ScoreRow("a", "nano-fine", "all", "anls", 0.0, 0.0, 0.0, 50)
    rows = [replace(row, metric=metric, empty=26, cut=25) for metric in ("anls", "exact_match")]
    rows += [replace(row, model="b", cut=50, failed=30), replace(row, group="menu", empty=50)]

    first, *second = results.answer_warnings(rows)
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


def write_notes(folder, **notes):
    """Write the record of a run with these notes."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"kind": "evaluation", "finished": True, "fingerprint": {}, "notes": notes}
    (folder / "run.json").write_text(json.dumps(manifest))


def test_model_name_of_a_folder_is_read_back(tmp_path, capsys):
    assert results.read_model_name(tmp_path) == tmp_path.name, "without a file, the folder's name"
    write_notes(tmp_path, model="someone/model")
    assert results.read_model_name(tmp_path) == "someone/model"

    # A file of somebody else is said once, and the predictions are scored without it.
    (tmp_path / "run.json").write_text(json.dumps({"model": "m"}))
    assert results.run_labels([tmp_path]) == [tmp_path.name]
    errors = capsys.readouterr().err
    assert errors.count("not the record of a run") == 1 and "are scored without it" in errors


def test_runs_of_one_model_are_told_apart(tmp_path):
    folders = [tmp_path / name for name in ("one/out", "two/out", "three")]
    facts = [{"prompt": "vqa", "weights": "a" * 64}, {"prompt": "vqa", "weights": "b" * 64}, {}]
    for folder, notes in zip(folders, facts, strict=True):
        write_notes(folder, model="nano", **notes)

    assert results.run_labels(folders[:1]) == ["nano"]
    assert results.run_labels(folders[:2]) == [
        f"nano (one/out, weights {'a' * 12})",
        f"nano (two/out, weights {'b' * 12})",
    ]

    # Another model keeps its name.
    write_notes(folders[2], model="other")
    assert results.run_labels(folders)[2] == "other"

    write_notes(folders[1], model="nano", prompt="caption")
    assert results.run_labels(folders[:2])[1] == "nano (two/out, prompt caption)"


def test_folder_is_scored_without_what_has_no_answers_and_foreign_files_stay(tmp_path):
    rows = _predictions(lambda image: True, images=2)
    write_predictions(tmp_path / "docvqa.jsonl", [replace(row, answers=[]) for row in rows])
    assert not results.has_scores(tmp_path)
    with pytest.raises(
        ValueError, match="nothing in .* can be scored: the answers of docvqa aren't published"
    ):
        results.score_folder(tmp_path)

    write_predictions(tmp_path / "nano-fine.jsonl", rows)
    assert {row.split for row in results.score_folder(tmp_path)} == {"nano-fine"}
    assert {row.n for row in results.score_folder(tmp_path, ids={"nano-fine": ["0-0", "1-0"]})} == {2}

    for content in ("my,own,table\n", ""):
        (tmp_path / "scores.csv").write_text(content)
        with pytest.raises(FileExistsError, match="scores.csv isn't a score table of monkeylib"):
            results.score_folder(tmp_path)
        assert (tmp_path / "scores.csv").read_text() == content


def test_prediction_files_come_in_the_order_of_the_benchmarks(tmp_path):
    with pytest.raises(FileNotFoundError, match="no predictions in"):
        results.prediction_files(tmp_path)

    # Benchmarks come in their order, other names after them.
    for name in ("nano-large", "other", "nano-fine"):
        (tmp_path / f"{name}.jsonl").write_text("")
    assert list(results.prediction_files(tmp_path)) == ["nano-fine", "nano-large"]
    assert list(results.prediction_files(tmp_path, any_name=True)) == ["nano-fine", "nano-large", "other"]
