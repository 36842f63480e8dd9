"""Metrics against the numbers of the published evaluators, and their properties."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.evaluation import statistics
from monkeylib.evaluation.metrics import as_released, cider, registry
from monkeylib.evaluation.metrics import text as text_module

GOLDENS = Path(__file__).parents[2] / "goldens"
CAPTIONS = json.loads((GOLDENS / "captions.json").read_text())
METRICS = json.loads((GOLDENS / "metrics.json").read_text())
ITEMS = {item["id"]: item for item in CAPTIONS["items"]}
PER_ANSWER = [
    registry.exact_match,
    registry.anls,
    registry.relaxed_accuracy,
    lambda prediction, answers: registry.vqa_accuracy(prediction, list(answers) * 10),
]
words = st.text(st.sampled_from("abcdeABC 0123.,%-é"), max_size=12)


# --- CIDEr-D against pycocoevalcap ----------------------------------------------------------------


@pytest.mark.parametrize("corpus", [name for name in CAPTIONS["corpora"] if name != "single_image"])
def test_cider_equals_pycocoevalcap_on_tokenised_strings(corpus):
    expected = CAPTIONS["corpora"][corpus]
    items = [ITEMS[i] for i in expected["ids"]]
    scores = cider.cider_d(
        [item["tokenized_hypothesis"].split() for item in items],
        [[reference.split() for reference in item["tokenized_references"]] for item in items],
    )
    np.testing.assert_allclose(scores, expected["CIDEr_per_image"], atol=1e-9)
    assert scores.mean() == pytest.approx(expected["CIDEr"], abs=1e-9)


@pytest.mark.parametrize("item", CAPTIONS["items"], ids=lambda item: f"set{item['id']}")
def test_caption_tokens_equal_the_treebank_tokeniser(item):
    assert " ".join(cider.caption_tokens(item["hypothesis"])) == item["tokenized_hypothesis"]
    for text, tokenised in zip(item["references"], item["tokenized_references"], strict=True):
        assert " ".join(cider.caption_tokens(text)) == tokenised


def test_cider_of_plain_strings_is_cider_of_their_tokens():
    items = list(ITEMS.values())
    scores = registry.cider_d([i["hypothesis"] for i in items], [i["references"] for i in items])
    assert scores.mean() == pytest.approx(CAPTIONS["corpora"]["all"]["CIDEr"], abs=1e-9)


def test_cider_refuses_corpora_without_a_score():
    with pytest.raises(ValueError, match="at least two images"):
        registry.cider_d(["a cat"], [["a cat"]])
    with pytest.raises(ValueError, match="image 1 has none"):
        cider.cider_d([["a"], ["b"]], [[["a"]], []])
    with pytest.raises(ValueError, match="one caption for each image"):
        cider.cider_d([["a"]], [[["a"]], [["b"]]])


# --- our metrics where the goldens state what a correct scorer gives ------------------------------

STATED = {"anls": registry.anls, "relaxed_accuracy": registry.relaxed_accuracy}


def _stated(item):
    """The correct value where the goldens state one, but for years: ChartQA tolerates 5 % of them as well."""
    if item["bug"] == "years_tolerated" or (item["bug"] and item["sane"] is None):
        return None
    return item["official"] if item["sane"] is None else item["sane"]


@pytest.mark.parametrize(
    ("metric", "item"),
    [(name, item) for name in STATED for item in METRICS[name]["items"] if _stated(item) is not None],
    ids=lambda value: value if isinstance(value, str) else value["note"],
)
def test_metrics_give_the_correct_value(metric, item):
    assert STATED[metric](item["answer"], item["annotation"]) == pytest.approx(_stated(item))


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("3.5", ["3.5"], 1), ("35", ["3.5"], 0), ("cat.", ["cat"], 1), ("U.S.A.", ["u.s.a."], 1),
        ("25", ["5"], 0), ("a  b\n", ["a b"], 1), ("not true", ["true"], 0), ("anything", [""], 0),
        ("", ["x"], 0), (".", [""], 0), ("dog", ["cat", "dog"], 1), ("STRASSE", ["straße"], 1),
        ("dog", "dog", 1),
    ],
)  # fmt: skip
def test_exact_match(prediction, answers, expected):
    assert registry.exact_match(prediction, answers) == expected


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
    answers = [answer for answer, count in counts.items() for _ in range(count)]
    assert registry.vqa_accuracy(prediction, answers) == pytest.approx(expected)


def test_vqa_accuracy_refuses_annotators_too_few_to_agree():
    with pytest.raises(ValueError, match="at least 4 annotators.*got 1"):
        registry.vqa_accuracy("yes", ["yes"])


@pytest.mark.parametrize("item", METRICS["vqa_process_only"], ids=lambda item: item["text"])
def test_vqa_normalisation_equals_the_official_one(item):
    assert text_module.vqa_punctuation(item["text"]) == item["punctuation"]
    assert text_module.vqa_words(item["text"]) == item["digit_article"]
    assert text_module.vqa(item["text"]) == item["both"]


def test_character_error_counts_edits_per_character():
    assert registry.character_error("stop", ["stop"]) == 0
    assert registry.character_error("STOP", ["SHOP"]) == 0.25
    assert registry.character_error("stopstop", ["stop"]) == 1.0
    assert registry.character_error("a  b", ["zzz", "a b"]) == 0
    with pytest.raises(ValueError, match="empty answer"):
        registry.character_error("x", [" "])


# --- the release's variants against its own outputs -----------------------------------------------

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
def test_release_variants_equal_the_released_code(metric, item):
    assert RELEASED[metric](item["answer"], item["annotation"]) == pytest.approx(item["official"], abs=1e-12)


@pytest.mark.parametrize("item", METRICS["gqa"]["items"], ids=lambda item: item["answer"] or "empty")
def test_release_gqa_clean_up_equals_the_released_code(item):
    assert as_released.gqa_cleaned(item["answer"]) == item["official_cleaned"]
    assert as_released.gqa_accuracy(item["answer"], item["annotation"][0]) == item["official"]


@pytest.mark.parametrize("item", METRICS["vqa_score"]["items"], ids=lambda item: item["note"])
def test_release_vqa_score_equals_the_released_code(item):
    answers = [answer for answer, count in item["gt_counts"] for _ in range(count)]
    score = as_released.vqa_score(item["answer"], answers, answer_ids=item["answer_ids_present"])
    assert round(100 * score, 2) == item["official_percent"]


def _named(name, items):
    """Scores under the metric's name, which refuses what the released code crashes on."""
    return registry.get(name).scores([i["answer"] for i in items], [i["annotation"] for i in items])


@pytest.mark.parametrize(
    ("name", "section", "corpus"),
    [
        ("release_relaxed_accuracy", "relaxed_accuracy", "corpus"),
        ("release_containment", "exact_match_containment", "corpus_over_non_raising"),
    ],
)
def test_release_variants_by_name_give_the_released_mean_over_a_corpus(name, section, corpus):
    items = [item for item in METRICS[section]["items"] if isinstance(item["official"], float)]
    np.testing.assert_allclose(_named(name, items), [item["official"] for item in items], atol=1e-12)
    assert _named(name, items).mean() == pytest.approx(METRICS[section][corpus], abs=1e-12)


def test_release_vqa_score_by_name_gives_the_released_percentage_of_a_corpus():
    items = [item for item in METRICS["vqa_score"]["items"] if item["answer_ids_present"]]
    answers = [[a for a, count in item["gt_counts"] for _ in range(count)] for item in items]
    scores = registry.get("release_vqa_score").scores([item["answer"] for item in items], answers)
    about = METRICS["vqa_score"]["corpus_items_with_answer_id"]
    assert len(scores) == about["n"]
    assert round(100 * scores.mean(), 2) == about["accuracy"]["overall"]
    kinds = np.asarray(["q" if number % 2 else "p" for number in range(len(scores))])
    for kind, percent in about["accuracy"]["perQuestionType"].items():
        assert round(100 * scores[kinds == kind].mean(), 2) == percent


@pytest.mark.parametrize(
    ("name", "section"), [("release_anls", "anls"), ("release_containment", "exact_match_containment")]
)
def test_what_the_released_code_crashes_on_is_refused_by_name(name, section):
    items = [item for item in METRICS[section]["items"] if not isinstance(item["official"], float)]
    assert items
    for item in items:
        with pytest.raises(ValueError, match="An answer must be a string|non-empty list of answers"):
            _named(name, [item])


# --- properties and hostile input -----------------------------------------------------------------


@given(words, st.lists(words, min_size=1, max_size=4))
def test_scores_lie_between_0_and_1_and_an_accepted_answer_is_right(prediction, answers):
    for metric in PER_ANSWER:
        assert 0 <= metric(prediction, answers) <= 1
        assert metric(answers[0], answers[:1]) == 1


@given(words, st.lists(words, min_size=1, max_size=4), words)
def test_another_accepted_answer_never_lowers_a_score(prediction, answers, more):
    for metric in (registry.exact_match, registry.anls, registry.relaxed_accuracy):
        assert metric(prediction, [*answers, more]) >= metric(prediction, answers)


@given(words, words)
def test_anls_and_exact_match_are_symmetric(one, other):
    assert registry.anls(one, [other]) == registry.anls(other, [one])
    assert registry.exact_match(one, [other]) == registry.exact_match(other, [one])


HOSTILE = [
    "", " ", "\n\t", "...", ".", "?!;,", "|", " | ", "()", "[1]", '""', "😀😀", "\x00", "a" * 10_000,
    "ﬁ", "٣", "(" * 10_000, "[" * 10_000, " (" * 5_000, "|" * 10_000, "9" * 10_000, "نعم", "<img>",
    "1e400", "-", "%", "\u202e", "nan", "1-1-1", "xx-xx-xx", "\ud800", "A", "yes",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_hostile_strings_get_a_score(text):
    for metric in PER_ANSWER:
        assert metric("plain", [text]) in (0, 1) and metric(text, [text]) == 1
    assert registry.cider_d([text, "a dog"], [["a cat", text], ["a dog"]])[1] > 0


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
def test_what_has_no_score_is_refused_in_one_sentence(name, prediction, answers, complaint):
    with pytest.raises(ValueError, match=complaint):
        registry.get(name).scores([prediction, "b"], [answers, ["b"]])


def test_an_unknown_metric_is_refused_with_the_list():
    with pytest.raises(ValueError, match="exact_match, anls"):
        registry.get("accuracy")


# --- statistics -----------------------------------------------------------------------------------


def test_bootstrap_interval_is_near_the_normal_one_and_repeatable():
    scores = np.random.default_rng(1).normal(0.5, 0.2, 400)
    interval = statistics.bootstrap_interval(scores)
    half = 1.96 * scores.std() / np.sqrt(len(scores))
    assert interval.value == pytest.approx(scores.mean()) and interval.n == 400
    assert interval.low == pytest.approx(scores.mean() - half, abs=0.003)
    assert interval.high == pytest.approx(scores.mean() + half, abs=0.003)
    assert statistics.bootstrap_interval(scores) == interval
    assert statistics.bootstrap_interval(scores, seed=1) != interval


def test_clusters_widen_the_interval_of_dependent_scores():
    scores = np.repeat(np.random.default_rng(0).integers(0, 2, 50), 8).astype(float)
    alone = statistics.bootstrap_interval(scores)
    clustered = statistics.bootstrap_interval(scores, clusters=np.repeat(np.arange(50), 8).tolist())
    ratio = (clustered.high - clustered.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(8), rel=0.15)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_interval_holds_the_mean(scores):
    interval = statistics.bootstrap_interval(scores, resamples=50)
    assert interval.low <= interval.value <= interval.high


def test_two_runs_drawn_together_show_what_separate_intervals_miss():
    hard = np.random.default_rng(2).integers(0, 2, 200).astype(float)
    easier = np.maximum(hard, np.arange(200) % 20 == 0)
    one, other = (statistics.bootstrap_interval(run) for run in (easier, hard))
    assert one.low < other.high  # the intervals overlap
    first, second = (np.stack([run, np.ones_like(run)], axis=1) for run in (easier, hard))
    difference = statistics.bootstrap_totals(first, statistics.mean, other=second)
    assert difference.low > 0 and difference.value == pytest.approx(one.value - other.value)
    assert statistics.bootstrap_totals(second, statistics.mean, other=first).high < 0


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: statistics.bootstrap_interval([]), "at least one number"),
        (lambda: statistics.bootstrap_interval([0.0, float("nan")]), "number 1 isn't"),
        (lambda: statistics.bootstrap_interval([0.0], confidence=95), "between 0 and 1"),
        (lambda: statistics.bootstrap_interval([0.0, 1.0], clusters=["a"]), "one cluster for each"),
    ],
)
def test_statistics_refuse_bad_input(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
