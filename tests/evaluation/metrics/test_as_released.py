"""The metrics of the released evaluation against its own outputs."""

import json
from pathlib import Path

import numpy as np
import pytest

from monkeylib.evaluation.metrics import as_released, registry

METRICS = json.loads((Path(__file__).parents[2] / "goldens" / "metrics.json").read_text())
RELEASED = {
    "anls": as_released.anls,
    "relaxed_accuracy": as_released.relaxed_accuracy,
    "exact_match_containment": as_released.containment,
}


@pytest.mark.parametrize(
    ("metric", "item"),
    [
        (name, item)
        for name in RELEASED
        for item in METRICS[name]["items"]
        if isinstance(item["official"], float)
    ],
    ids=lambda value: value if isinstance(value, str) else value["note"],
)
def test_scores_equal_the_released_code(metric, item):
    assert RELEASED[metric](item["answer"], item["annotation"]) == pytest.approx(item["official"], abs=1e-12)


@pytest.mark.parametrize("item", METRICS["gqa"]["items"], ids=lambda item: item["answer"] or "empty")
def test_gqa_equals_the_released_code(item):
    assert as_released.clean_gqa_prediction(item["answer"]) == item["official_cleaned"]
    assert as_released.gqa_accuracy(item["answer"], item["annotation"][0]) == item["official"]


@pytest.mark.parametrize("item", METRICS["vqa_score"]["items"], ids=lambda item: item["note"])
def test_vqa_score_equals_the_released_code(item):
    answers = [answer for answer, count in item["gt_counts"] for _ in range(count)]
    score = as_released.vqa_score(item["answer"], answers, answer_ids=item["answer_ids_present"])
    assert round(100 * score, 2) == item["official_percent"]


def _scores_by_name(name, items):
    """Score items by the metric of that name, which refuses what the released code crashes on."""
    return registry.get(name).scores([i["answer"] for i in items], [i["annotation"] for i in items])


@pytest.mark.parametrize(
    ("name", "section", "corpus"),
    [
        ("released_relaxed_accuracy", "relaxed_accuracy", "corpus"),
        ("released_containment", "exact_match_containment", "corpus_over_non_raising"),
    ],
)
def test_mean_over_a_corpus_equals_the_released_code(name, section, corpus):
    items = [item for item in METRICS[section]["items"] if isinstance(item["official"], float)]
    scores = _scores_by_name(name, items)

    np.testing.assert_allclose(scores, [item["official"] for item in items], atol=1e-12)
    assert scores.mean() == pytest.approx(METRICS[section][corpus], abs=1e-12)


def test_vqa_percentages_of_a_corpus_equal_the_released_code():
    items = [item for item in METRICS["vqa_score"]["items"] if item["answer_ids_present"]]
    answers = [[a for a, count in item["gt_counts"] for _ in range(count)] for item in items]
    scores = registry.get("released_vqa_score").scores([item["answer"] for item in items], answers)

    expected = METRICS["vqa_score"]["corpus_items_with_answer_id"]

    assert len(scores) == expected["n"]
    assert round(100 * scores.mean(), 2) == expected["accuracy"]["overall"]

    # The goldens alternate two types of questions.
    kinds = np.asarray(["q" if number % 2 else "p" for number in range(len(scores))])
    for kind, percent in expected["accuracy"]["perQuestionType"].items():
        assert round(100 * scores[kinds == kind].mean(), 2) == percent


@pytest.mark.parametrize(
    ("name", "section"), [("released_anls", "anls"), ("released_containment", "exact_match_containment")]
)
def test_input_that_crashes_the_released_code_raises_an_error_sentence(name, section):
    # Items on which the released code raises have no number.
    items = [item for item in METRICS[section]["items"] if not isinstance(item["official"], float)]
    assert items
    for item in items:
        with pytest.raises(ValueError, match="An answer must be a string|non-empty list of answers"):
            _scores_by_name(name, [item])
