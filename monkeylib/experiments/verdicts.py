"""Verdicts on claims about the variants of the grid, by a rule that was stated before its scores were read.

**The rule.** A claim compares two variants, or two moments of one, on one split of the test questions. The
outcome is the log-likelihood of the true answer per character, in nats; exact match is reported beside it
and decides nothing. Both variants are trained from the same seeds and answer the same questions, so what
counts is their paired difference [seeds, questions]; its interval is over new seeds and new images
(`statistics.crossed_interval`).

* *not supported*: the interval lies below the smallest effect of interest.
* *supported*: it does not, and lies above 0.
* *undecided*: neither; always with a single seed, which says nothing about others.

A claim that there is no advantage has the first two exchanged.

**Many claims.** The intervals are Bonferroni's: with m claims each has the confidence 1 - 0.05 / m, so that
all of them hold at once in 95 % of grids. Holm's procedure would decide a little more often, but only that a
difference is not 0; *not supported* rests on the other end of an interval, and the interval that decides
stands beside the verdict.

**Power.** Beside each verdict stands the smallest true difference that would have been told from 0 in 80 % of
such grids, given the variance that was observed (`detectable_effect`): what *undecided* leaves open.

**Smallest effects of interest.** 0.1 nats per character where views or labels change: an answer of five
characters becomes 1.6 times as likely. 0.05 where only LoRA changes: 1.3 times. They were chosen before any
score of the grid had been read.

**When they were stated.** The rule and the first claims were written down while the first four of the grid's
144 runs trained, half an hour after they had begun. Half an hour later, with seven begun, *visual tokens* and
*richer captions* were added, and *interpolation* got as many visual tokens as Monkey. *permuted, ordinary* is
a control that was added after the first runs of seed 0 had been read. The column `commit` of the grid's table
names the code that each run started with.

Images of another size are other images, so the curve over resolutions is no paired comparison, and no claim.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri

from monkeylib.evaluation import statistics
from monkeylib.tables import Row

Outcome = Literal["supported", "not supported", "undecided"]
# Untrained, trained, trained with its tiles' LoRAs permuted, and trained minus untrained.
Moment = Literal["start", "end", "permuted", "gain"]

OUTCOMES: tuple[Outcome, ...] = ("supported", "not supported", "undecided")
ERROR_RATE = 0.05  # of all claims together
POWER = 0.8

_VIEWS = 0.1  # views or labels
_LORA = 0.05


@dataclass(frozen=True)
class Claim:
    """A claim: one variant is better than another, or no better.

    Attributes:
        name: name in tables.
        statement: the claim as a sentence.
        better: the variant, and the moment at which it is scored.
        worse: the one that it is compared with.
        smallest_effect: smallest difference of interest, in nats per character.
        split: the questions that decide.
        rendering: the rendering of synthetic data.
        is_advantage: whether the claim is that there is an advantage; False if it is that there is none.
    """

    name: str
    statement: str
    better: tuple[str, Moment]
    worse: tuple[str, Moment]
    smallest_effect: float
    split: str = "fine"
    rendering: str = "ordinary"
    is_advantage: bool = True


CLAIMS = (
    # Views
    Claim(
        "tiles",
        "Tiles and a global view read small text better than one view at tile size that is trained as long.",
        ("no_adapters", "end"),
        ("one_view", "end"),
        _VIEWS,
    ),
    Claim(
        "views alone",
        "Before any training, tiles and a global view read small text better than one view at tile size.",
        ("per_tile", "start"),
        ("one_view", "start"),
        _VIEWS,
    ),
    Claim(
        "cutting",
        "Tiles and a global view read small text better without any training than one view does after it.",
        ("no_adapters", "start"),
        ("one_view", "end"),
        _VIEWS,
    ),
    Claim(
        "training",
        "Training adds to what tiles and a global view read without it.",
        ("no_adapters", "end"),
        ("no_adapters", "start"),
        _VIEWS,
    ),
    Claim(
        "interpolation",
        "Tiles with LoRA read small text better than one interpolated view with LoRA and as many tokens.",
        ("per_tile", "end"),
        ("interpolated_lora_tokens", "end"),
        _VIEWS,
    ),
    Claim(
        "global view",
        "A global view beside the tiles helps to read large text.",
        ("per_tile", "end"),
        ("tiles_only", "end"),
        _VIEWS,
        split="large",
    ),
    Claim(
        "visual tokens",
        "All visual tokens read small text better than a quarter of them, averaged.",
        ("per_tile", "end"),
        ("pooled", "end"),
        _VIEWS,
    ),
    Claim(
        "pretrained queries",
        "The base model's queries read small text better than queries that start at random.",
        ("per_tile", "end"),
        ("fresh_queries", "end"),
        _VIEWS,
    ),
    # Labels
    Claim(
        "richer captions",
        "Training on captions of all levels of detail teaches more about small text than on short ones.",
        ("labels_text", "end"),
        ("labels_short", "end"),
        _VIEWS,
    ),
    # LoRA
    Claim(
        "LoRA",
        "A LoRA for each tile is better than none.",
        ("per_tile", "end"),
        ("no_adapters", "end"),
        _LORA,
    ),
    Claim(
        "per tile",
        "A LoRA for each tile is better than a shared one of the same rank.",
        ("per_tile", "end"),
        ("shared", "end"),
        _LORA,
    ),
    Claim(
        "equal parameters",
        "A LoRA for each tile is better than a shared one with as many parameters.",
        ("per_tile", "end"),
        ("shared_wide", "end"),
        _LORA,
    ),
    # The mechanism: LoRA per tile can only learn what depends on the tile.
    Claim(
        "fixed quadrants",
        "Where each quadrant has its own rendering, LoRA per tile is better than a shared one with as many "
        "parameters.",
        ("per_tile", "end"),
        ("shared_wide", "end"),
        _LORA,
        rendering="fixed",
    ),
    Claim(
        "dealt quadrants",
        "Where the same renderings are dealt at random, LoRA per tile is no better than a shared one with as "
        "many parameters.",
        ("per_tile", "end"),
        ("shared_wide", "end"),
        _LORA,
        rendering="dealt",
        is_advantage=False,
    ),
    Claim(
        "permuted tiles",
        "Where each quadrant has its own rendering, a LoRA serves its own tile better than another one.",
        ("per_tile", "end"),
        ("per_tile", "permuted"),
        _LORA,
        rendering="fixed",
    ),
    # Its control, added late: permuting cost about as much here.
    Claim(
        "permuted, ordinary",
        "In ordinary images, whose quadrants are all drawn alike, a LoRA serves its own tile no better than "
        "another one.",
        ("per_tile", "end"),
        ("per_tile", "permuted"),
        _LORA,
        is_advantage=False,
    ),
)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Attributes:
        claim: the claim.
        outcome: supported, not supported or undecided.
        interval: the mean difference, in nats per character, with its interval.
        confidence: of the interval, corrected for the number of claims.
        detectable: the smallest difference with 80 % power, infinite with a single seed.
        seeds: number of seeds.
        reason: a sentence that says what the outcome rests on.
    """

    claim: Claim
    outcome: Outcome
    interval: statistics.Interval
    confidence: float
    detectable: float
    seeds: int
    reason: str

    @property
    def row(self) -> Row:
        """The row of a table of verdicts; without a detectable effect if there is a single seed."""
        return {
            "claim": self.claim.name,
            "rendering": self.claim.rendering,
            "split": self.claim.split,
            "difference": self.interval.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "confidence": self.confidence,
            "smallest_effect": self.claim.smallest_effect,
            "detectable_effect": self.detectable if np.isfinite(self.detectable) else None,
            "seeds": self.seeds,
            "n": self.interval.n,
            "verdict": self.outcome,
        }


def decide(
    claim: Claim,
    better: np.ndarray,
    worse: np.ndarray,
    *,
    clusters: Sequence[Hashable] | None = None,
    num_claims: int = len(CLAIMS),
) -> Verdict:
    """Return the verdict on a claim.

    Args:
        claim: the claim.
        better: scores of its first variant, `[seeds, questions]`.
        worse: scores of the other, of the same seeds and questions, in the same order.
        clusters: the image of each question; by default each question has its own.
        num_claims: number of claims that are decided together.

    Raises:
        ValueError: the scores aren't of the same seeds and questions, or one isn't finite, or all questions
            are about one image.
    """
    differences = _pair(better, worse)
    confidence = corrected_confidence(num_claims)
    if len(differences) == 1:
        interval = statistics.difference_interval(
            differences[0], clusters=clusters, is_share=False, confidence=confidence
        )
        reason = "One seed says nothing about others: the interval is over images alone."
        return Verdict(claim, "undecided", interval, confidence, np.inf, 1, reason)

    interval = statistics.crossed_interval(differences, clusters=clusters, confidence=confidence)
    detectable = detectable_effect(differences, clusters=clusters, num_claims=num_claims)
    outcome, reason = judge(claim, interval)
    if not differences.any():
        reason = "Both score the same on every question of every seed: they act as one model."
    return Verdict(claim, outcome, interval, confidence, detectable, len(differences), reason)


def judge(claim: Claim, interval: statistics.Interval) -> tuple[Outcome, str]:
    """Return the outcome of the rule, and the sentence that it rests on."""
    if interval.high < claim.smallest_effect:
        outcome: Outcome = "not supported" if claim.is_advantage else "supported"
        if interval.high < 0:
            return outcome, "The interval lies below 0: the order is the reverse."
        if interval.low > 0:
            return outcome, "The interval lies above 0, but below the smallest effect of interest."
        return outcome, "The interval lies below the smallest effect of interest."

    if interval.low > 0:
        return "supported" if claim.is_advantage else "not supported", "The interval lies above 0."

    return "undecided", "The interval holds both 0 and the smallest effect of interest."


def detectable_effect(
    differences: np.ndarray,
    *,
    clusters: Sequence[Hashable] | None = None,
    num_claims: int = len(CLAIMS),
    power: float = POWER,
) -> float:
    """Return the smallest true difference whose interval would lie above 0 with the given probability.

    It is half the width of the interval, plus the standard error of the mean times the normal quantile of the
    power: so far above 0 must the true difference be, for the mean to be far enough above it that often.

    Args:
        differences: paired differences `[seeds, questions]`, of at least two seeds.
        clusters: see `decide`.
        num_claims: see `decide`.
        power: the probability.

    Raises:
        ValueError: a single seed or image, a number that isn't finite, or a power outside (0, 1).
    """
    if not 0 < power < 1:
        raise ValueError(f"The power must lie between 0 and 1: got {power}.")

    interval = statistics.crossed_interval(
        differences, clusters=clusters, confidence=corrected_confidence(num_claims)
    )
    variance = statistics.crossed_variance(*statistics.sum_over_clusters(differences, clusters))
    standard_error = np.sqrt(variance.seeds + variance.clusters)
    return float(interval.high - interval.value + ndtri(power) * standard_error)


def planned_effect(
    seeds: int,
    seed_spread: float,
    image_error: float,
    num_images: int,
    *,
    num_claims: int = len(CLAIMS),
    power: float = POWER,
) -> float:
    """Return the detectable effect of a grid of so many seeds, whose spread is assumed.

    Args:
        seeds: number of seeds, at least two.
        seed_spread: standard deviation of the difference from seed to seed, in nats per character.
        image_error: standard error of the mean difference over images.
        num_images: number of images.
        num_claims: see `decide`.
        power: see `detectable_effect`.

    Raises:
        ValueError: fewer than two seeds or images.
    """
    if min(seeds, num_images) < 2:
        raise ValueError(
            f"An interval over seeds and images needs two of either: got {seeds} and {num_images}."
        )
    variance = statistics.CrossedVariance(
        seeds=np.asarray(seed_spread**2 / seeds),
        clusters=np.asarray(image_error**2),
        num_seeds=seeds,
        num_clusters=num_images,
    )
    half_width = variance.half_width(corrected_confidence(num_claims))
    return float(half_width + ndtri(power) * np.sqrt(variance.seeds + variance.clusters))


def corrected_confidence(num_claims: int) -> float:
    """Return the confidence of each of so many intervals, of which all hold at once in 95 % of cases.

    Raises:
        ValueError: no claims.
    """
    if num_claims < 1:
        raise ValueError(f"Expected at least one claim: got {num_claims}.")
    return 1 - ERROR_RATE / num_claims


def _pair(better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """Return paired differences `[seeds, questions]`."""
    better, worse = np.asarray(better, dtype=float), np.asarray(worse, dtype=float)
    if better.shape != worse.shape or better.ndim != 2 or not better.size:
        raise ValueError(
            "Expected scores [seeds, questions] of the same seeds and questions: got shapes "
            f"{better.shape} and {worse.shape}."
        )
    return better - worse
