"""How a model was raised: what its file `monkey.json` says."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from monkeylib.errors import choose, shorten
from monkeylib.model.limits import check_grids, check_size
from monkeylib.raising.grids import TileGrids
from monkeylib.tiling import Grid, ResizeMode, check_resize_mode

Mode = Literal["per_tile", "shared", "none", "full"]

# Version of the file's fields.
_VERSION = 1
_LARGEST_RANK = 65_536
_MOST_TOKENS = 1_000_000


@dataclass(frozen=True)
class RaisingSettings:
    """How a model was raised.

    Fields:
        family: class of the model in transformers.
        base: its name or folder, empty if it has none.
        grids: of the images.
        ranks: rank of the adapters beside each layer, by its name in the model; none in the modes without.
        mode: "per_tile" has an adapter a tile, "shared" one for all tiles, "none" and "full" have none.
        dropout: before each adapter.
        tile_size: side of a view in pixels.
        tokens_per_view: places that a view takes in the prompt.
        resize_mode: how an image is brought to the shape of its grid, see `tiling.resize`.
        resizes_global_view: whether the global view is made as large as a tile, as for a base that reads
            images of any size.
    """

    family: str
    base: str
    grids: TileGrids
    ranks: Mapping[str, int]
    mode: Mode
    dropout: float
    tile_size: int
    tokens_per_view: int
    resize_mode: ResizeMode
    resizes_global_view: bool

    @property
    def adapter_names(self) -> list[str]:
        """Name of each adapter, in the order of their numbers: that of its folder."""
        if self.mode == "shared":
            return ["tile-0"]
        if self.mode != "per_tile":
            return []
        if self.grids.max_tiles is not None:
            return [f"tile-{row}-{col}" for row, col in self.grids.positions]
        return [f"tile-{number}" for number in range(self.grids.tiles)]

    @property
    def adapter_of_tile(self) -> list[int]:
        """Number of the adapter of each tile number, -1 in the modes without."""
        if self.mode == "per_tile":
            return list(range(self.grids.tiles))
        return [0 if self.mode == "shared" else -1] * self.grids.tiles

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `monkey.json`."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RaisingSettings":
        """Read the fields of `monkey.json`, which may be a stranger's.

        Raises:
            ValueError: a field is missing, unknown or impossible; the message names it.
        """
        fields = dict(content)
        if fields.pop("version", None) != _VERSION:
            raise ValueError(f"version is not {_VERSION}: it was saved by a newer monkeylib")

        names = set(cls.__dataclass_fields__)
        if fields.keys() != names:
            raise ValueError(f"the field {min(fields.keys() ^ names)} is missing or unknown")

        grids = fields["grids"]
        if not isinstance(grids, dict) or grids.keys() != {"grids", "max_tiles"}:
            raise ValueError("grids: expected the fields grids and max_tiles")
        check_grids(grids["grids"])
        fields["grids"] = TileGrids(tuple(Grid(*grid) for grid in grids["grids"]), grids["max_tiles"])

        choose("mode", fields["mode"], get_args(Mode))
        check_resize_mode(fields["resize_mode"])
        check_size("tile_size", fields["tile_size"], 2**16)
        check_size("tokens_per_view", fields["tokens_per_view"], _MOST_TOKENS)
        for name in ("family", "base"):
            if not isinstance(fields[name], str):
                raise ValueError(f"{name} is {shorten(fields[name])}: expected a text")
        if not isinstance(fields["resizes_global_view"], bool):
            raise ValueError("resizes_global_view: expected true or false")

        dropout = fields["dropout"]
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"dropout is {shorten(dropout)}: expected a number from 0 up to 1")
        if not isinstance(fields["ranks"], dict):
            raise ValueError("ranks: expected a rank for each layer")
        for layer, rank in fields["ranks"].items():
            check_size(f"ranks.{layer}", rank, _LARGEST_RANK)
        return cls(**fields)
