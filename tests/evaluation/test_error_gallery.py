"""The worst mistakes, as figure and as page."""

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from monkeylib.evaluation import results
from monkeylib.evaluation.benchmarks import BENCHMARKS
from monkeylib.evaluation.error_gallery import worst
from monkeylib.evaluation.examples import Example, Prediction
from monkeylib.plots import errors

ODD = 'costs $5 or $6? <b>"&" é漢😀\n' + "long" * 40


def _rows(*answers, image=None):
    return [
        Prediction(f"q{n}", image or f"i{n}", f"question {n}", ["yes", "no"], "vqa", answer, "m", {})
        for n, answer in enumerate(answers)
    ]


def test_the_worst_come_first_and_right_answers_not_at_all():
    found = worst(_rows("yes", "yeah", "elephant", "no", "ye"), "exact_match", 10)
    assert [mistake.asked.prediction for mistake in found] == ["elephant", "yeah", "ye"]
    assert {mistake.score for mistake in found} == {0.0}
    first = worst(_rows("a", "b", "c"), "exact_match", 2)
    assert [mistake.asked.prediction for mistake in first] == ["a", "b"]
    partly = worst(_rows("ye", "elephant", "yea"), "anls", 3)
    assert [mistake.asked.prediction for mistake in partly] == ["elephant", "ye", "yea"]
    assert 0 < partly[1].score < 1


def test_a_lower_score_can_be_the_better_one():
    found = worst(_rows("yes", "yesss", "yess"), "character_error", 5)
    assert [mistake.asked.prediction for mistake in found] == ["yesss", "yess"]


def test_a_image_is_shown_once_unless_asked_otherwise():
    rows = _rows("a", "b", "c", image="same")
    assert len(worst(rows, "exact_match", 5)) == 1
    assert len(worst(rows, "exact_match", 5, per_image=2)) == 2
    with pytest.raises(ValueError, match="no predictions"):
        worst([], "exact_match", 5)


@pytest.fixture()
def odd():
    """Mistakes with whatever may stand in a text, and their images."""
    examples = [
        Example("q0", Image.new("RGB", (900, 30), "red"), ODD, (ODD, "b", "c", "d", "e", "f")),
        Example("q1", lambda: Image.new("L", (20, 40)), "", ("x",), prompt="caption", image_id="i"),
        Example("q2", Image.new("RGB", (8, 8)), "boxed", ("y",), meta={"evidence": [1.0, 2.0, 5.0, 6.0]}),
        Example("q3", Image.new("RGB", (8, 8)), "\ud800", ("y",)),
    ]
    answers = {"q0": "<script>", "q1": "", "q2": "\ud800 $", "q3": "$"}
    rows = [Prediction.of(example, answers[example.id], "m") for example in examples]
    return worst(rows, "exact_match", 9), errors.images_of(examples)


def test_a_page_holds_everything_and_no_markup_of_the_texts(odd, tmp_path):
    mistakes, images = odd
    page = errors.write_page(mistakes, images, tmp_path / "new" / "page.html", "5 < 6").read_text()
    assert page.count("<figure>") == page.count("data:image/jpeg;base64,") == 4
    assert "<script>" not in page and "&lt;script&gt;" in page and "<h1>5 &lt; 6</h1>" in page
    assert "costs $5 or $6? &lt;b&gt;&quot;&amp;&quot;" in page and "and 2 more" in page
    assert "(nothing)" in page and "exact_match" in page and "http" not in page
    empty = errors.write_page([], images, tmp_path / "empty.html", "none").read_text()
    assert "No mistakes." in empty


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_figure_shows_each_mistake_and_boxes_the_evidence(odd, tmp_path):
    mistakes, images = odd
    figure = errors.draw_mistakes(mistakes, images, columns=2)
    assert len(figure.axes) == 4
    texts = ["\n".join(text.get_text() for text in axes.texts) for axes in figure.axes]
    assert sum("prediction: <script>" in text for text in texts) == 1
    assert sum(len(axes.patches) for axes in figure.axes) == 1, "the evidence of one is known"
    figure.savefig(tmp_path / "figure.png")
    plt.close(figure)


# --- folders of predictions ---------------------------------------------------------------------------


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
