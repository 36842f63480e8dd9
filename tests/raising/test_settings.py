import json

import pytest

from monkeylib.raising.grids import TileGrids
from monkeylib.raising.settings import RaisingSettings


def build(mode="per_tile", grid="2x2") -> RaisingSettings:
    return RaisingSettings(
        family="LlavaForConditionalGeneration",
        base="owner/name",
        grids=TileGrids.of(grid),
        ranks={"tower.0.q_proj": 4},
        mode=mode,
        dropout=0.1,
        tile_size=28,
        tokens_per_view=4,
        resize_mode="pad",
        resizes_global_view=False,
    )


@pytest.mark.parametrize("grid", ["2x2", [(2, 2), (1, 3)], "auto:5"], ids=str)
def test_file_holds_all_fields(grid):
    settings = build(grid=grid)
    assert RaisingSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize(
    ("mode", "grid", "names", "adapters"),
    [
        ("per_tile", "1x2", ["tile-0", "tile-1"], [0, 1]),
        ("per_tile", "auto:2", ["tile-0-0", "tile-0-1", "tile-1-0"], [0, 1, 2]),
        ("shared", "1x2", ["tile-0"], [0, 0]),
        ("none", "1x2", [], [-1, -1]),
        ("full", "1x2", [], [-1, -1]),
    ],
)
def test_adapters_of_a_mode(mode, grid, names, adapters):
    settings = build(mode, grid)
    assert settings.adapter_names == names
    assert settings.adapter_of_tile == adapters
