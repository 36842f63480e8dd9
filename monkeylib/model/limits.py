"""The largest sizes that a configuration may state, and that a file of a checkpoint may have.

Each is several times that of any published model. A file that states or has more is broken or hostile, and
building what it describes, or reading it, would take the memory of the machine or days before anything else
notices.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monkeylib.errors import shorten

MAX_LAYERS = 1_000
MAX_WIDTH = 65_536
MAX_MLP_WIDTH = 1_048_576
MAX_HEADS = 4_096
MAX_VOCABULARY = 4_194_304
MAX_TILE_SIZE = 16_384  # pixels
MAX_PATCH_SIZE = 1_024  # pixels
MAX_POSITION_GRID = 1_024  # patches across
MAX_QUERIES = 65_536
MAX_TILES = 1_024
MAX_TOKENIZER_BYTES = 2**28  # of one file
MAX_WEIGHTS_BYTES = 2**39  # of one file

# Field of a configuration, monkeylib's, the released code's or transformers' -> its largest value
LARGEST = {
    "layers": MAX_LAYERS,
    "num_hidden_layers": MAX_LAYERS,
    "width": MAX_WIDTH,
    "hidden_size": MAX_WIDTH,
    "output_dim": MAX_WIDTH,
    "head_dim": MAX_WIDTH,
    "attention_rank": MAX_WIDTH,
    "mlp_rank": MAX_WIDTH,
    "mlp_width": MAX_MLP_WIDTH,
    "intermediate_size": MAX_MLP_WIDTH,
    "heads": MAX_HEADS,
    "num_attention_heads": MAX_HEADS,
    "num_key_value_heads": MAX_HEADS,
    "num_experts": MAX_HEADS,
    "num_local_experts": MAX_HEADS,
    "vocab_size": MAX_VOCABULARY,
    "tile_size": MAX_TILE_SIZE,
    "image_size": MAX_TILE_SIZE,
    "patch_size": MAX_PATCH_SIZE,
    "position_grid": MAX_POSITION_GRID,
    "queries": MAX_QUERIES,
    "n_queries": MAX_QUERIES,
    "pooling": MAX_QUERIES,
    "rows": MAX_TILES,
    "cols": MAX_TILES,
    "max_tiles": MAX_TILES,
    "max_position_embeddings": 2**24,
}
# Of these, 0 says that there is none.
_MAY_BE_ZERO = ("attention_rank", "mlp_rank")


def check_sizes(settings: Mapping[str, Any], prefix: str = "") -> None:
    """Check the sizes in a configuration and in its sections, by the names of their fields.

    A size that is None is left to the configuration's default.

    Args:
        settings: fields by name.
        prefix: what stands before a field's name in the message, such as "vision_config.".

    Raises:
        ValueError: a size is no whole number, not positive, or absurdly large. The message names the field.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            check_sizes(value, f"{prefix}{name}.")
        elif name in LARGEST and value is not None:
            # Some encoders state height and width.
            for size in value if isinstance(value, list | tuple) else [value]:
                check_size(f"{prefix}{name}", size, LARGEST[name], smallest=0 if name in _MAY_BE_ZERO else 1)

    _check_heads(settings, prefix)


def _check_heads(settings: Mapping[str, Any], prefix: str) -> None:
    """Check that the width divides by the attention heads, and these by the heads of keys and values."""
    heads, key_heads = settings.get("num_attention_heads"), settings.get("num_key_value_heads")
    # Some models state a number for each layer.
    if not isinstance(heads, int):
        return

    if isinstance(key_heads, int) and heads % key_heads:
        raise ValueError(
            f"{prefix}num_attention_heads is {heads}: expected a multiple of the {key_heads} heads of keys "
            "and values (num_key_value_heads)"
        )

    width = settings.get("hidden_size")
    if isinstance(width, int) and not settings.get("head_dim") and width % heads:
        raise ValueError(
            f"{prefix}hidden_size is {width}: expected a multiple of the {heads} attention heads"
        )


def check_size(name: str, size: Any, largest: int, smallest: int = 1) -> None:
    """Check one size.

    Raises:
        ValueError: it is no whole number from `smallest` to `largest`.
    """
    is_whole = isinstance(size, int) and not isinstance(size, bool)
    if not is_whole or not smallest <= size <= largest:
        raise ValueError(f"{name} is {shorten(size)}: expected a whole number from {smallest} to {largest:,}")


def check_file_size(path: Path, largest: int, content: str) -> None:
    """Check the size of a file before it is read.

    Args:
        path: the file.
        largest: bytes that it may have.
        content: what it should hold, such as "a tokenizer".

    Raises:
        ValueError: it is larger.
    """
    size = path.stat().st_size
    if size > largest:
        raise ValueError(
            f"{path} has {size:,} bytes, more than the {largest:,} that a file of {content} may have: "
            "fetch it again"
        )


def check_grids(grids: Any, name: str = "grids") -> None:
    """Check grids of tiles, `[[rows, cols], ...]`.

    Raises:
        ValueError: they are no list of pairs of whole numbers, or have too many tiles.
    """
    if not isinstance(grids, list | tuple):
        raise ValueError(f"{name} is {shorten(grids)}: expected a list such as [[2, 2]]")
    for grid in grids:
        if not isinstance(grid, list | tuple) or len(grid) != 2:
            raise ValueError(f"{name} holds {shorten(grid)}: expected rows and columns, such as [2, 2]")
        for side in grid:
            check_size(name, side, MAX_TILES)
        check_size(f"the number of tiles in {name}", grid[0] * grid[1], MAX_TILES)
