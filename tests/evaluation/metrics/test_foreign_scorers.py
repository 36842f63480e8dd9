"""The metrics against the official scorers: their stored outputs, and they themselves where installed."""

import json
import re
from importlib import metadata

import numpy as np
import pytest

from monkeylib.evaluation.metrics import ptb, registry, text
from tests.support import foreign_scorers, scored_pairs
from tests.support.foreign_scorers import PAIRS, SCORERS

STORED = json.loads(foreign_scorers.GOLDENS.read_text())
CASES = [(name, metric) for name, scorer in SCORERS.items() for metric in scorer.metrics]
MORE_PAIRS = 2000
MORE_CAPTIONS = 8000


def _score(metric, pair):
    return registry.get(metric).scores([pair.prediction], [pair.answers], [{"task": "count"} | pair.meta])[0]


# --- the reasons for which a metric and a scorer may differ ---------------------------------------


def _texts(pair):
    return [pair.prediction, *pair.answers]


def _is_zero(answer):
    return re.fullmatch(r"[-+$ ]*0*[.,]?0*(?:e[+-]?\d+)?[ %]*", answer.strip()) is not None


def _is_at_tolerance(prediction, answer):
    """Return whether a number is 5 % off another, to the last digits."""
    values = [
        re.fullmatch(r"(-?[\d.]+(?:e[+-]?\d+)?)(%?)", t.strip().replace(" ", "").replace(",", ""))
        for t in (prediction, answer)
    ]
    if not all(values):
        return False
    predicted, accepted = (float(match[1]) / (100 if match[2] else 1) for match in values)
    return abs(abs(predicted - accepted) - 0.05 * abs(accepted)) <= 1e-9 * abs(accepted)


REASONS = {
    "half": lambda pair, ours, theirs: (ours, theirs) == (0.5, 0),
    "letters": lambda pair, *_: any(
        len(t.upper()) != len(t) or len(t.lower()) != len(t) for t in _texts(pair)
    ),
    "blanks": lambda pair, *_: any(t != " ".join(t.split()) for t in _texts(pair)),
    "commas": lambda pair, *_: any("," in t for t in _texts(pair)),
    "zero": lambda pair, *_: any(map(_is_zero, pair.answers)),
    "nan": lambda pair, *_: any(t.strip().lower() in ("nan", "inf", "1e400") for t in _texts(pair)),
    "rounding": lambda pair, *_: any(_is_at_tolerance(pair.prediction, answer) for answer in pair.answers),
    "punctuation": lambda pair, *_: any(not t.isalnum() for t in _texts(pair)),
    "single letter": lambda pair, *_: pair.prediction.strip().strip(".").lower() in ("y", "n"),
    "full stops": lambda pair, *_: any("." in t for t in _texts(pair)),
    "EvalAI": lambda pair, *_: any(mark in t for t in _texts(pair) for mark in (",", "?", "'s")),
    "unanimous": lambda pair, *_: len(set(pair.answers)) == 1,
    "texts": lambda pair, ours, theirs: ours > theirs and "{text}" in pair.meta["wording"],
    "several": lambda pair, ours, theirs: ours < theirs and "{other}" in pair.meta["wording"],
    "marks": lambda pair, ours, theirs: ours > theirs and re.search("[`'<是。]", pair.meta["wording"]),
    "negated": lambda pair, ours, theirs: ours < theirs and pair.meta["wording"].startswith("not"),
    "sentences": lambda pair, ours, theirs: ours > theirs and ", so " in pair.meta["wording"],
}


# --- the table of the docs ------------------------------------------------------------------------

ROWS = foreign_scorers.documented_differences()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2].prediction}")
def test_documented_differences_are_as_stated(row):
    metric, scorer, pair, ours, theirs, reason = row
    assert _score(metric, pair) == pytest.approx(ours, abs=1e-6)
    assert ours != theirs and reason in REASONS and metric in SCORERS[scorer].metrics

    # What the scorer says of the same pair was stored by it.
    assert STORED["documented"][f"{scorer}: {foreign_scorers.digest(pair[:2])}"] == pytest.approx(
        theirs, abs=1e-6
    )


def _reasons(scorer, metric):
    return {
        reason for row_metric, row_scorer, *_, reason in ROWS if (row_metric, row_scorer) == (metric, scorer)
    }


def _unexplained(scorer, metric, pairs, theirs):
    """Return the pairs that are scored differently for none of the documented reasons."""
    reasons = [REASONS[reason] for reason in _reasons(scorer, metric)]
    unexplained = []
    for pair, their_score in zip(pairs, theirs, strict=True):
        our_score = _score(metric, pair)
        if abs(our_score - their_score) > 1e-6:
            if not any(reason(pair, our_score, their_score) for reason in reasons):
                unexplained.append((pair, our_score, their_score))
    return unexplained


# --- stored scores --------------------------------------------------------------------------------


@pytest.mark.parametrize(("scorer", "metric"), CASES)
def test_scores_equal_the_stored_ones_but_for_documented_differences(scorer, metric):
    pairs = SCORERS[scorer].draw(PAIRS, seed=0)
    stored = STORED["scorers"][scorer]
    assert foreign_scorers.digest(pairs) == stored["pairs"], "other pairs: run tests.support.foreign_scorers"

    assert _unexplained(scorer, metric, pairs, stored["scores"]) == []
    assert len(pairs) >= 300


def test_tokens_of_captions_equal_the_stored_ones():
    captions = foreign_scorers.stored_captions()
    corpus = foreign_scorers.draw_corpus(100, seed=0)
    assert foreign_scorers.digest([captions, corpus]) == STORED["captions"]["captions"]

    tokens = [" ".join(ptb.tokenize_caption(caption)) for caption in captions]
    assert [
        pair
        for pair in zip(captions, tokens, STORED["captions"]["tokens"], strict=True)
        if pair[1] != pair[2]
    ] == []
    np.testing.assert_allclose(text.cider_d(*corpus), STORED["captions"]["cider_d"], atol=1e-9)


# --- the scorers themselves, where they are installed ---------------------------------------------


@pytest.mark.parametrize(("scorer", "metric"), CASES)
def test_scores_equal_the_installed_scorer_but_for_documented_differences(scorer, metric):
    try:
        metadata.version(SCORERS[scorer].package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{SCORERS[scorer].package} isn't installed: make test-harness")

    score = SCORERS[scorer].load()
    pairs = SCORERS[scorer].draw(MORE_PAIRS, seed=1)
    assert _unexplained(scorer, metric, pairs, [float(score(pair)) for pair in pairs]) == []


@pytest.mark.skipif(not foreign_scorers.can_tokenize(), reason="needs pycocoevalcap and Java")
def test_tokens_and_cider_equal_pycocoevalcap():
    captions = scored_pairs.draw_captions(MORE_CAPTIONS, seed=2) + scored_pairs.draw_strings(
        MORE_CAPTIONS, seed=2
    )

    # An initial at the end depends on the next caption in the file.
    captions = [
        caption for caption in captions if not re.search(r"(?:^|[^A-Za-z])[A-Za-z]\W*\.\W*$", caption)
    ]
    assert len(captions) >= 12_000

    differing = [
        (caption, expected, ptb.tokenize_caption(caption))
        for caption, expected in zip(captions, foreign_scorers.tokenize(captions), strict=True)
        if ptb.tokenize_caption(caption) != expected
    ]
    assert differing == []

    corpus = foreign_scorers.draw_corpus(300, seed=2)
    np.testing.assert_allclose(text.cider_d(*corpus), foreign_scorers.score_captions(*corpus), atol=1e-9)
