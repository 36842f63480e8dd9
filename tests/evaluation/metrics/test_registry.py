"""All metrics by name: what they refuse, and what they make of hostile input."""

import math

import numpy as np
import pytest

from monkeylib.evaluation.metrics import registry
from tests.support.hostile_texts import HOSTILE_TEXTS

META = {"choices": ["plain", "other"], "answer": 0, "task": "count", "variants": None}
ANSWERS = {
    name: ["yes"] if name.startswith("mme") else ["plain"] * 10
    for name in registry.METRICS
    if "mme" in name or "vqa" in name
}


def test_unknown_metric_raises_with_the_list():
    with pytest.raises(ValueError, match="exact_match, anls"):
        registry.get("accuracy")


@pytest.mark.parametrize("name", list(registry.METRICS))
@pytest.mark.parametrize(
    ("prediction", "answers", "complaint"),
    [
        (None, ["a"], "prediction must be a string: got NoneType"),
        (5, ["a"], "prediction must be a string: got int"),
        (["a"], ["a"], "prediction must be a string: got list"),
        ("a", [], "non-empty list"),
        ("a", None, "non-empty list"),
        ("a", [5], "answer must be a string: got int"),
        ("a", [["a"]], "answer must be a string: got list"),
    ],
)
def test_input_without_a_score_raises(name, prediction, answers, complaint):
    with pytest.raises(ValueError, match=complaint):
        registry.get(name).scores([prediction, "b"], [answers, ["b"]])


@pytest.mark.parametrize("name", list(registry.METRICS))
def test_unequal_numbers_of_predictions_and_answers_raise(name):
    with pytest.raises(ValueError, match="got 1 predictions, 2 lists of answers and 1 metas"):
        registry.get(name).scores(["a"], [["a"], ["b"]])


@pytest.mark.parametrize("name", list(registry.METRICS))
@pytest.mark.parametrize("hostile", HOSTILE_TEXTS, ids=lambda hostile: ascii(hostile[:12]))
def test_every_metric_scores_a_hostile_prediction(name, hostile):
    """Only the predictions that are correct by accident score 1."""
    metric = registry.get(name)
    answers = ANSWERS.get(name, ["plain"])
    scores = metric.scores([hostile, answers[0]], [answers, answers], [META, META])

    assert len(scores) == 2 and np.isfinite(scores).all()
    # Errors have no highest rate.
    highest = metric.maximum if metric.higher_is_better else math.inf
    assert (scores >= 0).all() and (scores <= highest).all()

    # Hostile texts that happen to be a correct answer: "yes" for MME, the letter of a choice.
    if metric.higher_is_better and name != "cider_d":
        correct = (name.startswith("mme") and hostile == "yes") or (
            name == "multiple_choice" and hostile == "A"
        )
        assert scores.tolist() == [float(correct), 1.0]


@pytest.mark.parametrize("name", [name for name in registry.METRICS if not name.startswith("mme")])
@pytest.mark.parametrize("hostile", HOSTILE_TEXTS, ids=lambda hostile: ascii(hostile[:12]))
def test_every_metric_scores_or_refuses_a_hostile_answer(name, hostile):
    """A prediction that equals the accepted answer scores 1, wherever the text can be an answer at all."""
    answers = [hostile] * 10 if "vqa" in name else [hostile]
    # The hostile text is the first choice.
    metas = [META | {"choices": [hostile, "other thing"]}, META | {"choices": ["a dog", "c"]}]
    try:
        scores = registry.get(name).scores([hostile, "a dog"], [answers, ["a dog"] * 10], metas)
    except ValueError as error:
        assert str(error).startswith("Character error is undefined")
        return

    score = scores[0]
    if name == "character_error":
        assert score == 0
    elif name == "f1":
        assert score == (1 if hostile.strip(" |\n\t") else 0)
    elif name.startswith("denotation_accuracy") and "|" in hostile:
        assert score == 0  # "|" separates values, so no cell that DUE asks about has it
    elif name == "relaxed_accuracy_pix2struct" and hostile in ("nan", "1e400", "9" * 10_000):
        assert score == 0  # float() reads no finite number, and their difference is none
    elif name == "gqa_accuracy_lmms_eval" and hostile != hostile.strip():
        assert score == 0  # blanks around the prediction are cut off, those around the answer aren't
    elif not name.startswith(("released_", "cider")):
        assert score == 1

    assert math.isfinite(score)
