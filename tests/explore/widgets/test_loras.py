"""The LoRAs of one block."""

import pytest

from monkeylib import explore


def row(block, tile, other, norm, cosine):
    return {"block": block, "tile": tile, "other": other, "norm": norm, "cosine": cosine}


ROWS = [
    row(block, tile, other, norm=1.0 + block + tile, cosine=1.0 if tile == other else 0.1 * block)
    for block in (1, 2)
    for tile in (0, 1)
    for other in (0, 1)
]


def test_figure_shows_the_block_on_the_scale_of_all():
    heights = {}
    for block in (1, 2):
        bars, heat, *_ = explore.show_loras(ROWS, block).figure().axes
        assert [bar.get_height() for bar in bars.patches] == [1.0 + block, 2.0 + block]
        assert [text.get_text() for text in heat.texts][1] == f"+{0.1 * block:.2f}"
        heights[block] = bars.get_ylim()
    assert heights[1] == heights[2]


def test_block_without_lora():
    with pytest.raises(ValueError, match=r"expected a block with LoRA, one of \[1, 2\], got 7"):
        explore.show_loras(ROWS, 7)
