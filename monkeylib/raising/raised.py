"""Raise the resolution of a vision-language model of transformers: Monkey's method for any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from transformers import PreTrainedModel, ProcessorMixin

from monkeylib import resources
from monkeylib.checkpoints import hub
from monkeylib.errors import choose
from monkeylib.raising.bases import Bits, load_base, load_base_processor
from monkeylib.raising.check import check_raising
from monkeylib.raising.families import processor_family
from monkeylib.raising.files import public_settings, read_settings, read_weights, write_raised
from monkeylib.raising.model import merge_adapters, raise_model, ranks_of_layers
from monkeylib.raising.processor import ViewSettings, raise_processor
from monkeylib.raising.settings import Mode, RaisingSettings
from monkeylib.raising.tower import tower_name
from monkeylib.tiling import ResizeMode


@dataclass(frozen=True)
class Raised:
    """A raised model with its processor. It unpacks into the two.

    Fields:
        model: takes `tile_index`; without it, it is the base.
        processor: cuts images, and gives `tile_index`.
        settings: how the model was raised.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    settings: RaisingSettings

    def __repr__(self) -> str:
        return f"<Raised: {self.settings.family} of {self.settings.base or 'no name'}, {self.settings.grids}>"

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.processor))

    def save(self, folder: str | Path) -> None:
        """Write what was learned into a new folder: adapters, and weights of the base that have a gradient.

        See `files`; `load_raised` reads it.

        Raises:
            FileExistsError: `folder` holds something already.
            ValueError: the adapters have been merged into the weights.
        """
        write_raised(self.model, self.settings, resources.to_path(folder))

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        base: str | None = None,
    ) -> str:
        """Put on the hub what `save` writes, and return its address.

        Args:
            repo_id: "owner/name"; created where there is none.
            private: whether only its owner sees it.
            token: of the owner, by default the one that is logged in.
            base: name on a hub of the base, "owner/name"; needed if the base was loaded from a folder, which
                others don't have.

        Raises:
            ValueError: the base is a folder and `base` is not given, or `base` is no name of a hub. Nothing
                is put on the hub then.
        """
        settings = public_settings(self.settings, base)
        return hub.push_folder(
            lambda folder: write_raised(self.model, settings, folder),
            repo_id,
            "Per-tile LoRA of monkeylib",
            private,
            token,
        )

    def merge(self) -> PreTrainedModel:
        """Add the adapters of the mode "shared" to the weights, and return the model, now of its base class.

        See `model.merge_adapters`.
        """
        return merge_adapters(self.model)


def raise_resolution(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    grid: Any = (2, 2),
    rank: int | Mapping[str, int] = 16,
    mode: Mode = "per_tile",
    dropout: float = 0.0,
    tile_size: int | None = None,
    resize_mode: ResizeMode = "stretch",
) -> Raised:
    """Give a vision-language model of transformers tiles, a global view and per-tile LoRA.

        model, processor = monkeylib.raise_resolution(model, processor, grid=(2, 2))
        inputs = processor(images=image, text=prompt, return_tensors="pt")
        model.generate(**inputs)

    The model is raised in place: its class is one of the same name, whose `forward` and `generate` take
    `tile_index`, the number of each view's tile. Called without it, the model is its base to the last bit.
    Everything is frozen but the adapters. The processor stays as it is; the returned one is a copy that cuts
    each image into the tiles of its grid, and puts the image as the base saw it behind them, as global view.
    A prompt holds one marker an image, as before.

    Paper section 3.1 does so with Qwen-VL. The adapters stand beside the linear layers of the vision tower
    on which image features depend.

    Args:
        model, processor: of transformers, of one checkpoint, whose images have a fixed size.
        grid: rows and columns, also as "2x3"; a list of grids, the first of which is the default; or "auto:6"
            for the grid of each image's shape, of at most six tiles. Calls of the processor may request
            another by its argument `grid`, if there are adapters for its tiles.
        rank: of the adapters, or one for each layer by its name or the end of it: `{"q_proj": 8}` leaves the
            others without.
        mode: "per_tile" has an adapter a tile, "shared" one for all tiles, "none" has none, and "full" has
            none and trains the tower itself. The global view meets none.
        dropout: before each adapter.
        tile_size: side of a tile, where the model reads images of any size; otherwise it is the model's own.
        resize_mode: how an image is brought to the shape of its grid (`tiling.resize`).

    Raises:
        ValueError: the model cannot be raised (`check_raising` says why), or an argument is impossible.
    """
    choose("mode", mode, get_args(Mode))
    check = check_raising(model, processor, grid, tile_size, resize_mode)
    if not check.is_possible:
        raise ValueError(check.sentence)

    ranks: dict[str, int] = {}
    if mode in ("per_tile", "shared"):
        tower = tower_name(model)
        ranks = {f"{tower}.{layer}": value for layer, value in ranks_of_layers(check.layers, rank).items()}

    settings = RaisingSettings(
        family=type(model).__name__,
        base=_locate(model.name_or_path),
        grids=check.grids,
        ranks=ranks,
        mode=mode,
        dropout=dropout,
        tile_size=check.tile_size,
        tokens_per_view=check.tokens_per_view,
        resize_mode=resize_mode,
        resizes_global_view=tile_size is not None,
    )
    return _raise(model, processor, settings)


def _locate(base: str) -> str:
    """Return the name of a base as every folder can use it: in full, if it is a folder."""
    return str(Path(base).resolve()) if base and Path(base).is_dir() else base


def load_raised(
    folder: str | Path,
    model: PreTrainedModel | None = None,
    processor: ProcessorMixin | None = None,
    bits: Bits | None = None,
    **options: Any,
) -> Raised:
    """Load a raised model: its base, raised again, with what was learned.

    Args:
        folder: that `save`, or `save_pretrained` of the model, has written; or the name of one on the hub.
        model, processor: the base, by default the one that was raised, from where it was then.
        bits: quantise the base's language model to 4 or 8 bits with bitsandbytes.
        options: of transformers' `from_pretrained` for the base, such as `dtype` or `device_map`.

    Raises:
        FileNotFoundError: the folder holds no raised model.
        ValueError: a file is broken, or the base is another one.
    """
    folder = _fetch(folder)
    settings = read_settings(folder)
    if (model is None or processor is None) and not settings.base:
        raise ValueError(
            f"{folder} does not say what its base was, which had no name: pass the base's model and processor"
        )
    if model is None:
        model = load_base(settings.base, bits, **options)
    if processor is None:
        processor = load_base_processor(settings.base)

    raised = _raise(model, processor, settings)
    read_weights(model, settings, folder)
    return raised


def _fetch(folder: str | Path) -> Path:
    """Return a folder, or that of a name on the hub in the hub's cache."""
    path = resources.to_path(folder)
    if path.exists() or str(path).count("/") != 1:
        return path

    from huggingface_hub import snapshot_download

    hub.go_offline_if_unreachable(folder)
    return Path(snapshot_download(str(folder)))


def _raise(model: PreTrainedModel, processor: ProcessorMixin, settings: RaisingSettings) -> Raised:
    views = ViewSettings(
        settings.grids,
        settings.tile_size,
        settings.tokens_per_view,
        settings.resize_mode,
        processor_family(processor),
        getattr(model.config, "image_token_id", None),
        settings.resizes_global_view,
    )
    raised_processor = raise_processor(processor, views)
    return Raised(raise_model(model, settings), raised_processor, settings)
