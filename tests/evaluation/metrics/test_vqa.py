"""VQA accuracy by the rules of its three scorers."""

import json
from pathlib import Path

import pytest

from monkeylib.evaluation.metrics import vqa

METRICS = json.loads((Path(__file__).parents[2] / "goldens" / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("prediction", "counts", "expected"),
    [
        ("yes", {"yes": 10}, 1.0), ("yes", {"yes": 4, "no": 6}, 1.0), ("yes", {"yes": 3, "no": 7}, 0.9),
        ("yes", {"yes": 2, "no": 8}, 0.6), ("yes", {"yes": 1, "no": 9}, 0.3), ("maybe", {"yes": 10}, 0.0),
        ("two", {"two": 10}, 1.0), ("The cat", {"the cat": 10}, 1.0), ("yes!", {"Yes": 10}, 1.0),
        ("dont know", {"don't know": 10}, 1.0), ("." * 40 + "x", {"x": 10}, 1.0),
    ],
)  # fmt: skip
def test_vqa_accuracy(prediction, counts, expected):
    # One answer for each annotator.
    answers = [answer for answer, count in counts.items() for _ in range(count)]
    assert vqa.vqa_accuracy(prediction, answers) == pytest.approx(expected)


def test_vqa_accuracy_with_too_few_annotators_raises():
    with pytest.raises(ValueError, match="at least 4 annotators.*got 1"):
        vqa.vqa_accuracy("yes", ["yes"])


@pytest.mark.parametrize("item", METRICS["vqa_process_only"], ids=lambda item: item["text"])
def test_vqa_normalisation_equals_the_official_one(item):
    assert vqa.remove_vqa_punctuation(item["text"]) == item["punctuation"]
    assert vqa.normalise_vqa_words(item["text"]) == item["digit_article"]
    assert vqa.normalise_vqa(item["text"]) == item["both"]


@pytest.mark.parametrize(
    ("prediction", "answers", "published", "script", "evalai"),
    [
        # The script normalises nothing where all answers are equal.
        ("A", ["a"] * 10, 1, 0, 1), ("The cat", ["the cat"] * 10, 1, 0, 1), ("a", ["a"] * 10, 1, 1, 1),
        ("A", ["b"] * 9 + ["c"], 0, 0, 0), ("Cat", ["cat"] * 9 + ["dog"], 1, 1, 1),
        # EvalAI drops commas and question marks, the script makes them blanks.
        ("red,white", ["redwhite"] * 9 + ["x"], 0, 0, 1), ("red,white", ["red white"] * 9 + ["x"], 1, 1, 0),
        ("dog's", ["dog 's"] * 9 + ["x"], 0, 0, 1),
        # Both scripts remove 32 full stops.
        ("." * 40 + "x", ["x"] * 9 + ["y"], 1, 0, 0),
    ],
)  # fmt: skip
def test_scorers_differ_in_what_they_normalise(prediction, answers, published, script, evalai):
    assert vqa.vqa_accuracy(prediction, answers) == published
    assert vqa.vqa_accuracy_script(prediction, answers) == script
    assert vqa.vqa_accuracy_evalai(prediction, answers) == evalai
