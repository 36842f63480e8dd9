"""The number of seeds that a claim needs."""

import pytest

from monkeylib import explore, profiles
from monkeylib.experiments import verdicts
from monkeylib.experiments.cell import Cell
from tests.explore.widgets.test_live import controls
from tests.support.grid_results import publish_cells


def test_seeds_and_spread_move(monkeypatch, tmp_path):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    profile = profiles.load_profile("smoke")
    cells = [Cell(variant, "ordinary", 0) for variant in ("per_tile", "no_adapters")]
    publish_cells(profile, cells, {})
    explorer = explore.show_power(profile, "LoRA")
    (seeds,), (spread,) = controls(explorer.widget, "IntSlider"), controls(explorer.widget, "FloatSlider")
    (facts,) = controls(explorer.widget, "HTML")
    before = facts.value
    seeds.value, spread.value = 9, 0.05
    assert (explorer.seeds, explorer.seed_spread) == (9, 0.05) and facts.value != before

    expected = verdicts.planned_effect(9, 0.05, explorer.image_error, explorer.num_images)
    assert explorer.effect(9, 0.05) == pytest.approx(expected)
    assert f"{expected:.3f} nats" in facts.value
    assert len(explorer.figure().axes[0].lines) == len(explorer.spreads) + 1
