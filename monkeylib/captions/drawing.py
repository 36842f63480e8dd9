"""A picture with what was found in it, as SVG in the picture's own coordinates.

Lines and numbers have the same size on the page whatever the picture's is. Boxes lie on a white line, so that
they are seen on any ground; masks have an outline, and those that touch different colours.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image

from monkeylib.captions import labels
from monkeylib.captions.annotations import Box, Mask, OcrLine, Record, Region
from monkeylib.captions.compose import reading_order

LEVELS = {"region": "#0b6e99", "segment": "#3f7f33", "line": "#b0437b", "dropped": "#b85c1b"}
WIDTH, HEIGHT = 420, 560  # pixels of the page that a picture fills at most
_FONT, _STROKE, _HALO = 11, 1.6, 3.2  # pixels of the page
_MASK_COLOURS = ("#5a9a4a", "#7d6bb0", "#0b6e99", "#e0b020", "#b0437b", "#3aa6a0", "#d9622b", "#8a5a3c")
_INSIDE = 90  # of 255: how much a mask covers


class Entry(NamedTuple):
    """A finding as the picture and the table show it, under one number."""

    level: str
    corners: tuple[tuple[float, float], ...]
    cells: tuple[str, ...]  # text, expert, score, match, why it was dropped

    @property
    def box(self) -> Box:
        """The upright box around the corners."""
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def entries(record: Record) -> list[Entry]:
    """What was found: regions, lines in reading order, and what was dropped."""
    return [
        *(_of_region(region) for region in record.regions),
        *(_of_line(line) for line in reading_order(record.lines)),
        *(
            Entry("dropped", _corners(d.box), (d.text, d.expert, _number(d.value), "", d.reason))
            for d in record.dropped
        ),
    ]


def _of_region(region: Region) -> Entry:
    cells = (region.text, region.expert, _number(region.score), _number(region.match), "")
    return Entry(region.kind, _corners(region.box), cells)


def _of_line(line: OcrLine) -> Entry:
    return Entry("line", line.quad, (line.text, line.expert, _number(line.confidence), "", ""))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _corners(box: Box) -> tuple[tuple[float, float], ...]:
    x0, y0, x1, y1 = box
    return (x0, y0), (x1, y0), (x1, y1), (x0, y1)


def svg(record: Record, image: Image.Image, pixels: int) -> str:
    """The picture, at most so many pixels wide and high, with masks, boxes and numbers on it.

    A box is named where one points at it; of boxes that lie in each other, the smallest.
    """
    image = image.copy()
    image.thumbnail((pixels, pixels))
    unit = max(record.width / WIDTH, record.height / HEIGHT)  # a pixel of the page
    layers = [_image(_data(image, "JPEG"), record)]
    if any(region.mask for region in record.regions):
        layers.append(_image(_data(masks(record.regions, image.size), "PNG"), record))
    found = entries(record)
    layers += [_outline(entry, unit) for entry in sorted(found, key=lambda entry: -_area(entry.box))]
    layers += _labels(found, record, unit)
    label = escape(record.detailed_caption or record.name, quote=True)
    box = f"0 0 {record.width} {record.height}"
    return f'<svg viewBox="{box}" role="img" aria-label="{label}">{"".join(layers)}</svg>'


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _outline(entry: Entry, unit: float) -> str:
    """A finding's outline; dashed where it was dropped."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in entry.corners)
    dash = f' stroke-dasharray="{4 * unit:.3f}"' if entry.level == "dropped" else ""
    tip = escape(", ".join(cell for cell in entry.cells if cell))
    halo = f'stroke="white" stroke-opacity="0.7" stroke-width="{_HALO * unit:.3f}"'
    line = f'stroke="{LEVELS[entry.level]}" stroke-width="{_STROKE * unit:.3f}"{dash}'
    return (
        f'<polygon points="{points}" fill="none" {halo}/>'
        f'<polygon points="{points}" fill="transparent" {line}><title>{tip}</title></polygon>'
    )


def _labels(found: Sequence[Entry], record: Record, unit: float) -> list[str]:
    """The findings' numbers, white on their colour."""
    height = (_FONT + 3) * unit
    widths = [(0.62 * _FONT * len(str(number)) + 5) * unit for number in range(1, len(found) + 1)]
    sizes = [(width, height) for width in widths]
    spots = labels.place([entry.box for entry in found], sizes, (record.width, record.height))
    return [
        f'<g class="number"><rect x="{x:.3f}" y="{y:.3f}" width="{width:.3f}" height="{height:.3f}" '
        f'rx="{2 * unit:.3f}" fill="{LEVELS[entry.level]}"/><text x="{x + width / 2:.3f}" '
        f'y="{y + (_FONT + 0.5) * unit:.3f}" font-size="{_FONT * unit:.3f}" fill="white" '
        f'text-anchor="middle">{number}</text></g>'
        for number, (entry, (x, y), width) in enumerate(zip(found, spots, widths, strict=True), 1)
    ]


def masks(regions: Sequence[Region], size: tuple[int, int]) -> Image.Image:
    """The masks as transparent colours with an outline, the smallest on top."""
    canvas = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    masked = [(region.box, region.mask) for region in regions if region.mask is not None]
    masked.sort(key=lambda pair: -pair[1].area)
    for (_, mask), colour in zip(masked, _colours([box for box, _ in masked]), strict=True):
        inside = _resized(mask, size)
        shade = [*bytes.fromhex(colour.lstrip("#"))]
        canvas[inside] = [*shade, _INSIDE]
        canvas[inside & ~_shrunk(inside)] = [*shade, 255]
    return Image.fromarray(canvas, "RGBA")


def _resized(mask: Mask, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.array()).resize(size, Image.Resampling.NEAREST))


def _shrunk(inside: np.ndarray) -> np.ndarray:
    """A mask without the pixels at its edge; the picture's edge is none."""
    padded = np.pad(inside, 1, mode="edge")
    sides = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    return np.logical_and.reduce([inside, *sides])


def _colours(boxes: Sequence[Box]) -> list[str]:
    """A colour for each box that no box it touches has, as long as there are enough."""
    chosen: list[str] = []
    for number, box in enumerate(boxes):
        near = {colour for other, colour in zip(boxes, chosen, strict=False) if _touch(box, other)}
        turned = [_MASK_COLOURS[(number + step) % len(_MASK_COLOURS)] for step in range(len(_MASK_COLOURS))]
        chosen.append(next((colour for colour in turned if colour not in near), turned[0]))
    return chosen


def _touch(first: Box, second: Box) -> bool:
    return all(first[i] <= second[i + 2] and second[i] <= first[i + 2] for i in (0, 1))


def _image(data: str, record: Record) -> str:
    size = f'width="{record.width}" height="{record.height}"'
    return f'<image href="{data}" {size} preserveAspectRatio="none"/>'


def _data(image: Image.Image, form: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=80) if form == "JPEG" else image.save(buffer, form, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{encoded}"
