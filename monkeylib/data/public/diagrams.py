"""AI2D's diagrams with letters in the place of their texts, which many of its questions ask about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from monkeylib import resources

_SMALLEST = 6  # points


def draw_letters(image: Path, texts: dict[str, dict[str, Any]], out: Path) -> None:
    """Write a diagram in which each text is covered and its letter stands in its place.

    AI2D's archive holds the letters and their places, not these images.

    Args:
        image: the diagram.
        texts: `text` of its annotation: `rectangle`, two corners in pixels, and `replacementText` of each.
        out: PNG file.
    """
    with Image.open(image) as opened:
        diagram = opened.convert("RGB")
    draw = ImageDraw.Draw(diagram)
    for text in texts.values():
        (left, top), (right, bottom) = text["rectangle"]
        draw.rectangle((left, top, right, bottom), fill="white")
        font = ImageFont.load_default(max(_SMALLEST, min(right - left, bottom - top)))
        middle = ((left + right) / 2, (top + bottom) / 2)
        draw.text(middle, text["replacementText"], fill="black", font=font, anchor="mm")
    with resources.atomic_write(out) as temporary:
        diagram.save(temporary, "PNG")
