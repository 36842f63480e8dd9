"""The error gallery: the worst answers, as a list, a page and a figure."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from monkeylib.evaluation import error_gallery
from monkeylib.evaluation.error_gallery import worst_answers
from monkeylib.evaluation.examples import Example, Prediction
from monkeylib.plots.examples import draw_errors

HOSTILE_TEXT = 'costs $5 or $6? <b>"&" é漢😀\n' + "long" * 40


def _predictions(*answers, image=None):
    return [
        Prediction(f"q{n}", image or f"i{n}", f"question {n}", ["yes", "no"], "vqa", answer, "m", {})
        for n, answer in enumerate(answers)
    ]


def _texts(wrong_answers):
    return [wrong.prediction.prediction for wrong in wrong_answers]


def test_worst_answers_come_first_without_correct_ones():
    wrong_answers = worst_answers(_predictions("yes", "yeah", "elephant", "no", "ye"), "exact_match", 10)
    assert _texts(wrong_answers) == ["elephant", "yeah", "ye"]
    assert {wrong.score for wrong in wrong_answers} == {0.0}

    # Equal scores are ordered by similarity, then by id.
    assert _texts(worst_answers(_predictions("a", "b", "c"), "exact_match", 2)) == ["a", "b"]

    # ANLS is 0 below one half, so "elephant" is the worst.
    graded = worst_answers(_predictions("ye", "elephant", "yea"), "anls", 3)
    assert _texts(graded) == ["elephant", "ye", "yea"]
    assert 0 < graded[1].score < 1


def test_highest_error_comes_first_where_lower_is_better():
    wrong_answers = worst_answers(_predictions("yes", "yesss", "yess"), "character_error", 5)
    assert _texts(wrong_answers) == ["yesss", "yess"]


def test_each_image_appears_once_by_default():
    predictions = _predictions("a", "b", "c", image="same")
    assert len(worst_answers(predictions, "exact_match", 5)) == 1
    assert len(worst_answers(predictions, "exact_match", 5, per_image=2)) == 2


def test_failures_are_no_answers():
    first, second = _predictions("", "a")
    failure = replace(first, error="image: truncated")
    assert _texts(worst_answers([failure, second], "exact_match", 5)) == ["a"]


def test_page_with_an_image_that_has_become_unreadable_says_so(tmp_path):
    example = Example("q0", tmp_path / "gone.png", "question 0", ("yes",))
    wrong_answers = worst_answers(_predictions("a"), "exact_match", 5)
    path = error_gallery.write_page(
        wrong_answers, error_gallery.image_lookup([example]), tmp_path / "page.html", "title"
    )
    assert "there is no image at" in path.read_text() and "<img" not in path.read_text()


def test_page_does_not_replace_a_file_of_somebody_else(tmp_path):
    page = error_gallery.write_page([], lambda prediction: None, tmp_path / "empty.html", "none")
    error_gallery.require_page(page)
    error_gallery.require_page(tmp_path / "gone.html")

    page.write_text("<p>mine</p>")
    with pytest.raises(FileExistsError, match="isn't an error gallery of monkeylib"):
        error_gallery.require_page(page)


def test_no_predictions_raise():
    with pytest.raises(ValueError, match="no predictions"):
        worst_answers([], "exact_match", 5)


@pytest.fixture()
def hostile():
    """Wrong answers with anything that a text can hold, and the lookup of their images."""
    examples = [
        Example("q0", Image.new("RGB", (900, 30), "red"), HOSTILE_TEXT, (HOSTILE_TEXT, *"bcdef")),
        Example("q1", lambda: Image.new("L", (20, 40)), "", ("x",), prompt="caption", image_id="i"),
        Example("q2", Image.new("RGB", (8, 8)), "boxed", ("y",), meta={"answer_box": [1.0, 2.0, 5.0, 6.0]}),
        Example("q3", Image.new("RGB", (8, 8)), "\ud800", ("y",)),
    ]
    answers = {"q0": "<script>", "q1": "", "q2": "\ud800 $", "q3": "$"}
    predictions = [Prediction.from_example(example, answers[example.id], "m") for example in examples]
    return worst_answers(predictions, "exact_match", 9), error_gallery.image_lookup(examples)


def test_page_holds_every_answer_and_escapes_the_texts(hostile, tmp_path):
    wrong_answers, image_of = hostile
    path = error_gallery.write_page(wrong_answers, image_of, tmp_path / "new" / "page.html", "5 < 6")
    page = path.read_text()

    assert page.count("<figure>") == page.count("data:image/jpeg;base64,") == 4
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "<h1>5 &lt; 6</h1>" in page
    assert "costs $5 or $6? &lt;b&gt;" in page and "and 2 more" in page
    assert "(nothing)" in page and "exact match: 0 of 1" in page and "http" not in page


def test_page_without_errors_says_so(tmp_path):
    page = error_gallery.write_page([], lambda prediction: None, tmp_path / "empty.html", "none").read_text()
    assert "No errors." in page and "<figure>" not in page


@pytest.mark.filterwarnings("ignore:Glyph")
def test_figure_shows_each_answer_and_boxes_its_evidence(hostile, tmp_path):
    wrong_answers, image_of = hostile
    figure = draw_errors(wrong_answers, image_of, columns=2)

    assert len(figure.axes) == 4

    texts = ["\n".join(text.get_text() for text in axes.texts) for axes in figure.axes]
    assert sum("answered: <script>" in text for text in texts) == 1
    for text in texts:
        terms = [line.partition(":")[0] for line in text.split("\n") if ":" in line]
        assert {"question", "true", "answered", "score"} <= set(terms)
        assert "exact_match" not in text
    assert sum(len(axes.patches) for axes in figure.axes) == 1, "only one example says where its answer is"

    figure.savefig(tmp_path / "figure.png")
    plt.close(figure)


@pytest.mark.parametrize(
    ("answer", "accepted", "words"),
    [
        ("9.35", ["49.35"], "1 of 5 characters wrong"),
        ("49.85", ["taxi", "49.35"], "1 of 5 characters wrong"),
        ("bus", ["taxi"], "nothing right"),
        ("", ["x"], "nothing right"),
    ],
)
def test_error_in_words(answer, accepted, words):
    example = Example("q", Image.new("RGB", (8, 8)), "?", tuple(accepted))
    (wrong,) = worst_answers([Prediction.from_example(example, answer, "m")], "exact_match", 1)
    assert error_gallery.describe_error(wrong) == words
    assert error_gallery.describe_score(wrong) == "exact match: 0 of 1"


def test_caption_has_its_score_for_an_error():
    example = Example("q", Image.new("RGB", (8, 8)), "", ("a red dog",), prompt="caption")
    wrong = error_gallery.WrongAnswer(Prediction.from_example(example, "a dog", "m"), "cider_d", 2.51)
    assert error_gallery.describe_error(wrong) == "CIDEr-D: 2.5 of 10"
