"""Named variants of a profile: what Monkey's parts are worth, one change at a time (paper, the ablation of
resolution and adapters)."""

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


@dataclass(frozen=True)
class Variant:
    """A change of the profile under a name; `title` is how tables and figures call it."""

    name: str
    title: str
    change: Callable[[Profile], Profile]


def _changed(profile: Profile, mode: str | None = None, **fields: object) -> Profile:
    """The profile with other fields, on images of the same size."""
    width, height = profile.image_size
    if mode is not None:
        fields["lora"] = profile.lora.model_copy(update={"mode": mode})
    return profile.model_copy(update={"image_width": width, "image_height": height, **fields})


def _one_view(profile: Profile) -> Profile:
    return _changed(profile, "none", views="global")


def _interpolated(profile: Profile) -> Profile:
    return _changed(profile, "none", views="global", tile_size=max(profile.image_size))


def _growing(profile: Profile, order: str) -> Profile:
    """One view, at tile size, half way and full size in turn; the ViT trains, as is usual where resolution is
    raised in training."""
    full, tile = max(profile.image_size), profile.tile_size
    changed = _changed(profile, "full", views="global", tile_size=full)
    patch = profile.vision.patch_size
    return changed.retrained(view_sides=(tile, (tile + full) // 2 // patch * patch, full), view_order=order)


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("one_view", "one view at tile size", _one_view),
        Variant("interpolated", "one view at full size, positions interpolated", _interpolated),
        Variant(
            "progressive",
            "one view that grows to full size, the ViT trains",
            lambda p: _growing(p, "progressive"),
        ),
        Variant(
            "multiscale", "one view of changing size, the ViT trains", lambda p: _growing(p, "multiscale")
        ),
        Variant(
            "tiles_only",
            "tiles without global view, adapter per tile",
            lambda p: _changed(p, "per_tile", views="tiles"),
        ),
        Variant(
            "released_global",
            "tiles + the release's global view, adapter per tile",
            lambda p: _changed(p, "per_tile", global_from="resized"),
        ),
        Variant("no_adapters", "tiles + global view, no adapters", lambda p: _changed(p, "none")),
        Variant("shared", "tiles + global view, one shared adapter", lambda p: _changed(p, "shared")),
        Variant("per_tile", "tiles + global view, adapter per tile (Monkey)", lambda p: p),
    )
}
TITLES = {name: one.title for name, one in VARIANTS.items()}


def variant(profile: Profile, name: str, steps: int | None = None) -> Profile:
    """The profile of a variant.

    Args:
        steps: training steps; those of the profile's ablation if not given, the same for every variant.

    Raises:
        ValueError: there is no such variant.
    """
    choose("variant", name, VARIANTS)
    return VARIANTS[name].change(profile).retrained(steps=steps or profile.ablation.steps)


def run(profile: Profile, names: Iterable[str] = tuple(VARIANTS), progress: bool = False) -> Path:
    """Train and score the variants; returns the table `ablation.csv` of the profile's results.

    Each variant lies in its own folder of the profile's runs; finished ones are not trained again.
    """
    folder = resources.runs(profile.name) / "ablation"
    predictions = {}
    for name in names:
        changed = variant(profile, name)
        data = replace(finetune.worlds(changed), validation=None)  # nothing is chosen by it
        model = finetune.run(changed, folder / name, progress, data)
        answered = predict_synthetic(
            changed, model, folder / name / "predictions", profile.ablation.counts, progress
        )
        predictions |= {(name, split): done.path for split, done in answered.items()}
    return results.write_table(
        results.score_runs(predictions), resources.results(profile.name) / "ablation.csv"
    )
