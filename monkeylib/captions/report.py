"""A page that shows what became of pictures: boxes, masks, texts, scores, what was dropped, the description.

One HTML file that needs no network and no script; in a notebook, `show` draws the same in a cell. Boxes bear
the numbers of the table's rows, and pointing at one names it.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from monkeylib import paths
from monkeylib.captions import checks
from monkeylib.captions.annotations import Box, Record, Region
from monkeylib.captions.compose import reading_order
from monkeylib.captions.sources import Source

LEVELS = {"region": "#0b6e99", "segment": "#5a9a4a", "line": "#b0437b", "dropped": "#e07b39"}
_MASK_COLOURS = ("#5a9a4a", "#7d6bb0", "#0b6e99", "#c9a227", "#b0437b", "#3aa6a0")
_STYLE = """
.monkey-report { font: 14px/1.45 system-ui, sans-serif; color: #22303c; max-width: 1100px; margin: auto }
.monkey-report h1 { font-size: 22px } .monkey-report h2 { font-size: 16px; margin: 0 0 6px }
.monkey-report article { display: grid; grid-template-columns: minmax(240px, 420px) 1fr; gap: 18px;
  border-top: 1px solid #c9d1d9; padding: 16px 0 }
.monkey-report svg { width: 100%; height: auto; display: block; background: #eef1f4 }
.monkey-report .said { font-size: 16px; margin: 0 0 8px } .monkey-report mark { background: #f6d8c2 }
.monkey-report table { border-collapse: collapse; width: 100%; font-size: 12.5px }
.monkey-report td, .monkey-report th { text-align: left; padding: 2px 8px 2px 0; vertical-align: top }
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
        with paths.replacing(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")
        return path


def show(
    records: Sequence[Record],
    sources: Sequence[Source],
    *,
    pixels: int = 480,
    title: str = "What the experts saw",
    notes: Iterable[str] = (),
) -> Report:
    """The report of some pictures.

    Args:
        records: what the pipeline wrote of each.
        sources: the pictures, in the same order.
        pixels: the longer side of a picture as it is shown.
        title: of the page.
        notes: sentences below it.

    Raises:
        ValueError: there isn't a record for each picture.
    """
    if len(records) != len(sources):
        raise ValueError(f"a report needs a record for each picture, got {len(records)} for {len(sources)}")
    legend = " ".join(
        f'<span><i style="background:{colour}"></i>{name}</span>' for name, colour in LEVELS.items()
    )
    above = f"<h1>{escape(title)}</h1><p class=note>{legend}</p>" + "".join(
        f"<p class=note>{escape(note)}</p>" for note in notes
    )
    pairs = zip(records, sources, strict=True)
    return Report(above + "".join(_article(record, source, pixels) for record, source in pairs), title)


def _article(record: Record, source: Source, pixels: int) -> str:
    picture = _picture(record, source, pixels) if record.width else "<p class=bad>no picture</p>"
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
    return f"<article><div>{picture}</div><div>{text}</div></article>"


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


class _Entry(NamedTuple):
    """A finding as the picture and the table show it, under one number."""

    level: str
    shape: str
    cells: tuple[str, ...]  # text, expert, score, match, why it was dropped


def _entries(record: Record) -> list[_Entry]:
    """What was found: regions, lines in reading order, and what was dropped."""
    found = []
    for r in record.regions:
        cells = (r.text, r.expert, f"{r.score:.2f}", "" if r.match is None else f"{r.match:.2f}", "")
        found.append(_Entry(r.kind, _corners(r.box), cells))
    for x in reading_order(record.lines):
        shape = " ".join(f"{px:.1f},{py:.1f}" for px, py in x.quad)
        found.append(_Entry("line", shape, (x.text, x.expert, f"{x.confidence:.2f}", "", "")))
    for d in record.dropped:
        value = "" if d.value is None else f"{d.value:.2f}"
        found.append(_Entry("dropped", _corners(d.box), (d.text, d.expert, value, "", d.reason)))
    return found


def _corners(box: Box) -> str:
    x0, y0, x1, y1 = box
    return f"{x0:.1f},{y0:.1f} {x1:.1f},{y0:.1f} {x1:.1f},{y1:.1f} {x0:.1f},{y1:.1f}"


def _table(record: Record) -> str:
    rows = [_row(number, entry) for number, entry in enumerate(_entries(record), 1)]
    if not rows:
        return ""
    head = "<tr><th></th><th>text</th><th>expert</th><th>score</th><th>match</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _row(number: int, entry: _Entry) -> str:
    text, expert, score, match, reason = map(escape, entry.cells)
    chip = f'<i style="background:{LEVELS[entry.level]}"></i>'
    return (
        f'<tr class="{entry.level}"><td class=n>{number} {chip}</td><td class=t>{text}</td><td>{expert}</td>'
        f"<td class=n>{score}</td><td class=n>{match}</td><td>{reason}</td></tr>"
    )


def _picture(record: Record, source: Source, pixels: int) -> str:
    """The picture with what was found in it, as an SVG in the picture's own coordinates."""
    try:
        image = source.open()
    except (OSError, ValueError) as error:
        return f"<p class=bad>{escape(str(error))}</p>"
    image.thumbnail((pixels, pixels))
    unit = max(record.width, record.height) / 250
    layers = [_image(_data(image, "JPEG"), record)]
    if any(region.mask for region in record.regions):
        layers.append(_image(_data(_masks(record.regions, image.size), "PNG"), record))
    layers += [_outline(number, entry, unit) for number, entry in enumerate(_entries(record), 1)]
    label = escape(record.detailed_caption or record.name, quote=True)
    box = f"0 0 {record.width} {record.height}"
    return f'<svg viewBox="{box}" role="img" aria-label="{label}">{"".join(layers)}</svg>'


def _outline(number: int, entry: _Entry, unit: float) -> str:
    """A finding's outline with its number; dashed where it was dropped, named where one points at it."""
    colour, (x, y) = LEVELS[entry.level], entry.shape.split()[0].split(",")
    dash = f' stroke-dasharray="{3 * unit:.1f}"' if entry.level == "dropped" else ""
    tip = escape(", ".join(cell for cell in entry.cells if cell))
    style = f'fill="transparent" stroke="{colour}" stroke-width="{unit:.2f}"{dash}'
    size = f'font-size="{8 * unit:.1f}" fill="{colour}" stroke="white" stroke-width="{2 * unit:.1f}"'
    place = f'x="{float(x) + 2 * unit:.1f}" y="{float(y) + 8 * unit:.1f}"'
    return (
        f'<polygon points="{entry.shape}" {style}><title>{tip}</title></polygon>'
        f'<text {place} {size} paint-order="stroke">{number}</text>'
    )


def _masks(regions: Sequence[Region], size: tuple[int, int]) -> Image.Image:
    """The masks as transparent colours, the smallest on top."""
    canvas = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    masked = [region.mask for region in regions if region.mask is not None]
    for number, mask in enumerate(sorted(masked, key=lambda mask: -mask.area)):
        inside = np.asarray(Image.fromarray(mask.array()).resize(size, Image.Resampling.NEAREST))
        colour = _MASK_COLOURS[number % len(_MASK_COLOURS)].lstrip("#")
        canvas[inside] = [*bytes.fromhex(colour), 110]
    return Image.fromarray(canvas, "RGBA")


def _image(data: str, record: Record) -> str:
    size = f'width="{record.width}" height="{record.height}"'
    return f'<image href="{data}" {size} preserveAspectRatio="none"/>'


def _data(image: Image.Image, form: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=80) if form == "JPEG" else image.save(buffer, form, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{encoded}"
