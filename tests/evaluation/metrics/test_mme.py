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
        ("**Yes**", "other"), ("The answer is yes.", "other"), ("Y", "other"), ("(no)", "no"),
    ],
)  # fmt: skip
def test_yes_and_no_are_parsed_as_by_the_official_script(prediction, expected):
    assert mme.parse_yes_no(prediction) == expected


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [("Y", "yes"), ("n.", "no"), ("...no", "no"), (". x no", "other"), ("Yes", "yes"), ("**Yes**", "other")],
)
def test_lmms_eval_reads_letters_and_drops_full_stops(prediction, expected):
    assert mme.parse_yes_no_lmms_eval(prediction) == expected

    # The corpus is counted by the same rule.
    answers = ["yes", "no"]
    metas = [{"task": "count"}] * 2
    counts = mme.count_corpus(
        [prediction] * 2, [[a] for a in answers], metas, ["a", "a"], mme.parse_yes_no_lmms_eval
    )
    assert counts.sum() == 3 + (expected != "other")


@pytest.mark.parametrize("answers", [["maybe"], [""], ["yes no"], ["1"], ["yes", "no"], ["yes", "yes"]])
def test_accepted_answer_other_than_yes_or_no_raises(answers):
    with pytest.raises(ValueError, match="either yes or no: got"):
        mme.yes_no_accuracy("yes", answers)
    with pytest.raises(ValueError, match="either yes or no: got"):
        registry.get("mme_perception").scores(["yes"], [answers])


def _count(predict, tasks=mme.MME_PERCEPTION, images=6):
    """Sum the counts of a model that answers both questions about each image by `predict(answer)`."""
    questions = [
        (task, f"{task}/{number}", answer)
        for task in tasks
        for number in range(images)
        for answer in ("Yes", "No")
    ]
    counts = mme.count_corpus(
        [predict(answer) for _, _, answer in questions],
        [[answer] for _, _, answer in questions],
        [{"task": task} for task, _, _ in questions],
        [image for _, image, _ in questions],
    )
    return counts.sum(axis=0)


def test_correct_answers_have_the_highest_scores():
    assert mme.perception(_count(lambda answer: answer)) == 20
    assert mme.cognition(_count(lambda answer: answer, mme.MME_COGNITION)) == 8


def test_constant_answers_score_for_accuracy_only():
    assert mme.perception(_count(lambda answer: "Yes")) == 10 * 0.5


def test_guessing_scores_as_the_paper_says():
    """Accuracy 50 % and accuracy+ 25 % by chance (Fu et al., section 2.3): 75 for each task."""
    random = np.random.default_rng(0)
    counts = _count(lambda answer: random.choice(["yes", "no"]), images=400)
    assert 100 * mme.perception(counts) == pytest.approx(10 * 75, abs=30)


def test_bootstrap_resamples_images_within_tasks():
    """Without strata, the only image of a task would be missing from a third of the draws."""
    # Thirty images of one task and a single one of another; all answers are correct.
    tasks = ["count"] * 60 + ["color"] * 2
    images = [f"count/{number}" for number in range(30) for _ in range(2)] + ["color/0"] * 2
    answers = ["Yes", "No"] * 31
    counts = mme.count_corpus(
        answers, [[answer] for answer in answers], [{"task": task} for task in tasks], images
    )

    # All answers are correct: 2 for each of the two tasks. No draw differs, so the interval is that of
    # 2^2 / (1/30 + 1/1), about four, right answers.
    stratified = statistics.bootstrap_interval(
        counts, mme.perception, clusters=images, strata=tasks, maximum=4
    )

    assert stratified[:2] == (4, pytest.approx(4 * statistics.mean_interval([1.0] * 4).low))

    unstratified = statistics.bootstrap_interval(counts, mme.perception, clusters=images, maximum=4)
    assert unstratified.low == 2


def test_unknown_or_missing_task_raises():
    with pytest.raises(ValueError, match="no task 'smell'"):
        mme.count_corpus(["yes"], [["yes"]], [{"task": "smell"}], ["x"])
    with pytest.raises(ValueError, match="needs the entry 'task'"):
        mme.count_corpus(["yes"], [["yes"]], [{}], ["x"])
