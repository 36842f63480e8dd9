"""Profiles: their names, and fields that are checked."""

import pytest
from pydantic import ValidationError

from monkeylib import profiles
from monkeylib.experiments.variants import variant_profile


def test_names_come_in_order_of_size():
    names = ["smoke", "nano", "nano-monkey", "small", "llava-448", "llava-672"]
    assert profiles.profile_names() == [*names, "paper-896-qlora", "paper-896", "paper-1344"]


def test_unknown_name_lists_the_profiles():
    with pytest.raises(
        ValueError,
        match="'paper'.*smoke, nano, nano-monkey, small, .*, paper-896-qlora, paper-896, paper-1344",
    ):
        profiles.load_profile("paper")


def test_profile_whose_runs_would_be_another_ones_seed_is_refused(tmp_path):
    path = tmp_path / "nano-seed-7.yaml"
    path.write_text("extends: nano\n")
    with pytest.raises(ValueError, match="may not be called 'nano-seed-7'.*another name"):
        profiles.load_profile(str(path))


def test_profile_cannot_change():
    with pytest.raises(ValidationError, match="frozen"):
        profiles.load_profile("nano").tile_size = 1


def test_unknown_field_raises():
    with pytest.raises(ValidationError, match="tilesize"):
        profiles.Profile(**profiles.load_profile("nano").model_dump(), tilesize=1)


def test_images_have_the_size_of_the_tile_grid_by_default():
    profile = profiles.load_profile("paper-1344")
    assert profile.image_size == (1344, 896)  # width, height
    assert profile.model_copy(update={"image_width": 500}).image_size == (500, 896)


def test_old_names_of_fields_raise():
    fields = profiles.load_profile("nano").model_dump()
    with pytest.raises(ValidationError, match="text"):
        profiles.Profile(**fields, text={})
    with pytest.raises(ValueError, match="^training.per_device: there is no such field"):
        profiles.load_profile("nano").with_training(per_device=2)


# Of runs with the profile's own numbers of steps: training, then ablations. Shipped results rest on them.
WARMUP_STEPS = {
    "smoke": (1, 1),
    "nano": (15, 10),
    "nano-monkey": (25, 10),
    "small": (100, 100),
    "llava-448": (156, 156),
    "llava-672": (156, 156),
    "paper-896": (100, 100),
    "paper-896-qlora": (100, 100),
    "paper-1344": (100, 100),
}


@pytest.mark.parametrize("name", WARMUP_STEPS)
def test_profile_warms_up_for_so_many_steps(name):
    profile = profiles.load_profile(name)
    ablation = variant_profile(profile, "per_tile") if name != "paper-896-qlora" else profile
    assert (profile.training.warmup_steps, ablation.training.warmup_steps) == WARMUP_STEPS[name]


@pytest.mark.parametrize("name", WARMUP_STEPS)
def test_short_run_does_not_end_in_its_warm_up(name):
    training = profiles.load_profile(name).with_training(steps=16).training
    assert training.warmup_steps <= 4


def test_warm_up_in_steps_is_refused():
    with pytest.raises(ValueError, match="a share of the steps below 1, such as 0.05, got 15"):
        profiles.load_profile("nano").with_training(warmup=15)


def test_copy_with_a_field_that_there_is_none_of_raises():
    with pytest.raises(ValueError, match="no field called 'pool'.*pooling"):
        profiles.load_profile("nano").model_copy(update={"pool": 2})
