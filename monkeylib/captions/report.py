"""An image with what was found in it, as SVG in the image's own coordinates.

Lines and numbers have the same size on the page whatever the image's is. Boxes lie on a white line, so that
they are seen on any ground; masks have an outline, and those that touch different colours.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from monkeylib import resources
from monkeylib.boxes import Box, area, bounding_box, intersection_area, touch
from monkeylib.captions import checks
from monkeylib.captions.annotations import Mask, OcrLine, Record, Region
from monkeylib.captions.composers.rules import reading_order
from monkeylib.captions.input_images import InputImage

_SPARE = 0.5  # of a label's size: the steps of the search for a free place


def place(
    boxes: Sequence[Box], labels: Sequence[tuple[float, float]], size: tuple[float, float]
) -> list[tuple[float, float]]:
    """The top left corners of labels, one for each box, inside an image.

    At a corner of its box if one is free (outside of a box that the label would hide), else at the nearest
    free place; where there is none, the label covers as little of others as it can.

    Args:
        boxes: what the labels belong to.
        labels: width and height of each.
        size: width and height of the image.
    """
    placed: list[Box] = []
    for box, label in zip(boxes, labels, strict=True):
        x, y = _free(box, label, size, placed)
        placed.append((x, y, x + label[0], y + label[1]))
    return [(x, y) for x, y, _, _ in placed]


def _free(
    box: Box, label: tuple[float, float], size: tuple[float, float], placed: Sequence[Box]
) -> tuple[float, float]:
    covered: dict[tuple[float, float], float] = {}
    for spots in (_label_corners(box, label), _everywhere(box, label, size)):
        for spot in spots:
            x, y = (min(max(0.0, spot[i]), max(0.0, size[i] - label[i])) for i in (0, 1))
            covered[x, y] = sum(
                intersection_area((x, y, x + label[0], y + label[1]), other) for other in placed
            )
            if not covered[x, y]:
                return x, y
    return min(covered, key=covered.__getitem__)


def _label_corners(box: Box, label: tuple[float, float]) -> list[tuple[float, float]]:
    """Places at the corners of a box, inside and outside."""
    x0, y0, x1, y1 = box
    width, height = label
    inside = [(x, y) for y in (y0, y1 - height) for x in (x0, x1 - width)]
    beside = [(x0 - width, y0), (x1, y0)]
    outside = [*beside, *((x, y) for y in (y0 - height, y1) for x in (x0, x1 - width))]
    small = x1 - x0 < 3 * width or y1 - y0 < 2 * height
    return [*outside, *inside] if small else [*inside, *outside]


def _everywhere(box: Box, label: tuple[float, float], size: tuple[float, float]) -> list[tuple[float, float]]:
    """Places all over the image, those next to the box's first corner first."""
    columns, rows = (max(1, int(size[i] / (label[i] * _SPARE))) for i in (0, 1))
    spots = [
        (column * label[0] * _SPARE, row * label[1] * _SPARE)
        for column in range(columns)
        for row in range(rows)
    ]
    return sorted(spots, key=lambda spot: (spot[0] - box[0]) ** 2 + (spot[1] - box[1]) ** 2)


LEVELS = {"region": "#0b6e99", "segment": "#3f7f33", "line": "#b0437b", "dropped": "#b85c1b"}
WIDTH, HEIGHT = 420, 560  # pixels of the page that an image fills at most
_FONT, _STROKE, _HALO = 11, 1.6, 3.2  # pixels of the page
_MASK_COLOURS = ("#5a9a4a", "#7d6bb0", "#0b6e99", "#e0b020", "#b0437b", "#3aa6a0", "#d9622b", "#8a5a3c")
_INSIDE = 90  # of 255: how much a mask covers


class Entry(NamedTuple):
    """A finding as the image and the table show it, under one number."""

    level: str
    corners: tuple[tuple[float, float], ...]
    cells: tuple[str, ...]  # text, expert, score, match, why it was dropped

    @property
    def box(self) -> Box:
        """The upright box around the corners."""
        return bounding_box(self.corners)


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
    """The image, at most so many pixels wide and high, with masks, boxes and numbers on it.

    A box is named where one points at it; of boxes that lie in each other, the smallest.
    """
    image = image.copy()
    image.thumbnail((pixels, pixels))
    unit = max(record.width / WIDTH, record.height / HEIGHT)  # a pixel of the page
    layers = [_image(_data(image, "JPEG"), record)]
    if any(region.mask for region in record.regions):
        layers.append(_image(_data(masks(record.regions, image.size), "PNG"), record))
    found = entries(record)
    layers += [_outline(entry, unit) for entry in sorted(found, key=lambda entry: -area(entry.box))]
    layers += _labels(found, record, unit)
    label = escape(record.detailed_caption or record.name, quote=True)
    box = f"0 0 {record.width} {record.height}"
    return f'<svg viewBox="{box}" role="img" aria-label="{label}">{"".join(layers)}</svg>'


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
    spots = place([entry.box for entry in found], sizes, (record.width, record.height))
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
    """A mask without the pixels at its edge; the image's edge is none."""
    padded = np.pad(inside, 1, mode="edge")
    sides = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    return np.logical_and.reduce([inside, *sides])


def _colours(boxes: Sequence[Box]) -> list[str]:
    """A colour for each box that no box it touches has, as long as there are enough."""
    chosen: list[str] = []
    for number, box in enumerate(boxes):
        near = {colour for other, colour in zip(boxes, chosen, strict=False) if touch(box, other)}
        turned = [_MASK_COLOURS[(number + step) % len(_MASK_COLOURS)] for step in range(len(_MASK_COLOURS))]
        chosen.append(next((colour for colour in turned if colour not in near), turned[0]))
    return chosen


def _image(data: str, record: Record) -> str:
    size = f'width="{record.width}" height="{record.height}"'
    return f'<image href="{data}" {size} preserveAspectRatio="none"/>'


def _data(image: Image.Image, form: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=80) if form == "JPEG" else image.save(buffer, form, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{encoded}"


_STYLE = """
.monkey-report { font: 14px/1.45 system-ui, sans-serif; color: #22303c; max-width: 1100px; margin: auto }
.monkey-report h1 { font-size: 22px } .monkey-report h2 { font-size: 16px; margin: 0 0 6px }
.monkey-report article { display: grid; grid-template-columns: minmax(240px, 420px) minmax(0, 1fr); gap: 18px;
  border-top: 1px solid #c9d1d9; padding: 16px 0 }
.monkey-report svg { width: 100%; height: auto; max-height: 560px; display: block; overflow: visible }
.monkey-report svg .number { font-weight: 600; pointer-events: none }
.monkey-report .said { font-size: 16px; margin: 0 0 8px } .monkey-report mark { background: #f6d8c2 }
.monkey-report table { border-collapse: collapse; width: 100%; font-size: 12.5px }
.monkey-report td, .monkey-report th { text-align: left; padding: 2px 8px 2px 0; vertical-align: top }
.monkey-report td, .monkey-report p, .monkey-report h2 { overflow-wrap: anywhere }
.monkey-report td.t { min-width: 9em } .monkey-report td.n { white-space: nowrap }
.monkey-report td.n { text-align: right; font-variant-numeric: tabular-nums }
.monkey-report tr.dropped td { color: #8a8f98 }
.monkey-report tr.dropped td.t { text-decoration: line-through }
.monkey-report small, .monkey-report .note { color: #5d6873 } .monkey-report .bad { color: #a3341b }
.monkey-report i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 4px }
@media (max-width: 720px) { .monkey-report article { grid-template-columns: 1fr } }
"""


class Report:
    """A page that notebooks show and `write` keeps."""

    def __init__(self, body: str, title: str) -> None:
        self.body, self.title = body, title

    def __repr__(self) -> str:
        return f"Report({self.title!r})"

    def _repr_html_(self) -> str:
        return f'<style>{_STYLE}</style><div class="monkey-report">{self.body}</div>'

    def html(self) -> str:
        """The whole page."""
        head = f'<meta charset="utf-8"><title>{escape(self.title)}</title>'
        view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
        body = f"<body>{self._repr_html_()}</body>"
        return f'<!doctype html><html lang="en"><head>{head}{view}</head>{body}</html>\n'

    def write(self, path: Path | str) -> Path:
        """Write the page, in one move."""
        path = Path(path)
        with resources.atomic_write(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")
        return path


def show(
    records: Sequence[Record],
    sources: Sequence[InputImage],
    *,
    pixels: int = 480,
    title: str = "What the experts saw",
    notes: Iterable[str] = (),
) -> Report:
    """The report of some images.

    Args:
        records: what the pipeline wrote of each.
        sources: the images, in the same order.
        pixels: the longer side of an image as it is shown.
        title: of the page.
        notes: sentences below it.

    Raises:
        ValueError: there isn't a record for each image.
    """
    if len(records) != len(sources):
        raise ValueError(f"a report needs a record for each image, got {len(records)} for {len(sources)}")
    legend = " ".join(
        f'<span><i style="background:{colour}"></i>{name}</span>' for name, colour in LEVELS.items()
    )
    above = f"<h1>{escape(title)}</h1><p class=note>{legend}</p>" + "".join(
        f"<p class=note>{escape(note)}</p>" for note in notes
    )
    pairs = zip(records, sources, strict=True)
    return Report(above + "".join(_article(record, source, pixels) for record, source in pairs), title)


def _article(record: Record, source: InputImage, pixels: int) -> str:
    image = _image(record, source, pixels) if record.width else "<p class=bad>no image</p>"
    failures = "".join(
        f"<p class=bad>{escape(item.stage)}: {escape(item.error)}</p>" for item in record.failures
    )
    whole = "".join(
        f"<p><small>{escape(item.expert)}</small> {escape(item.text)}{_percent(item.score)}</p>"
        for item in record.captions
    )
    original = (
        f"<p><small>original caption</small> {escape(record.original_caption)}</p>"
        if record.original_caption
        else ""
    )
    text = f"<h2>{escape(record.name)}</h2>{_description(record)}{failures}{original}{whole}{_table(record)}"
    return f"<article><div>{image}</div><div>{text}</div></article>"


def _percent(score: float | None) -> str:
    return "" if score is None else f" <small>{score:.2f}</small>"


def _description(record: Record) -> str:
    if not record.detailed_caption:
        return "<p class=note>no description</p>"
    text = escape(record.detailed_caption)
    if record.check is None:
        return f"<p class=said>{text}</p>"
    marked = checks.mark(record.detailed_caption, record.check.unsupported)
    said = "".join(f"<mark>{escape(part)}</mark>" if odd else escape(part) for part, odd in marked)
    problems = "".join(f" <span class=bad>{escape(problem)}</span>" for problem in record.check.problems)
    sentences = f"{record.check.sentences} sentence{'s' if record.check.sentences != 1 else ''}"
    note = f"grounded {record.check.grounding:.0%}, {sentences}{problems}"
    return f"<p class=said>{said}</p><p class=note>{note}</p>"


def _table(record: Record) -> str:
    rows = [_row(number, entry) for number, entry in enumerate(entries(record), 1)]
    if not rows:
        return ""
    head = "<tr><th></th><th>text</th><th>expert</th><th>score</th><th>match</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _row(number: int, entry: Entry) -> str:
    text, expert, score, match, reason = map(escape, entry.cells)
    chip = f'<i style="background:{LEVELS[entry.level]}"></i>'
    return (
        f'<tr class="{entry.level}"><td class=n>{number} {chip}</td><td class=t>{text}</td><td>{expert}</td>'
        f"<td class=n>{score}</td><td class=n>{match}</td><td>{reason}</td></tr>"
    )


def _image(record: Record, source: InputImage, pixels: int) -> str:
    try:
        return svg(record, source.open(), pixels)
    except (OSError, ValueError) as error:
        return f"<p class=bad>{escape(str(error))}</p>"
