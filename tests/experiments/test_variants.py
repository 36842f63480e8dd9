"""The named variants: what each of them changes, and that everything else stays the same."""

import pytest

from monkeylib import profiles
from monkeylib.data.synthetic.label_levels import LEVELS
from monkeylib.data.synthetic.samples import make_test_set
from monkeylib.experiments.variants import VARIANTS, variant_profile
from monkeylib.training.synthetic_records import synthetic_data

SMOKE = profiles.load_profile("smoke")
NANO = profiles.load_profile("nano")

SIZE = {"image_width", "image_height"}  # set explicitly, with unchanged values
RANKS = {"lora.attention_rank", "lora.mlp_rank"}
ONE_VIEW = {"views", "lora.mode", "tile_size"} | SIZE
CHANGED_FIELDS = {
    "one_view": {"views", "lora.mode"} | SIZE,
    "interpolated": ONE_VIEW,
    "interpolated_lora": ONE_VIEW | {"lora.on_global_view"},
    "interpolated_tokens": ONE_VIEW | {"queries"},
    "interpolated_lora_tokens": ONE_VIEW | {"lora.on_global_view", "queries"},
    "progressive": ONE_VIEW | {"training.view_sides"},
    "multiscale": ONE_VIEW | {"training.view_sides", "training.view_order"},
    "tiles_only": {"views"} | SIZE,
    "released_global": {"global_from"} | SIZE,
    "overlapping": {"rows", "cols", "tile_overlap", "training.max_length"},
    "tiles_1x2": {"rows"},
    "tiles_2x3": {"cols", "training.max_length"},
    "tiles_3x3": {"rows", "cols", "training.max_length"},
    "pooled": {"pooling"},
    "mean_pooled": {"pooling"},
    "fresh_queries": {"fresh_queries"},
    "no_adapters": {"lora.mode"} | SIZE,
    "shared": {"lora.mode"} | SIZE,
    "shared_wide": {"lora.mode"} | RANKS,
    "full": {"lora.mode"} | SIZE,
    "rank_quarter": RANKS,
    "rank_four": RANKS,
    "attention_only": {"lora.mlp_rank"},
    "mlp_only": {"lora.attention_rank"},
    "global_lora": {"lora.on_global_view"},
    **{f"labels_{labels}": {"labels"} for labels in (*LEVELS, "pipeline")},
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


@pytest.mark.parametrize("profile", [SMOKE, NANO], ids=["smoke", "nano"])
@pytest.mark.parametrize("name", VARIANTS)
def test_variant_changes_only_the_fields_it_is_about(profile, name):
    changed = variant_profile(profile, name)
    before, after = _fields(profile), _fields(changed)

    of_all = {f"training.{field}" for field in ("steps", "warmup", "micro_batch_size")}
    different = {field for field in before if before[field] != after[field]}
    assert different - of_all == CHANGED_FIELDS[name]

    assert changed.training.steps == profile.ablation.steps
    # Only grids of other sizes show images of other sizes.
    assert (changed.image_size == profile.image_size) == (name not in ("tiles_1x2", "tiles_2x3", "tiles_3x3"))


def test_variants_have_the_tokens_and_lora_modes_of_their_titles():
    changed = {name: variant_profile(NANO, name) for name in VARIANTS}
    assert set(CHANGED_FIELDS) == set(VARIANTS)

    # 64 queries for each of one global view, the tiles, or both.
    views = {
        **dict.fromkeys(("one_view", "interpolated", "interpolated_lora", "progressive", "multiscale"), 1),
        "tiles_only": 4,
        "tiles_1x2": 3,
        "tiles_2x3": 7,
        "tiles_3x3": 10,
        "overlapping": 10,
    }
    tokens = {name: 64 * views.get(name, 5) for name in VARIANTS}
    tokens |= {"pooled": 80, "mean_pooled": 5}
    assert {name: profile.visual_tokens for name, profile in changed.items()} == tokens
    assert tokens["interpolated_lora_tokens"] == tokens["interpolated_tokens"] == tokens["per_tile"]

    modes = dict.fromkeys(("one_view", "interpolated", "interpolated_tokens", "no_adapters"), "none")
    modes |= dict.fromkeys(("progressive", "multiscale", "full"), "full")
    modes |= dict.fromkeys(
        ("shared", "shared_wide", "interpolated_lora", "interpolated_lora_tokens"), "shared"
    )
    assert {name: profile.lora.mode for name, profile in changed.items()} == {
        name: modes.get(name, "per_tile") for name in VARIANTS
    }

    for name in ("progressive", "multiscale"):
        assert changed[name].training.view_sides == (96, 144, 192)
    assert changed["interpolated"].tile_size == NANO.image_size[0]
    assert changed["one_view"].tile_size == NANO.tile_size < NANO.image_size[0]


def test_shared_wide_has_as_many_parameters_as_lora_per_tile():
    lora = [variant_profile(NANO, name).lora for name in ("per_tile", "shared_wide")]
    tiles = NANO.rows * NANO.cols
    assert lora[1].attention_rank == tiles * lora[0].attention_rank
    assert lora[1].mlp_rank == tiles * lora[0].mlp_rank


@pytest.mark.parametrize("name", VARIANTS)
def test_conversations_have_the_same_room_for_text(name):
    changed = variant_profile(NANO, name)
    room = NANO.training.max_length - NANO.visual_tokens
    assert changed.training.max_length - changed.visual_tokens >= room


# Images of other grids have other sizes, and captions are those of a few images.
OTHER_IMAGES = ("tiles_1x2", "tiles_2x3", "tiles_3x3", *(name for name in VARIANTS if "labels" in name))
SAME_IMAGES = [name for name in VARIANTS if name not in OTHER_IMAGES]


@pytest.mark.parametrize("name", SAME_IMAGES)
def test_every_variant_trains_on_the_same_images(name):
    """The conversations are the same too, except where a single small view can't show the small text."""
    records = synthetic_data(variant_profile(SMOKE, name)).train
    reference = synthetic_data(variant_profile(SMOKE, "per_tile")).train

    # The first eight records of both.
    pairs = [(records[index], reference[index]) for index in range(8)]
    assert all(first.images[0].tobytes() == second.images[0].tobytes() for first, second in pairs)

    same_turns = [first.turns == second.turns for first, second in pairs]
    assert all(same_turns) if name != "one_view" else not all(same_turns)


def test_rendering_of_the_images_is_part_of_the_profile():
    changed = variant_profile(SMOKE, "shared", "dealt")
    assert changed.rendering == "dealt"
    assert changed.model_copy(update={"rendering": "ordinary"}) == variant_profile(SMOKE, "shared")


def test_unknown_variant_raises():
    with pytest.raises(ValueError, match="no variant called 'lora': choose one of per_tile, no_adapters"):
        variant_profile(SMOKE, "lora")


def test_images_of_every_variant_have_questions_of_every_kind():
    """Where an image shrinks to one tile in one direction alone, its text has to get illegible, too."""
    sizes = {variant_profile(NANO, name).image_size for name in VARIANTS}
    assert {(192, 96), (192, 192), (288, 192), (288, 288)} <= sizes
    for size in sizes:
        for name in ("fine", "large", "general", "caption"):
            assert len(make_test_set(name, 10, size=size)) == 10


@pytest.mark.parametrize("size", [(288, 96), (96, 192), (96, 288)], ids=str)
def test_low_and_narrow_images_have_documents(size):
    assert len(make_test_set("general", 30, size=size)) == 30


def test_images_of_one_tile_have_no_small_text():
    with pytest.raises(ValueError, match="images of 96 x 96 pixels have no questions of the kind fine"):
        make_test_set("fine", 2, size=(96, 96))


def test_all_variants_train_on_usual_images_whatever_the_profile_does():
    profile = NANO.model_copy(update={"training_images": "several_signs"})
    assert profile != NANO
    for name in VARIANTS:
        assert variant_profile(profile, name) == variant_profile(NANO, name)
