"""Documents: receipts, forms, tables and bar charts, drawn line by line with every fact recorded."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator
from PIL import Image, ImageDraw

from monkeylib.data.synthetic import words
from monkeylib.data.synthetic.canvas import FONTS, Text, draw_text, paper_background, text_width

KINDS = ("receipt", "form", "table", "chart")
BAR_COLOURS = ((200, 70, 60), (70, 120, 200), (80, 160, 90), (210, 150, 50), (140, 90, 170))


@dataclass(frozen=True)
class Row:
    """One line: its key and its values, left to right (receipts, forms and charts have one value)."""

    key: Text
    values: tuple[Text, ...]


@dataclass(frozen=True)
class Document:
    """What is written on a sheet: a title, column heads if it is a table, and rows."""

    kind: str
    title: Text
    columns: tuple[Text, ...]  # tables only
    rows: tuple[Row, ...]

    @property
    def texts(self) -> list[Text]:
        """All texts in reading order."""
        return [self.title, *self.columns, *(t for row in self.rows for t in (row.key, *row.values))]


class _Page:
    """A sheet being filled from top to bottom."""

    def __init__(self, rng: Generator, size: tuple[int, int], height: int):
        self.dark = bool(rng.random() < 0.12)
        self.image = paper_background(rng, size, self.dark)
        self.draw = ImageDraw.Draw(self.image)
        self.face = FONTS[rng.integers(len(FONTS))]
        self.height = height
        self.pitch = height * rng.uniform(1.22, 1.5)
        small = (
            height < 0.08 * size[1]
        )  # small print may fill a narrow column anywhere on the sheet, as on a receipt
        width = size[0] * float(rng.uniform(0.5, 0.98) if small else rng.uniform(0.93, 0.98))
        self.left = float(rng.uniform(2, size[0] - width - 1)) if width < size[0] - 3 else 2.0
        self.right = self.left + width - 2
        self.y = float(rng.uniform(1, 0.4 * size[1] if small and rng.random() < 0.5 else 0.3 * height))
        self.bottom = size[1] - 1.0
        ink = rng.integers(0, 60, 3) if not self.dark else rng.integers(200, 255, 3)
        self.ink = (int(ink[0]), int(ink[1]), int(ink[2]))

    @property
    def room(self) -> int:
        """Lines of body text that still fit."""
        return max(0, int((self.bottom - self.y) // self.pitch))

    def fits(self, *strings: str) -> bool:
        """Whether the strings fit side by side with a gap between them."""
        gap = 0.7 * self.height
        return (
            sum(text_width(s, self.face, self.height) + gap for s in strings) - gap <= self.right - self.left
        )

    def write(
        self, x: float, string: str, align: str = "left", face: str | None = None, height: int | None = None
    ) -> Text:
        face, height = face or self.face, height or self.height
        width = text_width(string, face, height)
        x = {"left": x, "right": x - width, "centre": x - width / 2}[align]
        return draw_text(self.draw, (x, self.y), string, face, height, self.ink)

    def title(self, rng: Generator, string: str, height: int) -> Text:
        """The first line, centred or at the left, with a rule below."""
        while height > self.height and text_width(string, self.face, height) > self.right - self.left:
            height -= 1
        centred = rng.random() < 0.5
        text = self.write(
            (self.left + self.right) / 2 if centred else self.left,
            string,
            "centre" if centred else "left",
            height=height,
        )
        self.y += height * 1.3
        self.draw.line((self.left, self.y, self.right, self.y), fill=self.ink)
        self.y += 2
        return text


def _receipt(rng: Generator, split: str, page: _Page, title_height: int) -> Document:
    shop = words.draw_value(
        "shop", split, lambda: f"{words.pick(rng, words.SHOPS)[0]} {rng.integers(1, 100)}"
    )
    title = page.title(rng, shop, title_height)
    count = min(page.room - 1, int(rng.integers(2, 13)))
    items = [w for w in words.pick(rng, words.ITEMS, count) if page.fits(w, "29.99")]
    lines: list[tuple[str, str]] = []

    def add_up() -> str:
        lines[:] = [(item, words.draw_value(item, split, lambda: words.price(rng))) for item in items]
        cents = sum(round(100 * float(value)) for _, value in lines)
        return f"{cents // 100}.{cents % 100:02d}"

    total = words.draw_value("total", split, add_up if items else lambda: words.price(rng))
    rows = []
    for key, value in [*lines, ("total", total)]:
        rows.append(Row(page.write(page.left, key), (page.write(page.right, value, "right"),)))
        page.y += page.pitch
    return Document("receipt", title, (), tuple(rows))


def _form(rng: Generator, split: str, page: _Page, title_height: int) -> Document:
    heading = words.draw_value(
        "form", split, lambda: f"{words.pick(rng, words.FORM_TITLES)[0]} {rng.integers(1, 1000)}"
    )
    title = page.title(rng, heading, title_height)
    aligned = rng.random() < 0.5
    rows = []
    for key in words.pick(rng, list(words.FIELDS), min(page.room, int(rng.integers(3, 13)))):
        value = words.draw_value(key, split, lambda key=key: words.FIELDS[key](rng))
        if page.fits(key + ":", value):
            label = page.write(page.left, key + ":")
            x = page.right if aligned else label.box[2] + 0.6 * page.height
            rows.append(Row(label, (page.write(x, value, "right" if aligned else "left"),)))
            page.y += page.pitch
    return Document("form", title, (), tuple(rows))


def _table(rng: Generator, split: str, page: _Page, title_height: int) -> Document:
    heading = words.draw_value(
        "table", split, lambda: f"{words.pick(rng, words.TABLE_TITLES)[0]} {rng.integers(1980, 2030)}"
    )
    title = page.title(rng, heading, title_height)
    names = words.pick(rng, words.COLUMNS, int(rng.integers(1, 4)))
    while len(names) > 1 and not page.fits("miami", *names):
        names.pop()
    step = (page.right - page.left - text_width("miami", page.face, page.height)) / len(names)
    rights = [page.right - step * (len(names) - 1 - i) for i in range(len(names))]
    columns = tuple(page.write(x, name, "right") for x, name in zip(rights, names, strict=True))
    page.y += page.pitch
    keys = [w for w in (words.DAYS if rng.random() < 0.4 else words.CITIES) if len(w) <= 5]
    rows = []
    for key in words.pick(rng, keys, min(page.room, int(rng.integers(2, 11)))):
        values = [words.draw_value(f"{key} {name}", split, lambda: words.number(rng)) for name in names]
        rows.append(
            Row(
                page.write(page.left, key),
                tuple(page.write(x, v, "right") for x, v in zip(rights, values, strict=True)),
            )
        )
        page.y += page.pitch
    return Document("table", title, columns, tuple(rows))


def _chart(rng: Generator, split: str, page: _Page, title_height: int) -> Document:
    heading = words.draw_value(
        "chart", split, lambda: f"{words.pick(rng, words.TABLE_TITLES)[0]} {words.pick(rng, words.MONTHS)[0]}"
    )
    title = page.title(rng, heading, title_height)
    keys = words.pick(
        rng, [w for w in words.CITIES + words.ITEMS if len(w) <= 5], min(page.room, int(rng.integers(3, 10)))
    )
    values = [words.draw_value(key, split, lambda: str(rng.integers(1, 100))) for key in keys]
    start = page.left + max(text_width(k, page.face, page.height) for k in keys) + 0.3 * page.height
    space = page.right - start - text_width("99", page.face, page.height) - 0.4 * page.height
    colour = BAR_COLOURS[rng.integers(len(BAR_COLOURS))]
    rows = []
    for key, value in zip(keys, values, strict=True):
        label = page.write(page.left, key)
        end = start + space * int(value) / 100
        page.draw.rectangle((start, label.box[1], end, label.box[3]), fill=colour)
        rows.append(Row(label, (page.write(end + 0.3 * page.height, value),)))
        page.y += page.pitch
    return Document("chart", title, (), tuple(rows))


_MAKERS = {"receipt": _receipt, "form": _form, "table": _table, "chart": _chart}


def make_document(
    rng: Generator, split: str, size: tuple[int, int], kind: str, height: int, title_height: int
) -> tuple[Image.Image, Document]:
    """A document of one kind; `height` and `title_height` are font sizes in pixels."""
    page = _Page(rng, size, height)
    return page.image, _MAKERS[kind](rng, split, page, title_height)
