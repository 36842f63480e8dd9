"""Claims about the raised LLaVA, decided as those of the grid."""

import numpy as np
import pytest

from monkeylib import profiles, resources, tables
from monkeylib.experiments import raised_claims, raised_llava
from monkeylib.experiments.cell import Cell
from monkeylib.experiments.verdicts import CLAIMS
from tests.support.grid_results import publish_cells

SMOKE = profiles.load_profile("smoke")
SEEDS = range(3)


@pytest.fixture()
def profile():
    counts = {**SMOKE.ablation.counts, "fine": 20, "large": 20}
    return SMOKE.model_copy(update={"ablation": SMOKE.ablation.model_copy(update={"counts": counts})})


def publish_llava(profile, gains):
    """Write scores of trainings, each of which has added a gain to a log-likelihood of -2."""
    questions = [{"split": "fine", "image": f"image-{number // 2}"} for number in range(20)]
    tables.write_csv(questions, raised_llava.questions_path(profile))
    rng = np.random.default_rng(0)
    for variant, gain in gains.items():
        for seed in SEEDS:
            path = raised_llava.scores_path(profile, Cell(variant, "ordinary", seed))
            path.parent.mkdir(parents=True, exist_ok=True)
            start, noise = np.full(20, -2.0), rng.normal(0, 0.01, 20)
            np.savez(
                path,
                start_fine_log_likelihood=start,
                start_fine_exact=np.zeros(20),
                end_fine_log_likelihood=start + gain + noise,
                end_fine_exact=np.ones(20),
            )


def rows_by_claim(profile):
    return {row["claim"]: row for row in raised_claims.claims_table(profile)}


def test_verdicts_rest_on_scores_of_the_same_questions(outputs, profile):
    # Monkey gains 1 nat per character, from -2 to -1.
    publish_cells(profile, [Cell("per_tile", "ordinary", seed) for seed in SEEDS], {})
    publish_llava(profile, {"llava_per_tile": 0.4, "llava_no_adapters": 0.4})
    rows = rows_by_claim(profile)

    learns = rows["learns as Monkey"]
    assert learns["difference"] == pytest.approx(0.6, abs=0.02)
    assert (learns["verdict"], learns["seeds"], learns["n"]) == ("not supported", 3, 20)
    assert learns["compared"] == "per_tile, gain of training - llava_per_tile, gain of training"
    assert rows["as Monkey"]["verdict"] == "not supported"
    assert rows["training"]["verdict"] == "supported"
    assert rows["LoRA"]["verdict"] == "not supported"
    assert {row["confidence"] for row in rows.values()} == {1 - 0.05 / (len(CLAIMS) + len(rows))}

    publish_llava(profile, {"llava_per_tile": 1.0})
    assert rows_by_claim(profile)["learns as Monkey"]["verdict"] == "supported"


def test_what_has_not_been_trained_is_named(outputs, profile):
    publish_cells(profile, [Cell("no_adapters", "ordinary", 0)], {})
    rows = rows_by_claim(profile)
    assert rows["as Monkey"]["verdict"] == "not run yet: per_tile, llava_per_tile"
    assert rows["LoRA"]["verdict"] == "not run yet: llava_per_tile, llava_no_adapters"


@pytest.mark.parametrize("series", ["", "no-such-series"])
def test_committed_table_is_that_of_the_committed_scores(series, monkeypatch):
    """Also in a series of notebooks, whose own results are in another folder."""
    monkeypatch.setenv(resources.REPRODUCES, series)
    rows = tables.read_table(raised_claims.TABLE, "nano")
    for row, computed in zip(rows, raised_claims.claims_table(profiles.load_profile("nano")), strict=True):
        assert (row["claim"], row["verdict"]) == (computed["claim"], computed["verdict"])
        assert row["difference"] == pytest.approx(computed["difference"], rel=1e-5)
