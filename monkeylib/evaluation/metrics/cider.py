"""CIDEr-D, the consensus score of captions (Vedantam et al., CVPR 2015), as pycocoevalcap computes it."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ORDERS = 4
_SIGMA = 6.0
_SPLITS = [
    (re.compile(r"\bcannot\b"), "can not"),
    (re.compile(r"\b(gon|wan)na\b"), r"\1 na"),
    (re.compile(r"\bgotta\b"), "got ta"),
    (re.compile(r"n't\b"), " n't"),
    (re.compile(r"(?<=\w)'(s|re|ve|ll|d|m)\b"), r" '\1"),
]
_TOKEN = re.compile(
    r"""(?:[a-z]\.){2,}                     # u.s.
      | (?:mr|mrs|ms|dr|st|jr|sr)\.         # titles keep their full stop
      | n't(?=\s|$) | '(?:s|re|ve|ll|d|m)(?=\s|$)
      | \d+(?:[.,:]\d+)*                    # 5.99  10:15  1,000
      | [^\W_]+(?:[-.&/][^\W_]+)*            # coca-cola  www.example.com
      | \.{2,} | -{2,} | !+ | \?+ | \S""",
    re.VERBOSE,
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_DROPPED = {"'", '"', "`", "''", "``", ".", "...", "?", "!", ",", ":", "-", "--", ";"}


class _Caption(NamedTuple):
    weights: list[dict[tuple[str, ...], float]]  # TF-IDF of each n-gram, one dictionary per order
    norms: list[float]
    bigrams: int  # the length that the penalty compares: pycocoevalcap counts it in bigrams


def caption_tokens(text: str) -> list[str]:
    """Split a caption as the Penn Treebank tokeniser of the caption evaluation does.

    Lower case, clitics apart ("it's" -> "it", "'s"), punctuation dropped; brackets stay ("(" -> "-lrb-").
    """
    text = text.lower()
    for pattern, replacement in _SPLITS:
        text = pattern.sub(replacement, text)
    tokens = (_BRACKETS.get(token, token) for token in _TOKEN.findall(text))
    return [token for token in tokens if token not in _DROPPED]


def _counts(tokens: Sequence[str]) -> Counter:
    return Counter(
        tuple(tokens[start : start + n])
        for n in range(1, _ORDERS + 1)
        for start in range(len(tokens) - n + 1)
    )


def _weigh(counts: Counter, idf: dict[tuple[str, ...], float], unseen: float) -> _Caption:
    weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(_ORDERS)]
    for gram, count in counts.items():
        weights[len(gram) - 1][gram] = count * idf.get(gram, unseen)
    norms = [math.sqrt(sum(w * w for w in order.values())) for order in weights]
    return _Caption(weights, norms, sum(count for gram, count in counts.items() if len(gram) == 2))


def _similarity(hypothesis: _Caption, reference: _Caption) -> float:
    """Mean over the orders of the clipped cosine, damped by a Gaussian of the difference in length."""
    total = 0.0
    for n in range(_ORDERS):
        norm = hypothesis.norms[n] * reference.norms[n]
        if norm:
            theirs = reference.weights[n]
            common = (
                (weight, theirs[gram]) for gram, weight in hypothesis.weights[n].items() if gram in theirs
            )
            total += sum(min(ours, other) * other for ours, other in common) / norm
    return total / _ORDERS * math.exp(-((hypothesis.bigrams - reference.bigrams) ** 2) / (2 * _SIGMA**2))


def cider_d(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> np.ndarray:
    """CIDEr-D of every image, 0 to 10; their mean is the corpus' score (published tables print it times 100).

    Args:
        hypotheses: one tokenised caption for each image.
        references: the tokenised reference captions of each image; document frequencies come from these.

    Raises:
        ValueError: fewer than two images (every inverse document frequency would be log 1 = 0, and so every
            score), an image without reference, or unequal lengths.
    """
    if len(hypotheses) != len(references):
        raise ValueError(
            f"CIDEr needs one caption for each image: got {len(hypotheses)} for {len(references)} images."
        )
    if len(references) < 2:
        raise ValueError(
            f"CIDEr needs at least two images, since it weighs words by rarity: got {len(references)}."
        )
    bare = [index for index, group in enumerate(references) if not group]
    if bare:
        raise ValueError(f"CIDEr needs a reference caption for every image: image {bare[0]} has none.")

    counted = [[_counts(reference) for reference in group] for group in references]
    frequency = Counter(gram for group in counted for gram in set().union(*group))
    unseen = math.log(len(references))
    idf = {gram: unseen - math.log(count) for gram, count in frequency.items()}
    scores = []
    for hypothesis, group in zip(hypotheses, counted, strict=True):
        ours = _weigh(_counts(hypothesis), idf, unseen)
        theirs = [_weigh(counts, idf, unseen) for counts in group]
        scores.append(10.0 * sum(_similarity(ours, reference) for reference in theirs) / len(theirs))
    return np.asarray(scores)
