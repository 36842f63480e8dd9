"""Named variants of a profile, each of which changes one thing about Monkey.

The paper's ablation asks what resolution, tiles, per-tile LoRA and the global view are worth. Every variant
is trained from the same base model on the same images, for the same number of steps, and evaluated on the
same questions (`grid`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from monkeylib.errors import choose
from monkeylib.profiles import Profile


@dataclass(frozen=True)
class Variant:
    """A named change of a profile.

    Attributes:
        name: name in files and commands.
        title: name in tables and figures.
        change: returns the profile of the variant.
        renderings: those of synthetic images in which it is trained and asked (`data.synthetic.renderings`).
        seeds: number of seeds with which it is trained in each of them.
        permuted: ask the trained model once more with its tiles' LoRAs permuted.
    """

    name: str
    title: str
    change: Callable[[Profile], Profile]
    renderings: tuple[str, ...] = ("ordinary",)
    seeds: int = 3
    permuted: bool = False


# --- changes ----------------------------------------------------------------------------------------------


def _change(profile: Profile, lora_mode: str | None = None, **fields: object) -> Profile:
    """Change fields of a profile but keep the size of its images, which otherwise follows from the tiles."""
    # Named explicitly, the size of the image no longer changes with that of the tile.
    width, height = profile.image_size

    if lora_mode is not None:
        fields["lora"] = profile.lora.model_copy(update={"mode": lora_mode})
    return profile.model_copy(update={"image_width": width, "image_height": height, **fields})


def _change_lora(profile: Profile, **fields: object) -> Profile:
    return profile.model_copy(update={"lora": profile.lora.model_copy(update=fields)})


def _scale_ranks(profile: Profile, factor: float, mode: str = "per_tile") -> Profile:
    """Multiply both ranks of the LoRA."""
    lora = profile.lora
    ranks = {name: round(factor * getattr(lora, name)) for name in ("attention_rank", "mlp_rank")}
    return _change_lora(profile, mode=mode, **ranks)


def _one_view(profile: Profile) -> Profile:
    return _change(profile, "none", views="global")


def _interpolated(profile: Profile) -> Profile:
    return _change(profile, "none", views="global", tile_size=max(profile.image_size))


def _interpolated_lora(profile: Profile) -> Profile:
    """One view at full size, which is the global one, with a LoRA beside it."""
    return _change_lora(_interpolated(profile), mode="shared", on_global_view=True)


def _as_many_tokens(profile: Profile, change: Callable[[Profile], Profile]) -> Profile:
    """Give one view as many visual tokens as tiles and global view have together.

    Without it, a variant of one view also has fewer tokens, which the language model could make use of.
    """
    return change(profile).model_copy(update={"queries": profile.visual_tokens})


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


def _tiles_only(profile: Profile) -> Profile:
    return _change(profile, "per_tile", views="tiles")


def _released_global(profile: Profile) -> Profile:
    return _change(profile, "per_tile", global_from="resized")


def _with_mode(profile: Profile, mode: str) -> Profile:
    return _change(profile, mode)


def _with_grid(profile: Profile, rows: int, cols: int, tile_overlap: int = 0) -> Profile:
    """Give images more or fewer tiles, and conversations the same room for text.

    Tiles that overlap show an image of the same size; others show one of their own size.
    """
    changed = profile.model_copy(update={"rows": rows, "cols": cols, "tile_overlap": tile_overlap})
    more_tokens = changed.visual_tokens - profile.visual_tokens
    return changed.with_training(max_length=profile.training.max_length + max(0, more_tokens))


def _overlapping(profile: Profile) -> Profile:
    """Cut one more row and column of tiles, each half a tile after the one before.

    Two tiles in each direction that overlapped would cover a smaller image: resolution would change, too.
    """
    return _with_grid(profile, profile.rows + 1, profile.cols + 1, profile.tile_size // 2)


def _mean_pooled(profile: Profile) -> Profile:
    """Average all visual tokens of a view, which come from a square of queries."""
    return profile.model_copy(update={"pooling": math.isqrt(profile.queries)})


def _with_fields(profile: Profile, **fields: object) -> Profile:
    return profile.model_copy(update=fields)


def _monkey(profile: Profile) -> Profile:
    return profile


# --- variants ---------------------------------------------------------------------------------------------

_ALL_RENDERINGS = ("ordinary", "fixed", "dealt")

# Variants are folders on disk and rows of committed tables: their names stay.
_VARIANTS = (
    # Adapters: the paper's claim is that each tile needs its own.
    Variant("per_tile", "tiles + global view, LoRA per tile (Monkey)", _monkey, _ALL_RENDERINGS, 5, True),
    Variant(
        "no_adapters", "tiles + global view, no LoRA", partial(_with_mode, mode="none"), _ALL_RENDERINGS, 5
    ),
    Variant(
        "shared",
        "tiles + global view, one shared LoRA",
        partial(_with_mode, mode="shared"),
        _ALL_RENDERINGS,
        5,
    ),
    Variant(
        "shared_wide",
        "tiles + global view, one shared LoRA of four times the rank",
        partial(_scale_ranks, factor=4, mode="shared"),
        _ALL_RENDERINGS,
        5,
    ),
    # How resolution is raised.
    Variant("one_view", "one view at tile size", _one_view),
    Variant("interpolated_lora", "one view at full size, positions interpolated, LoRA", _interpolated_lora),
    Variant(
        "interpolated_lora_tokens",
        "one view at full size, LoRA, as many visual tokens as Monkey",
        partial(_as_many_tokens, change=_interpolated_lora),
    ),
    Variant("tiles_only", "tiles without global view, LoRA per tile", _tiles_only),
    Variant("interpolated", "one view at full size, positions interpolated", _interpolated),
    Variant(
        "interpolated_tokens",
        "one view at full size, as many visual tokens as Monkey",
        partial(_as_many_tokens, change=_interpolated),
    ),
    Variant("released_global", "tiles + the released code's global view, LoRA per tile", _released_global),
    Variant(
        "progressive",
        "one view that grows to full size, the ViT trains",
        partial(_growing_view, order="progressive"),
    ),
    Variant(
        "multiscale",
        "one view of changing size, the ViT trains",
        partial(_growing_view, order="multiscale"),
    ),
    Variant("overlapping", "3x3 overlapping tiles + global view, LoRA per tile", _overlapping),
    # Resolution: images of the grid's size.
    Variant("tiles_1x2", "1x2 tiles + global view, LoRA per tile", partial(_with_grid, rows=1, cols=2)),
    Variant("tiles_2x3", "2x3 tiles + global view, LoRA per tile", partial(_with_grid, rows=2, cols=3)),
    Variant("tiles_3x3", "3x3 tiles + global view, LoRA per tile", partial(_with_grid, rows=3, cols=3)),
    # Resampler. More queries that were trained as such need another base model.
    Variant("pooled", "a quarter of the visual tokens, averaged", partial(_with_fields, pooling=2)),
    Variant("mean_pooled", "one visual token for each view, averaged", _mean_pooled),
    Variant("fresh_queries", "queries that start at random", partial(_with_fields, fresh_queries=True)),
    # What is adapted, and by how much.
    Variant("full", "tiles + global view, the ViT trains", partial(_with_mode, mode="full")),
    Variant(
        "rank_quarter",
        "tiles + global view, LoRA per tile of a quarter of the rank",
        partial(_scale_ranks, factor=0.25),
    ),
    Variant(
        "rank_four",
        "tiles + global view, LoRA per tile of four times the rank",
        partial(_scale_ranks, factor=4),
    ),
    Variant(
        "attention_only",
        "tiles + global view, LoRA per tile beside the attention alone",
        partial(_change_lora, mlp_rank=0),
    ),
    Variant(
        "mlp_only",
        "tiles + global view, LoRA per tile beside the MLP alone",
        partial(_change_lora, attention_rank=0),
    ),
    Variant(
        "global_lora",
        "tiles + global view, LoRA per tile and on the global view",
        partial(_change_lora, on_global_view=True),
    ),
    # Labels: the same images, described by captions of more and more levels, in place of questions.
    *(
        Variant(f"labels_{labels}", f"trained on captions: {title}", partial(_with_fields, labels=labels))
        for labels, title in (
            ("short", "short ones"),
            ("global", "and the whole scene"),
            ("regions", "and regions"),
            ("segments", "and segments"),
            ("text", "and text, all levels"),
            ("pipeline", "the pipeline's own descriptions"),
        )
    ),
)
VARIANTS = {variant.name: variant for variant in _VARIANTS}
TITLES = {variant.name: variant.title for variant in _VARIANTS}


def variant_profile(profile: Profile, name: str, rendering: str = "ordinary") -> Profile:
    """Return the profile of a variant, trained as the profile's ablation says.

    Args:
        profile: the profile to change.
        name: a name of `VARIANTS`.
        rendering: the rendering of synthetic data.

    Raises:
        ValueError: there is no such variant.
    """
    choose("variant", name, VARIANTS)

    # The same training for every variant, so that only the change differs.
    ablation = profile.ablation
    training: dict[str, object] = {"steps": ablation.steps}
    if ablation.warmup is not None:
        training["warmup"] = ablation.warmup
    if ablation.micro_batch_size is not None:
        training["micro_batch_size"] = ablation.micro_batch_size

    changed = VARIANTS[name].change(profile.with_usual_images().with_training(**training))
    return changed if rendering == "ordinary" else changed.model_copy(update={"rendering": rendering})
