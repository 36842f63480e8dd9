"""One model that sees an image in different ways: in one view, in tiles, in tiles without their LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monkeylib.errors import choose
from monkeylib.images import ImageInput
from monkeylib.monkey import Monkey
from monkeylib.processing import GridInput
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.raised_session import RaisedSession
from monkeylib.session import EncodedImage, Session
from monkeylib.tiling import Grid


@dataclass(frozen=True)
class Variant:
    """A way to see an image.

    Attributes:
        name: for programs.
        title: for readers.
        has_tiles: tiles and global view, not the global view alone.
        has_lora: tiles meet their LoRA.
    """

    name: str
    title: str
    has_tiles: bool
    has_lora: bool


ONE_VIEW = Variant("one_view", "one view", has_tiles=False, has_lora=False)
TILES_WITHOUT_LORA = Variant("tiles_without_lora", "tiles, no LoRA", has_tiles=True, has_lora=False)
TILES = Variant("tiles", "tiles, LoRA per tile", has_tiles=True, has_lora=True)
VARIANTS: Mapping[str, Variant] = {one.name: one for one in (ONE_VIEW, TILES_WITHOUT_LORA, TILES)}


def get_variant(name: str) -> Variant:
    """Return a variant by its name.

    Raises:
        ValueError: there is none of that name.
    """
    return VARIANTS[choose("way to see an image", name, VARIANTS)]


def variants_of(monkey: Monkey) -> list[Variant]:
    """Return the ways in which a model can see an image: a base model sees one view alone.

    A raised model sees it in one view, as its base, or in tiles.
    """
    if isinstance(monkey, RaisedMonkey):
        return [ONE_VIEW, TILES if monkey.model.raising_settings.ranks else TILES_WITHOUT_LORA]
    config = monkey.model.config
    if not config.grids and config.max_tiles is None:
        return [ONE_VIEW]
    return list(VARIANTS.values()) if config.lora_count else [ONE_VIEW, TILES]


def encode(
    monkey: Monkey, images: Sequence[ImageInput], variant: Variant, grid: GridInput | None = None
) -> list[EncodedImage]:
    """Open and encode images as a variant sees them.

    Args:
        monkey: the model.
        images: anything that `images.open_image` reads.
        variant: how they are seen.
        grid: another grid of tiles than the model's, for variants with tiles.

    Raises:
        ValueError: an image that cannot be read, or a grid that the model has no LoRA for.
    """
    seen_in = grid if variant.has_tiles else Grid(0, 0)
    return require_monkey(monkey).encode(images, seen_in, use_lora=variant.has_lora)


def begin_session(
    monkey: Monkey, images: Sequence[ImageInput], variant: Variant, grid: GridInput | None = None
) -> Session | RaisedSession:
    """Return a session about images as a variant sees them; arguments as in `encode`."""
    if isinstance(monkey, RaisedMonkey):
        return monkey.session(images, grid if variant.has_tiles else Grid(0, 0))
    return Session(monkey.model, monkey.processor, encode(monkey, images, variant, grid))


def require_monkey(monkey: Monkey) -> Monkey:
    """Return a Monkey.

    Raises:
        ValueError: it is a raised model, which encodes images in its base's own way.
    """
    if isinstance(monkey, RaisedMonkey):
        raise ValueError("this needs a Monkey, got a raised model: ask that one by `answer` and `chat`")
    return monkey
