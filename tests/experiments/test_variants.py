"""The variants of the ablation, and the ablation in its smallest form."""

import pytest

from monkeylib import profiles, tables
from monkeylib.experiments import variants
from monkeylib.experiments.variants import VARIANTS, variant_profile
from monkeylib.profiles import build
from monkeylib.training.batches import synthetic_data
from tests.support.smoke_experiments import COUNTS, smallest_profile

SMOKE = profiles.load_profile("smoke")

SIZE = {"image_width", "image_height"}  # set explicitly, with unchanged values
CHANGED_FIELDS = {
    "one_view": {"views", "lora.mode"} | SIZE,
    "interpolated": {"views", "lora.mode", "tile_size"} | SIZE,
    "progressive": {"views", "lora.mode", "tile_size", "training.view_sides"} | SIZE,
    "multiscale": {"views", "lora.mode", "tile_size", "training.view_sides", "training.view_order"} | SIZE,
    "tiles_only": {"views"} | SIZE,
    "released_global": {"global_from"} | SIZE,
    "no_adapters": {"lora.mode"} | SIZE,
    "shared": {"lora.mode"} | SIZE,
    "per_tile": set(),
}


def _fields(profile):
    """Fields of a profile by dotted name."""
    fields = {}
    for name, value in profile.model_dump().items():
        if isinstance(value, dict):
            fields |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            fields[name] = value

    return fields


@pytest.mark.parametrize("profile", ["smoke", "nano"])
@pytest.mark.parametrize("name", VARIANTS)
def test_variant_changes_only_the_fields_it_is_about(profile, name):
    base = profiles.load_profile(profile)
    changed = variant_profile(base, name)

    base_fields = _fields(base)
    changed_fields = _fields(changed)
    expected = set(CHANGED_FIELDS[name])
    if base.training.steps != base.ablation.steps:
        expected.add("training.steps")
    if base.ablation.warmup is not None:
        expected.add("training.warmup")

    assert {name for name in base_fields if base_fields[name] != changed_fields[name]} == expected

    assert changed.image_size == base.image_size
    assert changed.training.steps == base.ablation.steps
    assert variant_profile(base, name, steps=7).training.steps == 7


def test_variants_have_the_views_and_lora_modes_of_their_titles():
    nano = profiles.load_profile("nano")
    changed = {name: variant_profile(nano, name) for name in VARIANTS}

    assert set(CHANGED_FIELDS) == set(VARIANTS)

    views = {name: profile.visual_tokens // nano.queries for name, profile in changed.items()}
    # One global view, four tiles, or both.
    assert views == {
        "one_view": 1,
        "interpolated": 1,
        "progressive": 1,
        "multiscale": 1,
        "tiles_only": 4,
        "released_global": 5,
        "no_adapters": 5,
        "shared": 5,
        "per_tile": 5,
    }
    assert {name: profile.lora.mode for name, profile in changed.items()} == {
        "one_view": "none",
        "interpolated": "none",
        "progressive": "full",
        "multiscale": "full",
        "tiles_only": "per_tile",
        "released_global": "per_tile",
        "no_adapters": "none",
        "shared": "shared",
        "per_tile": "per_tile",
    }
    for name in ("progressive", "multiscale"):
        assert changed[name].training.view_sides == (96, 144, 192)
    assert changed["interpolated"].tile_size == nano.image_size[0]
    assert changed["one_view"].tile_size == nano.tile_size < nano.image_size[0]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_on_the_same_images(name):
    """The conversations are the same too, except where a single small view can't show the small text."""
    records = synthetic_data(variant_profile(SMOKE, name)).train
    reference = synthetic_data(variant_profile(SMOKE, "per_tile")).train

    # The first eight records of both.
    pairs = [(records[index], reference[index]) for index in range(8)]

    assert all(first.images[0].tobytes() == second.images[0].tobytes() for first, second in pairs)

    same_turns = [first.turns == second.turns for first, second in pairs]
    assert all(same_turns) if name != "one_view" else not all(same_turns)


def test_unknown_variant_raises():
    with pytest.raises(ValueError, match="no variant called 'lora': choose one of one_view, interpolated"):
        variant_profile(SMOKE, "lora")


def test_ablation_runs_and_trains_nothing_twice(outputs, monkeypatch):
    profile = smallest_profile()
    names = ("one_view", "interpolated", "shared", "per_tile")
    rows = tables.read_csv(variants.run_ablation(profile, names))

    assert [row["model"] for row in rows if row["split"] == "nano-caption"] == list(names)

    files = variants.prediction_files(profile)
    assert all(files[name, f"nano-{split}"].exists() for name in names for split in COUNTS)

    # From here on, building a model for training would fail.
    monkeypatch.setattr(build, "build_model", lambda *_: pytest.fail("a variant was trained twice"))
    assert tables.read_csv(variants.run_ablation(profile, names)) == rows
