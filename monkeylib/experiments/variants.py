"""Ablation: named variants of a profile, each of which changes one thing about Monkey.

The paper's ablation asks what resolution, tiles, per-tile LoRA and the global view are worth. Every variant
is trained from the same base model on the same images, for the same number of steps, and evaluated on the
same questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from monkeylib import resources
from monkeylib.errors import choose
from monkeylib.evaluation import results
from monkeylib.evaluation.predict import predict_synthetic
from monkeylib.profiles import Profile
from monkeylib.training import finetune
from monkeylib.training.batches import synthetic_data


@dataclass(frozen=True)
class Variant:
    """A named change of a profile.

    Attributes:
        name: name in files and commands.
        title: name in tables and figures.
        change: returns the profile of the variant.
    """

    name: str
    title: str
    change: Callable[[Profile], Profile]


def _change(profile: Profile, lora_mode: str | None = None, **fields: object) -> Profile:
    """Change fields of a profile but keep the size of its images, which otherwise follows from the tiles."""
    # Named explicitly, the size of the image no longer changes with that of the tile.
    width, height = profile.image_size

    if lora_mode is not None:
        fields["lora"] = profile.lora.model_copy(update={"mode": lora_mode})
    return profile.model_copy(update={"image_width": width, "image_height": height, **fields})


def _one_view(profile: Profile) -> Profile:
    return _change(profile, "none", views="global")


def _interpolated(profile: Profile) -> Profile:
    return _change(profile, "none", views="global", tile_size=max(profile.image_size))


def _growing_view(profile: Profile, order: str) -> Profile:
    """One view at tile size, half way and full size; the ViT trains, as is usual in high-resolution training.

    Args:
        profile: the profile.
        order: "progressive" (one size after the other) or "multiscale" (another size with every step).
    """
    full_side = max(profile.image_size)
    tile_side = profile.tile_size
    changed = _change(profile, "full", views="global", tile_size=full_side)

    # Half way, rounded down to whole patches.
    patch = profile.vision.patch_size
    middle_side = (tile_side + full_side) // 2 // patch * patch
    return changed.with_training(view_sides=(tile_side, middle_side, full_side), view_order=order)


def _progressive(profile: Profile) -> Profile:
    return _growing_view(profile, "progressive")


def _multiscale(profile: Profile) -> Profile:
    return _growing_view(profile, "multiscale")


def _tiles_only(profile: Profile) -> Profile:
    return _change(profile, "per_tile", views="tiles")


def _released_global(profile: Profile) -> Profile:
    return _change(profile, "per_tile", global_from="resized")


def _no_lora(profile: Profile) -> Profile:
    return _change(profile, "none")


def _shared_lora(profile: Profile) -> Profile:
    return _change(profile, "shared")


def _monkey(profile: Profile) -> Profile:
    return profile


_VARIANTS = (
    Variant("one_view", "one view at tile size", _one_view),
    Variant("interpolated", "one view at full size, positions interpolated", _interpolated),
    Variant("progressive", "one view that grows to full size, the ViT trains", _progressive),
    Variant("multiscale", "one view of changing size, the ViT trains", _multiscale),
    Variant("tiles_only", "tiles without global view, LoRA per tile", _tiles_only),
    Variant("released_global", "tiles + the released code's global view, LoRA per tile", _released_global),
    # Variants are folders on disk and rows of committed tables: this one keeps its first name.
    Variant("no_adapters", "tiles + global view, no LoRA", _no_lora),
    Variant("shared", "tiles + global view, one shared LoRA", _shared_lora),
    Variant("per_tile", "tiles + global view, LoRA per tile (Monkey)", _monkey),
)
VARIANTS = {variant.name: variant for variant in _VARIANTS}
TITLES = {variant.name: variant.title for variant in _VARIANTS}


def variant_profile(profile: Profile, name: str, steps: int | None = None) -> Profile:
    """Return the profile of a variant.

    Args:
        profile: the profile to change.
        name: a name of `VARIANTS`.
        steps: training steps; by default those of the profile's ablation, the same for every variant.

    Raises:
        ValueError: there is no such variant.
    """
    choose("variant", name, VARIANTS)

    # The same number of steps for every variant, so that only the change differs.
    ablation = profile.ablation
    training = {"steps": steps or ablation.steps}
    if ablation.warmup is not None:
        training["warmup"] = ablation.warmup
    return VARIANTS[name].change(profile).with_training(**training)


def run_ablation(profile: Profile, names: Iterable[str] = tuple(VARIANTS), progress: bool = False) -> Path:
    """Train, evaluate and score the variants, and write the table `ablation.csv` of the profile's results.

    Each variant has its own folder in the profile's runs; completed training and predictions are reused.

    Returns:
        The path of the table.
    """
    predictions = {}
    for name in names:
        changed = variant_profile(profile, name)
        folder = _folder(profile, name)

        # No validation split: nothing is selected by its loss.
        data = replace(synthetic_data(changed), validation=None)
        checkpoint = finetune.run(changed, folder, progress, data, if_changed="replace")

        runs = predict_synthetic(
            changed, checkpoint, folder / "predictions", profile.ablation.counts, progress
        )
        for split, run in runs.items():
            predictions[name, split] = run.path

    table = resources.results(profile.name) / "ablation.csv"
    return results.write_table(results.score_runs(predictions), table)


def prediction_files(profile: Profile) -> dict[tuple[str, str], Path]:
    """Return the predictions files of the variants by (variant, split), as `run_ablation` leaves them."""
    return {
        (name, f"nano-{split}"): _folder(profile, name) / "predictions" / f"nano-{split}.jsonl"
        for name in VARIANTS
        for split in profile.ablation.counts
    }


def _folder(profile: Profile, name: str) -> Path:
    return resources.runs(profile.name) / "ablation" / name
