"""CIDEr-D, the consensus score of captions (Vedantam et al., CVPR 2015), as pycocoevalcap computes it.

Captions are sequences of tokens; `ptb.tokenize_caption` makes them of strings.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Ngram = tuple[str, ...]

_MAX_N = 4  # n-grams of 1 to 4 words
_SIGMA = 6.0  # of the Gaussian length penalty


class _Vector(NamedTuple):
    """TF-IDF vector of a caption.

    Attributes:
        weights: weight of each n-gram, one dictionary for each n.
        norms: Euclidean norm of the weights, for each n.
        length: number of bigrams, which is what pycocoevalcap takes as a caption's length.
    """

    weights: list[dict[Ngram, float]]
    norms: list[float]
    length: int


def cider_d(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> np.ndarray:
    """Return the CIDEr-D of every image, 0 to 10; published tables print the mean over images times 100.

    For n-grams w of n = 1 to 4 words, let g_n(c) be the vector of TF-IDF weights of a caption c,

        g_n(c)[w] = count of w in c  x  (log N - log of the images with w in a reference),

    with N images; an n-gram that no reference has is counted as if one image had it. Of the caption c of an
    image with the references r_1 ... r_m,

        CIDEr-D = 10/m  sum over j  exp(-(l(c) - l(r_j))^2 / (2 sigma^2))
                  x  1/4  sum over n  <min(g_n(c), g_n(r_j)), g_n(r_j)> / (|g_n(c)| |g_n(r_j)|)

    where l is the length, sigma = 6, and the minimum is taken entry by entry, so that repeating a word of the
    reference earns nothing.

    Args:
        captions: one tokenised caption for each image.
        references: the tokenised reference captions of each image, from which the document frequencies come.

    Raises:
        ValueError: fewer than two images (every inverse document frequency, and so every score, would be
            log 1 = 0), an image without references, or unequal lengths.
    """
    if len(captions) != len(references):
        raise ValueError(
            f"CIDEr needs one caption for each image: got {len(captions)} for {len(references)} images."
        )

    if len(references) < 2:
        raise ValueError(
            f"CIDEr needs at least two images, since it weighs words by rarity: got {len(references)}."
        )

    without_reference = [index for index, group in enumerate(references) if not group]
    if without_reference:
        raise ValueError(
            f"CIDEr needs a reference caption for every image: image {without_reference[0]} has none."
        )

    reference_counts = [[_count_ngrams(reference) for reference in group] for group in references]

    # Document frequency: the number of images in whose references an n-gram occurs.
    document_frequency = Counter(ngram for group in reference_counts for ngram in set().union(*group))
    max_idf = math.log(len(references))
    idf = {ngram: max_idf - math.log(count) for ngram, count in document_frequency.items()}

    scores = []
    for caption, group in zip(captions, reference_counts, strict=True):
        vector = _tf_idf(_count_ngrams(caption), idf, max_idf)
        similarities = [_similarity(vector, _tf_idf(counts, idf, max_idf)) for counts in group]
        scores.append(10.0 * sum(similarities) / len(similarities))

    return np.asarray(scores)


def _count_ngrams(tokens: Sequence[str]) -> Counter[Ngram]:
    return Counter(
        tuple(tokens[start : start + n]) for n in range(1, _MAX_N + 1) for start in range(len(tokens) - n + 1)
    )


def _tf_idf(counts: Counter[Ngram], idf: Mapping[Ngram, float], max_idf: float) -> _Vector:
    """Weigh counts by the inverse document frequency; `max_idf` is that of n-grams in no reference."""
    weights: list[dict[Ngram, float]] = [{} for _ in range(_MAX_N)]
    for ngram, count in counts.items():
        weights[len(ngram) - 1][ngram] = count * idf.get(ngram, max_idf)

    norms = [math.sqrt(sum(weight * weight for weight in of_n.values())) for of_n in weights]
    bigrams = sum(count for ngram, count in counts.items() if len(ngram) == 2)
    return _Vector(weights, norms, bigrams)


def _similarity(caption: _Vector, reference: _Vector) -> float:
    """Return the clipped cosine, averaged over n, times the Gaussian penalty of the difference in length."""
    cosines = 0.0
    for n in range(_MAX_N):
        norm = caption.norms[n] * reference.norms[n]
        # Captions shorter than n words have no n-grams.
        if norm == 0:
            continue

        reference_weights = reference.weights[n]

        # The minimum clips repetitions: no n-gram earns more than it has in the reference.
        product = sum(
            min(weight, reference_weights[ngram]) * reference_weights[ngram]
            for ngram, weight in caption.weights[n].items()
            if ngram in reference_weights
        )
        cosines += product / norm

    # In bigrams, as pycocoevalcap counts.
    difference = caption.length - reference.length
    return cosines / _MAX_N * math.exp(-(difference**2) / (2 * _SIGMA**2))
