import pytest

from monkeylib import profiles, tables
from monkeylib.experiments import claims
from monkeylib.experiments.cell import Cell
from monkeylib.experiments.verdicts import CLAIMS
from tests.support.grid_results import QUESTIONS, publish_cells

SMOKE = profiles.load_profile("smoke")
SEEDS = range(3)


def rows_by_claim():
    return {row["claim"]: row for row in claims.claims_table(SMOKE)}


def test_every_claim_has_the_papers_statement():
    assert list(claims.PAPER) and set(claims.PAPER) == {claim.name for claim in CLAIMS}
    assert all(
        statement.text and statement.source and statement.checked for statement in claims.PAPER.values()
    )


def test_verdicts_rest_on_the_published_scores(outputs):
    variants = ("per_tile", "no_adapters", "shared")
    cells = [Cell(variant, "ordinary", seed) for variant in variants for seed in SEEDS]
    publish_cells(SMOKE, cells, {"per_tile": -0.5, "shared": -0.5})
    rows = rows_by_claim()

    lora = rows["LoRA"]
    assert lora["verdict"] == "supported" and lora["seeds"] == 3 and lora["n"] == QUESTIONS
    assert lora["difference"] == pytest.approx(0.5)
    assert (lora["exact_better"], lora["untrained"]) == (0.5, 0)
    assert lora["compared"] == "per_tile, trained - no_adapters, trained"
    assert rows["per tile"]["verdict"] == "not supported"
    assert rows["training"]["difference"] == pytest.approx(1, abs=0.05)

    # Claims about variants that have not been run.
    assert rows["tiles"]["verdict"] == "not run yet: one_view"
    assert rows["fixed quadrants"]["verdict"] == "not run yet: per_tile, shared_wide"
    assert rows["tiles"]["difference"] is None


def test_fewer_than_three_seeds_decide_nothing(outputs):
    cells = [Cell(variant, "ordinary", seed) for variant in ("per_tile", "no_adapters") for seed in (0, 1)]
    # A third seed that only one of the two has makes no pair.
    publish_cells(SMOKE, [*cells, Cell("per_tile", "ordinary", 2)], {"per_tile": -0.5})
    row = rows_by_claim()["LoRA"]

    assert row["verdict"] == "undecided: 2 of 3 seeds" and row["low"] > 0

    publish_cells(SMOKE, cells[::2], {"per_tile": -0.5})
    assert rows_by_claim()["LoRA"]["verdict"] == "undecided: 1 of 3 seeds"


def test_permuted_tiles_are_compared_with_the_same_model(outputs):
    publish_cells(SMOKE, [Cell("per_tile", "fixed", seed) for seed in SEEDS], {})
    row = rows_by_claim()["permuted tiles"]

    assert row["difference"] == pytest.approx(0.5)
    assert row["compared"] == "per_tile, trained - per_tile, LoRAs permuted"


def test_blind_baseline_stands_beside_the_scores(outputs):
    publish_cells(SMOKE, [Cell("per_tile", "ordinary", 0), Cell("no_adapters", "ordinary", 0)], {})
    assert claims.blind_share(SMOKE, "general") is None

    rows = [{"test_set": split, "kind": "all", "blind": 0.25} for split in claims.SPLITS]
    tables.write_table(rows, claims.BLIND, SMOKE.name)
    assert rows_by_claim()["LoRA"]["exact_match"] == "50.0 against 50.0; untrained 0.0; blind 25.0"
    assert rows_by_claim()["tiles"]["blind"] == 0.25

    blind, monkey, _ = claims.scores_table(SMOKE)
    assert blind["fine"] == "25.0" and monkey["fine"] == "0.0 → 50.0"

    blind, untrained = claims.references(SMOKE)
    assert blind == {"model": "no image", "fine": "25.0", "large": "25.0", "general": "25.0"}
    assert untrained["model"] == "untrained" and untrained["fine"] == "0.0"


def test_references_that_the_results_lack_are_left_out(outputs):
    assert claims.references(SMOKE) == []


def test_differences_are_to_variants_with_the_same_questions(outputs):
    cells = [Cell(variant, "ordinary", 0) for variant in ("per_tile", "shared", "tiles_3x3")]
    publish_cells(SMOKE, cells, {"shared": -1.25})
    rows = claims.differences_to(SMOKE, splits=["fine"])

    assert [(row["variant"], row["split"], row["seeds"]) for row in rows] == [("shared", "fine", 1)]
    assert rows[0]["difference"] == pytest.approx(-0.25)
    assert rows[0]["low"] <= -0.25 <= rows[0]["high"]

    names = claims.comparable_variants(SMOKE)
    assert "shared" in names and not {"per_tile", "tiles_3x3"} & set(names)


def test_scores_by_height_are_before_and_after_training(outputs):
    publish_cells(SMOKE, [Cell("per_tile", "ordinary", seed) for seed in SEEDS], {})
    rows = claims.scores_by_height(SMOKE)

    shares = {(row["moment"], row["height"]): row["value"] for row in rows}
    # Heights alternate, as right and wrong answers do.
    assert shares == {
        **{("start", height): 0 for height in (10, 12, 20, 24)},
        **{("end", height): share for height, share in ((10, 0), (12, 1), (20, 0), (24, 1))},
    }
    assert {(row["n"], row["seeds"]) for row in rows} == {(QUESTIONS // 2, 3)}


def test_missing_cells_are_those_without_runs(outputs):
    publish_cells(SMOKE, [Cell("one_view", "ordinary", seed) for seed in SEEDS], {})
    rows = {(row["variant"], row["rendering"]): row for row in claims.missing_cells(SMOKE)}

    assert ("one view at tile size", "ordinary") not in rows
    monkey = rows["tiles + global view, LoRA per tile (Monkey)", "fixed"]
    assert (monkey["runs"], monkey["planned"]) == (0, 5)


def test_table_of_claims_is_written(outputs):
    publish_cells(SMOKE, [Cell("per_tile", "ordinary", 0)], {})
    claims.write_claims(SMOKE)

    assert len(tables.read_table(claims.TABLE, SMOKE.name)) == len(CLAIMS)


def test_undecided_claims_say_why(outputs):
    cells = [Cell(variant, "ordinary", seed) for variant in ("per_tile", "no_adapters") for seed in SEEDS]
    publish_cells(SMOKE, [*cells, Cell("one_view", "ordinary", 0)], {"per_tile": -0.5})
    rows = {row["claim"]: row for row in claims.undecided_claims(SMOKE, claims.claims_table(SMOKE))}

    assert "LoRA" not in rows
    assert rows["tiles"]["why"].startswith("fewer than 3 seeds")
    assert (rows["tiles"]["runs"], rows["tiles"]["planned"]) == (4, 8)
    assert rows["per tile"]["why"] == "a variant has not been trained"
    # Enough seeds that differ too much: the rule's own reason.
    wide = claims.claims_table(SMOKE)
    wide[0] |= {"verdict": "undecided", "seeds": 3, "reason": "The interval is wide."}
    assert claims.undecided_claims(SMOKE, wide)[0]["why"] == "the interval is wide"


def test_error_over_images_is_that_of_their_means(outputs):
    cells = [Cell(variant, "ordinary", 0) for variant in ("per_tile", "no_adapters")]
    publish_cells(SMOKE, cells, {"per_tile": -0.5})
    error, images = claims.error_over_images(SMOKE, "LoRA")
    # Both have the same noise: their difference is the same everywhere.
    assert images == QUESTIONS // 2 and error == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="no runs yet: one_view"):
        claims.error_over_images(SMOKE, "tiles")


def test_few_seeds_have_an_interval_over_images_alone(outputs):
    for seeds in (2, 3):
        cells = [
            Cell(variant, "ordinary", seed) for variant in ("per_tile", "shared") for seed in range(seeds)
        ]
        publish_cells(SMOKE, cells, {"per_tile": -0.5})
        (row,) = claims.differences_to(SMOKE, splits=["fine"])
        assert row["seeds"] == seeds and row["low"] <= row["difference"] <= row["high"]
        assert row["high"] - row["low"] < 0.1
