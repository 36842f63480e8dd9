"""MME's sums of accuracy and accuracy+ over tasks."""

import numpy as np
import pytest

from monkeylib.evaluation import statistics
from monkeylib.evaluation.metrics import mme, registry


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("Yes", "yes"), ("yes, there is", "yes"), (" NO.", "no"), ("Not at all", "no"), ("perhaps", "other"),
        ("", "other"), ("I say yes", "other"), ("The answer is no", "other"), ("know", "no"),
    ],
)  # fmt: skip
def test_yes_and_no_are_parsed_as_by_the_official_script(prediction, expected):
    assert mme.parse_yes_no(prediction) == expected


@pytest.mark.parametrize("answers", [["maybe"], [""], ["yes no"], ["1"], ["yes", "no"], ["yes", "yes"]])
def test_accepted_answer_other_than_yes_or_no_raises(answers):
    with pytest.raises(ValueError, match="either yes or no: got"):
        mme.yes_no_accuracy("yes", answers)
    with pytest.raises(ValueError, match="either yes or no: got"):
        registry.get("mme_perception").scores(["yes"], [answers])


def _counts(answered, tasks=mme.MME_PERCEPTION, images=6):
    """Totals of questions about images of every task, answered by a function of (image, gold)."""
    rows = [(task, f"{task}/{n}", gold) for task in tasks for n in range(images) for gold in ("Yes", "No")]
    return mme.count_corpus(
        [answered(image, gold) for _, image, gold in rows],
        [[gold] for _, _, gold in rows],
        [{"task": task} for task, _, _ in rows],
        [image for _, image, _ in rows],
    )


def test_guessing_scores_as_the_paper_says():
    """Accuracy 50 % and accuracy+ 25 % by chance (Fu et al., section 2.3): 75 a task."""
    random = np.random.default_rng(0)
    table = _counts(lambda image, gold: random.choice(["yes", "no"]), images=400)
    assert 100 * mme.perception(table.sum(axis=0)) == pytest.approx(10 * 75, abs=30)
    assert mme.perception(_counts(lambda image, gold: gold).sum(axis=0)) == 20
    assert mme.perception(_counts(lambda image, gold: "Yes").sum(axis=0)) == 5
    assert mme.cognition(_counts(lambda image, gold: gold, mme.MME_COGNITION).sum(axis=0)) == 8


def test_bootstrap_resamples_images_within_tasks():
    """One image of a task, always drawn: without strata the task would be missing from a third of draws."""
    rows = [("count", f"count/{n}", gold) for n in range(30) for gold in ("Yes", "No")]
    rows += [("color", "color/0", gold) for gold in ("Yes", "No")]
    table = mme.count_corpus(
        [gold for *_, gold in rows],
        [[gold] for *_, gold in rows],
        [{"task": task} for task, *_ in rows],
        [image for _, image, _ in rows],
    )
    images, tasks = [image for _, image, _ in rows], [task for task, *_ in rows]
    stratified = statistics.bootstrap_corpus_score(table, mme.perception, clusters=images, strata=tasks)
    assert stratified == (4, 4, 4, 62)
    assert statistics.bootstrap_corpus_score(table, mme.perception, clusters=images).low == 2


def test_unknown_or_missing_task_raises():
    with pytest.raises(ValueError, match="no task 'smell'"):
        mme.count_corpus(["yes"], [["yes"]], [{"task": "smell"}], ["x"])
    with pytest.raises(ValueError, match="needs the entry 'task'"):
        mme.count_corpus(["yes"], [["yes"]], [{}], ["x"])
