"""The rule of verdicts: how often it errs and how often it finds an effect, by simulation, and its edges."""

import numpy as np
import pytest

from monkeylib.data.synthetic.renderings import RENDERINGS
from monkeylib.evaluation import statistics
from monkeylib.experiments import verdicts
from monkeylib.experiments.variants import VARIANTS
from monkeylib.experiments.verdicts import CLAIMS, Claim, decide

CLAIM = Claim("x", "X is better.", ("per_tile", "end"), ("shared", "end"), smallest_effect=0.05)
NO_ADVANTAGE = Claim(
    "y", "X is no better.", ("per_tile", "end"), ("shared", "end"), smallest_effect=0.05, is_advantage=False
)
IMAGES = [question // 2 for question in range(100)]


def simulate_scores(effect, random, seeds=5, seed_spread=0.03, spread=0.3):
    """Return scores of two variants `[seeds, 100]` whose difference varies by seed, image and question."""
    worse = random.normal(-1, 1, (1, 100)) + random.normal(0, 0.2, (seeds, 100))
    of_seeds = random.normal(0, seed_spread, (seeds, 1))
    of_images = np.repeat(random.normal(0, spread / 2, 50), 2)
    return worse + effect + of_seeds + of_images + random.normal(0, spread, (seeds, 100)), worse


def test_claims_name_variants_that_are_trained():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.rendering in RENDERINGS and claim.smallest_effect > 0
        assert claim.better != claim.worse
        for variant, moment in (claim.better, claim.worse):
            assert claim.rendering in VARIANTS[variant].renderings, claim.name
            assert VARIANTS[variant].seeds >= 3
            assert moment != "permuted" or VARIANTS[variant].permuted


def test_no_effect_is_rarely_called_one():
    """Of ten claims without any effect, one or more is supported in at most 5 % of grids."""
    random = np.random.default_rng(0)
    grids = [
        [decide(CLAIM, *simulate_scores(0, random), clusters=IMAGES, num_claims=10) for _ in range(10)]
        for _ in range(60)
    ]
    errors = sum(any(verdict.outcome == "supported" for verdict in grid) for grid in grids)

    assert errors <= 3


def test_effect_of_interest_is_rarely_denied():
    random = np.random.default_rng(1)
    decisions = [
        decide(CLAIM, *simulate_scores(0.05, random), clusters=IMAGES, num_claims=1) for _ in range(300)
    ]
    denied = sum(verdict.outcome == "not supported" for verdict in decisions)

    # One end of a 95 % interval errs in 2.5 % of cases; three standard errors of 300 cases above that.
    assert denied <= 300 * 0.025 + 3 * np.sqrt(300 * 0.025)


@pytest.mark.parametrize("num_claims", [1, 10])
def test_detectable_effect_is_found_four_times_in_five(num_claims):
    random = np.random.default_rng(2)
    without_effect = [np.subtract(*simulate_scores(0, random)) for _ in range(100)]
    effects = [
        verdicts.detectable_effect(differences, clusters=IMAGES, num_claims=num_claims)
        for differences in without_effect
    ]
    effect = float(np.mean(effects))

    decisions = [
        decide(CLAIM, *simulate_scores(effect, random), clusters=IMAGES, num_claims=num_claims)
        for _ in range(200)
    ]
    power = np.mean([verdict.outcome == "supported" for verdict in decisions])
    assert 0.7 < power < 0.95

    # More power asks for a larger effect.
    larger = verdicts.detectable_effect(without_effect[0], clusters=IMAGES, num_claims=num_claims, power=0.95)
    assert larger > effects[0]


@pytest.mark.parametrize(
    ("effect", "outcome", "opposite"),
    [
        (0.5, "supported", "not supported"),
        (0.0, "not supported", "supported"),
        (-0.5, "not supported", "supported"),
        # Larger than 0, and smaller than what is of interest.
        (0.02, "not supported", "supported"),
    ],
)
def test_clear_differences_are_decided(effect, outcome, opposite):
    scores = simulate_scores(effect, np.random.default_rng(3), seed_spread=0.001, spread=0.01)
    verdict = decide(CLAIM, *scores, clusters=IMAGES)

    assert verdict.outcome == outcome
    assert decide(NO_ADVANTAGE, *scores, clusters=IMAGES).outcome == opposite
    assert ("reverse" in verdict.reason) == (effect < 0)
    assert verdict.interval.low < effect < verdict.interval.high


def test_wide_interval_is_undecided_and_says_what_could_have_been_found():
    scores = simulate_scores(0.05, np.random.default_rng(4), seeds=3, seed_spread=0.2)
    verdict = decide(CLAIM, *scores, clusters=IMAGES)

    assert verdict.outcome == "undecided" and verdict.detectable > 0.2
    assert verdict.interval.low < 0 < CLAIM.smallest_effect < verdict.interval.high
    assert decide(NO_ADVANTAGE, *scores, clusters=IMAGES).outcome == "undecided"


def test_interval_is_corrected_for_the_number_of_claims():
    better, worse = simulate_scores(0.1, np.random.default_rng(5))
    alone = decide(CLAIM, better, worse, clusters=IMAGES, num_claims=1)
    among_ten = decide(CLAIM, better, worse, clusters=IMAGES, num_claims=10)

    assert alone.interval == statistics.crossed_interval(better - worse, clusters=IMAGES)
    assert among_ten.interval == statistics.crossed_interval(
        better - worse, clusters=IMAGES, confidence=0.995
    )
    assert among_ten.detectable > alone.detectable
    assert decide(CLAIM, better, worse, clusters=IMAGES).confidence == 1 - 0.05 / len(CLAIMS)


def test_one_seed_decides_nothing():
    scores = simulate_scores(0.5, np.random.default_rng(6), seeds=1, spread=0.01)
    verdict = decide(CLAIM, *scores, clusters=IMAGES)

    assert verdict.outcome == "undecided" and "One seed" in verdict.reason
    assert verdict.interval.low > 0.4 and verdict.detectable == np.inf and verdict.seeds == 1
    assert verdict.row["detectable_effect"] is None


def test_equal_scores_are_one_model():
    _, scores = simulate_scores(0, np.random.default_rng(7))
    verdict = decide(CLAIM, scores, scores, clusters=IMAGES)

    assert verdict.outcome == "not supported" and "act as one model" in verdict.reason
    assert verdict.interval == (0, 0, 0, 100)


def test_row_holds_what_the_verdict_rests_on():
    scores = simulate_scores(0.5, np.random.default_rng(8))
    verdict = decide(CLAIMS[0], *scores, clusters=IMAGES)

    assert verdict.row["verdict"] == "supported" and verdict.row["claim"] == "tiles"
    assert verdict.row["low"] < verdict.row["difference"] < verdict.row["high"]
    assert verdict.row["seeds"] == 5 and verdict.row["n"] == 100


@pytest.mark.parametrize(
    ("better", "worse", "options", "complaint"),
    [
        (
            np.zeros((3, 4)),
            np.zeros((2, 4)),
            {},
            "the same seeds and questions: got shapes (3, 4) and (2, 4)",
        ),
        (np.zeros(4), np.zeros(4), {}, "[seeds, questions]"),
        (np.full((3, 4), np.nan), np.zeros((3, 4)), {}, "must be finite"),
        (np.zeros((3, 4)), np.zeros((3, 4)), {"num_claims": 0}, "at least one claim"),
        (np.zeros((3, 4)), np.zeros((3, 4)), {"clusters": "aaaa"}, "at least two seeds and two clusters"),
    ],
)
def test_invalid_scores_raise(better, worse, options, complaint):
    with pytest.raises(ValueError) as error:
        decide(CLAIM, better, worse, **options)
    assert complaint in str(error.value)


def test_power_that_is_no_probability_raises():
    with pytest.raises(ValueError, match="between 0 and 1: got 80"):
        verdicts.detectable_effect(np.zeros((3, 4)), power=80)


def test_planned_effect_is_that_of_a_grid_with_this_spread():
    random = np.random.default_rng(0)
    seeds, images = 5, 200
    of_seeds, of_images = random.normal(0, 0.03, (4000, seeds)), random.normal(0, 0.3, (4000, images))
    planned = verdicts.planned_effect(seeds, 0.03, 0.3 / images**0.5, images, num_claims=1)

    # Told from 0 in four grids of five, if the true difference is that.
    supported = 0
    for rows, columns in zip(of_seeds[:400], of_images[:400], strict=True):
        differences = planned + rows[:, None] + columns[None] + random.normal(0, 1e-3, (seeds, images))
        supported += statistics.crossed_interval(differences).low > 0
    assert 0.72 <= supported / 400 <= 0.9

    # More seeds and less spread tell smaller differences.
    assert verdicts.planned_effect(10, 0.03, 0.02, images) < verdicts.planned_effect(5, 0.03, 0.02, images)
    assert verdicts.planned_effect(5, 0.01, 0.02, images) < verdicts.planned_effect(5, 0.03, 0.02, images)
    with pytest.raises(ValueError, match="two of either: got 1 and 200"):
        verdicts.planned_effect(1, 0.03, 0.02, images)
