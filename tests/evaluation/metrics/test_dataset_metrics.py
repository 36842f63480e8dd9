"""Metrics of single benchmarks: multiple choice, denotations, fields of documents, MME; and all of them on
hostile input."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.evaluation import statistics
from monkeylib.evaluation.metrics import due, mme, registry, wtq
from monkeylib.evaluation.metrics import text as text_module
from monkeylib.evaluation.metrics.text import chosen
from monkeylib.evaluation.metrics.wtq import denotation_accuracy
from tests.evaluation.metrics.test_metrics import HOSTILE

# --- multiple choice ------------------------------------------------------------------------------

ANIMALS = ["the fox", "the hare", "the arctic hare", "none of the above"]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("B", 1), ("b", 1), ("(B)", 1), ("B.", 1), ("B)", 1), (" B: ", 1), ("[B]", None), ("E", None),
        ("The answer is C.", 2), ("Answer: D", 3), ("the correct answer is (a)", 0), ("B. the hare", 1),
        ("C) because it is white", 2), ("I think the answer is B because it eats grass.", 1),
        ("the hare", 1), ("The Hare.", 1), ("It is the hare", 1), ("the arctic hare", 2),
        ("That is the arctic hare, of course", 2), ("the fox or the hare", None), ("a fox", None),
        ("harebell", None), ("", None), ("A fox runs", None), ("foxes", None),
    ],
)  # fmt: skip
def test_a_choice_is_read_from_free_text(prediction, expected):
    assert chosen(prediction, ANIMALS) == expected


@pytest.mark.parametrize(
    ("prediction", "options", "expected"),
    [
        ("A", ["C", "A", "B"], 1),  # labels drawn into a diagram: the text wins over the letter
        ("A.", ["C", "A", "B"], 1),
        ("D", ["C", "A", "B"], None),
        ("2", ["1", "2", "12"], 1),
        ("12", ["1", "2", "12"], 2),
        ("it has 12 legs", ["1", "2", "12"], 2),
        ("B", ["same", "same"], 1),
        ("same", ["same", "same"], 0),
        ("c++ (old)", ["c", "c++ (old)"], 1),
    ],
)
def test_choices_that_are_letters_numbers_or_marks(prediction, options, expected):
    assert chosen(prediction, options) == expected


@given(
    st.lists(st.text(st.sampled_from("abcXY12 .'-"), min_size=1, max_size=8), min_size=1, max_size=5),
    st.data(),
)
def test_letter_and_text_of_a_choice_mean_it(options, data):
    number = data.draw(st.integers(0, len(options) - 1))
    plain = [text_module.plain(option) for option in options]
    if plain.count(plain[number]) == 1:
        assert chosen(options[number], options) == number
    letter = chr(65 + number)
    if letter.lower() not in plain:
        assert chosen(letter, options) == chosen(f"({letter})", options) == number
    assert chosen("zebra", options) is None


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        ({}, "needs the entry 'choices'"),
        (None, "needs the entry 'choices'"),
        ({"choices": ["a", "b"]}, "needs the entry 'answer'"),
        ({"choices": "ab", "answer": 0}, "choices must be a list of texts: got 'ab'"),
        ({"choices": ["a", "b"], "answer": 2}, "a number from 0 to 1: got 2"),
        ({"choices": ["a", "b"], "answer": "0"}, "a number from 0 to 1: got '0'"),
        ({"choices": ["a", 5], "answer": 0}, "must be a string: got int"),
        ({"choices": [], "answer": 0}, "a number from 0 to -1|non-empty"),
    ],
)
def test_multiple_choice_without_choices_is_refused(meta, sentence):
    with pytest.raises(ValueError, match=sentence):
        text_module.multiple_choice("a", ["a"], meta)


# --- denotations (WikiTableQuestions) -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ana María", "ana maria"), ("“Help!”", "help!"), ("the university†‡*", "the university"),
        ("Oslo[1][2]", "oslo"), ("Oslo [note 3]", "oslo"), ("[citation]", "[citation]"), ("[12]", ""),
        ("Rome (x)", "rome"), ("Rome (a) (b)", "rome"), ("Rome(Lazio)", "rome(lazio)"), ("(x)", "(x)"),
        ("St.  Louis.", "st. louis"), ("1912–13", "1912-13"), ("a [b", "a [b"), ("a (b (c)", "a"),
        ('"x" and "y"', '"x" and "y"'), ("a\u00a0b", "a b"), ('"A (1)†"[2]', "a"), ("", ""), (".", ""),
    ],
)  # fmt: skip
def test_strings_are_normalised_as_by_the_official_evaluator(text, expected):
    assert wtq.normalised(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        # Values of the official evaluator's own examples: quotation marks, citations, close numbers, order.
        ("university of california‘ | university of virginia†‡* | 10.0000001",
         ["university of california’", "university of virginia", "10"], 1),
        ("aaa | bbb", ["bbb"], 0), ("bbb", ["aaa", "bbb"], 0), ("bbb|aaa", ["aaa", "bbb"], 1),
        ("aaa | aaa", ["aaa"], 1), ("3.0", ["3"], 1), ("3", ["three"], 0), ("1,000", ["1000"], 0),
        ("2008-03-14", ["2008-3-14"], 1), ("2008-03-xx", ["2008-3-xx"], 1), ("2008-xx-xx", ["2008"], 1),
        ("2008-13-01", ["2008-13-1"], 0), ("xx-xx-xx", ["xx-xx-xx"], 1), ("1e400", ["1e400"], 1),
        ("nan", ["nan"], 1),
        ("Oslo.", ["oslo"], 1), ("Oslo", ["Bergen"], 0), ("", [""], 1), ("", ["x"], 0), ("|", ["x"], 0),
    ],
)  # fmt: skip
def test_denotation_accuracy(prediction, answers, expected):
    assert denotation_accuracy(prediction, answers) == expected


cells = st.text(st.sampled_from('abcA 0123.-[]()†é"'), min_size=1, max_size=8)


@given(st.lists(cells, min_size=1, max_size=4))
def test_a_denotation_is_a_set(values):
    said = [value for value in values if value.strip()]
    if said:
        assert denotation_accuracy(" | ".join(reversed(said)), said) == 1
        assert denotation_accuracy(" | ".join([*said, said[0]]), said) == 1


@given(cells, cells)
def test_denotations_of_one_value_are_symmetric(one, other):
    assert denotation_accuracy(one, [other]) == denotation_accuracy(other, [one])


# --- F1 of fields (DeepForm, Kleister Charity) ----------------------------------------------------


def test_f1_of_a_document_whose_parties_are_swapped_and_written_otherwise():
    """Four values in three fields as in the official evaluator's test, which case doesn't spoil here."""
    said = ["2017-02-24", "Ohio", "Lsi Industries Inc. | DEnnis W. Wells"]
    gold = [["2017-02-24"], ["Ohio"], ["Dennis W. Wells", "Lsi Industries Inc."]]
    table = due.table(said, gold, [{}, {}, {}])
    assert table.sum(axis=0).tolist() == [4, 4, 4, 4] and due.f1(table.sum(axis=0)) == 1
    wrong = due.table([*said[:2], "Lsi Industries Inc. | D. Wells"], gold, [{}, {}, {}]).sum(axis=0)
    assert wrong.tolist() == [3, 4, 3, 4] and due.f1(wrong) == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("prediction", "answers", "variants", "expected"),
    [
        ("$4,500", ["4500.00"], [["$4,500"]], [1, 1, 1, 1]), ("$4,500", ["4500.00"], None, [0, 1, 0, 1]),
        ("a | a", ["a"], None, [1, 2, 1, 1]), ("a", ["a", "a"], None, [1, 1, 1, 2]),
        ("", ["a"], None, [0, 0, 0, 1]),
        (" | a |", ["A "], None, [1, 1, 1, 1]), ("x | y", ["a"], None, [0, 2, 0, 1]),
    ],
)  # fmt: skip
def test_counts_of_a_field(prediction, answers, variants, expected):
    assert due.counts(prediction, answers, {"variants": variants}).tolist() == expected


names = st.lists(st.sampled_from(["ab", "Ab", "c", "d e", "5"]), min_size=1, max_size=4)


@given(names, names)
def test_f1_is_symmetric_and_between_0_and_1(one, other):
    there = due.f1(due.counts(" | ".join(one), other))
    back = due.f1(due.counts(" | ".join(other), one))
    assert 0 <= there <= 1 and there == pytest.approx(back)
    assert due.f1(due.counts(" | ".join(one), one)) == 1


@given(names, names)
def test_another_right_value_never_lowers_f1(said, gold):
    before = due.f1(due.counts(" | ".join(said), [*gold, "new"]))
    assert due.f1(due.counts(" | ".join([*said, "new"]), [*gold, "new"])) >= before


@pytest.mark.parametrize("variants", [[], "a", [["x"], ["y"]], ["x"], [[5]]])
def test_variants_that_fit_no_value_are_refused(variants):
    if variants == []:
        assert due.counts("a", ["a"], {"variants": variants})[0] == 1
        return
    with pytest.raises(ValueError, match="a list of variants for each|variant must be a string: got int"):
        due.counts("a", ["a"], {"variants": variants})


# --- MME ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("Yes", "yes"), ("yes, there is", "yes"), (" NO.", "no"), ("Not at all", "no"), ("perhaps", "other"),
        ("", "other"), ("I say yes", "other"), ("The answer is no", "other"), ("know", "no"),
    ],
)  # fmt: skip
def test_yes_and_no_are_read_as_the_official_script_does(prediction, expected):
    assert mme.said(prediction) == expected


@pytest.mark.parametrize("answers", [["maybe"], [""], ["yes no"], ["1"], ["yes", "no"], ["yes", "yes"]])
def test_a_gold_answer_that_is_neither_yes_nor_no_is_refused(answers):
    with pytest.raises(ValueError, match="either yes or no: got"):
        mme.right("yes", answers)
    with pytest.raises(ValueError, match="either yes or no: got"):
        registry.get("mme_perception").scores(["yes"], [answers])


def _world(answered, tasks=mme.MME_PERCEPTION, images=6):
    """Totals of questions about images of every task, answered by a function of (image, gold)."""
    rows = [(task, f"{task}/{n}", gold) for task in tasks for n in range(images) for gold in ("Yes", "No")]
    return mme.table(
        [answered(image, gold) for _, image, gold in rows],
        [[gold] for _, _, gold in rows],
        [{"task": task} for task, _, _ in rows],
        [image for _, image, _ in rows],
    )


def test_guessing_scores_what_the_paper_says():
    """Accuracy 50 % and accuracy+ 25 % by chance (Fu et al., section 2.3): 75 a task."""
    random = np.random.default_rng(0)
    table = _world(lambda image, gold: random.choice(["yes", "no"]), images=400)
    assert 100 * mme.perception(table.sum(axis=0)) == pytest.approx(10 * 75, abs=30)
    assert mme.perception(_world(lambda image, gold: gold).sum(axis=0)) == 20
    assert mme.perception(_world(lambda image, gold: "Yes").sum(axis=0)) == 5
    assert mme.cognition(_world(lambda image, gold: gold, mme.MME_COGNITION).sum(axis=0)) == 8


def test_the_interval_of_a_sum_over_tasks_draws_images_within_tasks():
    """One image of a task, always drawn: without strata the task would be missing from a third of draws."""
    rows = [("count", f"count/{n}", gold) for n in range(30) for gold in ("Yes", "No")]
    rows += [("color", "color/0", gold) for gold in ("Yes", "No")]
    table = mme.table(
        [gold for *_, gold in rows],
        [[gold] for *_, gold in rows],
        [{"task": task} for task, *_ in rows],
        [image for _, image, _ in rows],
    )
    images, tasks = [image for _, image, _ in rows], [task for task, *_ in rows]
    stratified = statistics.bootstrap_totals(table, mme.perception, clusters=images, strata=tasks)
    assert stratified == (4, 4, 4, 62)
    assert statistics.bootstrap_totals(table, mme.perception, clusters=images).low == 2


def test_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match="no task 'smell'"):
        mme.table(["yes"], [["yes"]], [{"task": "smell"}], ["x"])
    with pytest.raises(ValueError, match="needs the entry 'task'"):
        mme.table(["yes"], [["yes"]], [{}], ["x"])


# --- intervals of scores that are no means --------------------------------------------------------


def test_the_interval_of_f1_is_that_of_its_draws():
    random = np.random.default_rng(3)
    right = random.integers(0, 2, 300)
    table = np.stack([right, np.ones(300), right, 1 + (random.random(300) < 0.3)], axis=1)
    interval = statistics.bootstrap_totals(table, due.f1)
    drawn = [due.f1(table[random.integers(0, 300, 300)].sum(axis=0)) for _ in range(2000)]
    assert interval.value == due.f1(table.sum(axis=0)) and interval.n == 300
    assert interval.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.01)
    assert interval.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.01)


def test_two_runs_are_compared_on_the_same_draws():
    random = np.random.default_rng(4)
    right = random.integers(0, 2, 200)
    better = np.minimum(1, right + (np.arange(200) % 20 == 0))
    tables = [np.stack([r, np.ones(200), r, np.ones(200)], axis=1) for r in (better, right)]
    one, other = (statistics.bootstrap_totals(table, due.f1) for table in tables)
    difference = statistics.bootstrap_totals(tables[0], due.f1, other=tables[1])
    assert one.low < other.high and difference.low > 0
    assert difference.value == pytest.approx(one.value - other.value)


@pytest.mark.parametrize(
    ("table", "options", "complaint"),
    [
        (np.zeros((0, 4)), {}, "at least one example"),
        (np.zeros(4), {}, "at least one example"),
        (np.full((2, 4), np.nan), {}, "number 0 isn't"),
        (np.zeros((2, 4)), {"other": np.zeros((3, 4))}, "tables of one shape"),
        (np.zeros((2, 4)), {"strata": ["a"]}, "one stratum for each score: got 1 for 2"),
    ],
)
def test_tables_without_a_score_are_refused(table, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        statistics.bootstrap_totals(table, due.f1, **options)


# --- hostile input --------------------------------------------------------------------------------

META = {"choices": ["plain", "other"], "answer": 0, "task": "count", "variants": None}
GOLD = {
    "mme_perception": ["yes"],
    "mme_cognition": ["yes"],
    "vqa_accuracy": ["plain"] * 10,
    "release_vqa_score": ["plain"] * 10,
}
BEST = {"cider_d": 10.0, "character_error": math.inf}


@pytest.mark.parametrize("name", list(registry.METRICS))
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_every_metric_scores_a_hostile_prediction(name, text):
    """And doesn't score it as right, but where it is."""
    metric = registry.get(name)
    gold = GOLD.get(name, ["plain"])
    scores = metric.scores([text, gold[0]], [gold, gold], [META, META])
    assert len(scores) == 2 and np.isfinite(scores).all() and (scores >= 0).all()
    assert (scores <= BEST.get(name, 1.0)).all()
    if metric.higher_is_better and name != "cider_d":
        assert scores[1] == 1
        right = (name.startswith("mme") and text == "yes") or (name == "multiple_choice" and text == "A")
        assert scores[0] == (1 if right else 0)


@pytest.mark.parametrize("name", [name for name in registry.METRICS if not name.startswith("mme")])
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_every_metric_scores_or_refuses_a_hostile_answer(name, text):
    """A prediction equal to it is right wherever the answer can be one at all."""
    metric = registry.get(name)
    meta = META | {"choices": [text, "other thing"]}
    answers = [text] * 10 if "vqa" in name else [text]
    try:
        score = metric.scores(
            [text, "a dog"], [answers, ["a dog"] * 10], [meta, META | {"choices": ["a dog", "c"]}]
        )[0]
    except ValueError as error:
        assert str(error).startswith("Character error is undefined")
        return
    if name == "character_error":
        assert score == 0
    elif name == "f1":
        assert score == (1 if text.strip(" |\n\t") else 0)
    elif name == "denotation_accuracy" and "|" in text:
        assert score == 0  # the mark between values stands in no cell that DUE asks about
    elif not name.startswith(("release", "cider")):
        assert score == 1
    assert math.isfinite(score)


@pytest.mark.parametrize("name", list(registry.METRICS))
def test_rows_that_do_not_belong_together_are_refused(name):
    with pytest.raises(ValueError, match="got 1 predictions, 2 lists of answers and 1 metas"):
        registry.get(name).scores(["a"], [["a"], ["b"]])
