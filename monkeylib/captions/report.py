"""A page that shows what became of pictures: boxes, masks, texts, scores, what was dropped, the description.

One HTML file that needs no network and no script; in a notebook, `show` draws the same in a cell. Boxes bear
the numbers of the table's rows, and pointing at one names it.
"""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from monkeylib import paths
from monkeylib.captions import checks, drawing
from monkeylib.captions.annotations import Record
from monkeylib.captions.drawing import LEVELS, Entry
from monkeylib.captions.sources import Source

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


def _table(record: Record) -> str:
    rows = [_row(number, entry) for number, entry in enumerate(drawing.entries(record), 1)]
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


def _picture(record: Record, source: Source, pixels: int) -> str:
    try:
        return drawing.svg(record, source.open(), pixels)
    except (OSError, ValueError) as error:
        return f"<p class=bad>{escape(str(error))}</p>"
