"""Synthetic documents: receipts, forms, tables and bar charts, drawn line by line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator
from PIL import Image, ImageDraw

from monkeylib.data.synthetic import words
from monkeylib.data.synthetic.canvas import STYLE, Style, Text, draw_text, paper_background, text_width

KINDS = ("receipt", "form", "table", "chart")
BAR_COLOURS = ((200, 70, 60), (70, 120, 200), (80, 160, 90), (210, 150, 50), (140, 90, 170))


@dataclass(frozen=True)
class Line:
    """A line of a document: its key and its values from left to right, one except in tables."""

    key: Text
    values: tuple[Text, ...]


@dataclass(frozen=True)
class Document:
    """The text of a document: a title, the heads of a table's columns, and lines."""

    kind: str
    title: Text
    columns: tuple[Text, ...]  # tables only
    lines: tuple[Line, ...]

    @property
    def texts(self) -> list[Text]:
        """All texts in reading order."""
        texts = [self.title, *self.columns]
        for line in self.lines:
            texts += [line.key, *line.values]
        return texts


class _Page:
    """A page that is filled from top to bottom.

    Attributes:
        image: the page as drawn so far.
        face: file of the font.
        height: font size of the body in pixels.
        pitch: distance of two lines in pixels.
        left, right: edges of the column of text.
        y: top of the next line.
        bottom: lower edge of the page.
        ink: colour of the text.
    """

    def __init__(self, rng: Generator, size: tuple[int, int], height: int, style: Style) -> None:
        # One page in eight is dark with light text.
        dark = bool(rng.random() < 0.12)
        self.image = paper_background(rng, size, dark)
        self.draw = ImageDraw.Draw(self.image)

        self.face = style.fonts[rng.integers(len(style.fonts))]
        self.height = height
        self.pitch = height * rng.uniform(1.22, 1.5)

        # Small text may fill a narrow column anywhere on the page, as on a receipt.
        small = height < 0.08 * min(size)
        width = size[0] * float(rng.uniform(0.5, 0.98) if small else rng.uniform(0.93, 0.98))
        self.left = float(rng.uniform(2, size[0] - width - 1)) if width < size[0] - 3 else 2.0
        self.right = self.left + width - 2

        # Half of the pages in small text begin anywhere in the upper part.
        lowest_start = 0.4 * size[1] if small and rng.random() < 0.5 else 0.3 * height
        self.y = float(rng.uniform(1, lowest_start))
        self.bottom = size[1] - 1.0

        ink = rng.integers(200, 255, 3) if dark else rng.integers(0, 60, 3)
        self.ink = (int(ink[0]), int(ink[1]), int(ink[2]))

    @property
    def room(self) -> int:
        """Number of body lines that still fit."""
        return max(0, int((self.bottom - self.y) // self.pitch))

    def fits(self, *strings: str) -> bool:
        """Return whether the strings fit side by side, with a gap between them."""
        gap = 0.7 * self.height
        # One gap fewer than strings.
        width = sum(text_width(string, self.face, self.height) + gap for string in strings) - gap
        return width <= self.right - self.left

    def write(self, x: float, string: str, align: str = "left", height: int | None = None) -> Text:
        """Draw a text on the current line.

        Args:
            x: position in pixels of the edge or centre that `align` names.
            string: the text.
            align: "left", "right" or "centre".
            height: font size in pixels, of the body if not given.
        """
        height = height or self.height
        width = text_width(string, self.face, height)
        left = {"left": x, "right": x - width, "centre": x - width / 2}[align]
        return draw_text(self.draw, (left, self.y), string, self.face, height, self.ink)

    def write_title(self, rng: Generator, string: str, height: int) -> Text:
        """Draw the first line, centred or at the left, with a rule below."""
        # A title that is too wide is set smaller, down to the size of the body.
        while height > self.height and text_width(string, self.face, height) > self.right - self.left:
            height -= 1

        if rng.random() < 0.5:
            text = self.write((self.left + self.right) / 2, string, "centre", height)
        else:
            text = self.write(self.left, string, "left", height)

        self.y += height * 1.3
        self.draw.line((self.left, self.y, self.right, self.y), fill=self.ink)
        self.y += 2
        return text

    def next_line(self) -> None:
        """Move down by one line of the body."""
        self.y += self.pitch


def _draw_receipt(rng: Generator, split: str, page: _Page, title_height: int) -> Document:
    """Draw a shop, items with their prices, and the total."""
    shop = words.draw_value(
        "shop", split, lambda: f"{words.pick(rng, words.SHOPS)[0]} {rng.integers(1, 100)}"
    )
    title = page.write_title(rng, shop, title_height)

    # One line stays free for the total.
    count = min(page.room - 1, int(rng.integers(2, 13)))

    # The widest price decides whether an item fits.
    items = [item for item in words.pick(rng, words.ITEMS, count) if page.fits(item, "29.99")]
    prices: dict[str, str] = {}

    def draw_total() -> str:
        """Draw all prices again and add them up."""
        for item in items:
            prices[item] = words.draw_value(item, split, lambda: words.price(rng))
        cents = sum(round(100 * float(price)) for price in prices.values())
        return f"{cents // 100}.{cents % 100:02d}"

    # The pair ("total", value) must belong to the split, too.
    total = words.draw_value("total", split, draw_total if items else lambda: words.price(rng))

    lines = []

    for key, value in [*prices.items(), ("total", total)]:
        lines.append(Line(page.write(page.left, key), (page.write(page.right, value, "right"),)))
        page.next_line()

    return Document("receipt", title, (), tuple(lines))


def _draw_form(rng: Generator, split: str, page: _Page, title_height: int) -> Document:
    """Draw fields with their values, behind the labels or at the right edge."""
    heading = words.draw_value(
        "form", split, lambda: f"{words.pick(rng, words.FORM_TITLES)[0]} {rng.integers(1, 1000)}"
    )
    title = page.write_title(rng, heading, title_height)

    # All values of a form are aligned in the same way.
    at_right_edge = rng.random() < 0.5
    lines = []
    for key in words.pick(rng, list(words.FIELDS), min(page.room, int(rng.integers(3, 13)))):
        value = words.draw_value(key, split, lambda key=key: words.FIELDS[key](rng))
        if not page.fits(key + ":", value):
            continue

        label = page.write(page.left, key + ":")
        if at_right_edge:
            text = page.write(page.right, value, "right")
        else:
            text = page.write(label.box[2] + 0.6 * page.height, value)

        lines.append(Line(label, (text,)))
        page.next_line()

    return Document("form", title, (), tuple(lines))


def _draw_table(rng: Generator, split: str, page: _Page, title_height: int) -> Document:
    """Draw a table of numbers with one to three columns; its lines are days or cities."""
    heading = words.draw_value(
        "table", split, lambda: f"{words.pick(rng, words.TABLE_TITLES)[0]} {rng.integers(1980, 2030)}"
    )
    title = page.write_title(rng, heading, title_height)

    # Drop columns until a row fits.
    names = words.pick(rng, words.COLUMNS, int(rng.integers(1, 4)))
    while len(names) > 1 and not page.fits("miami", *names):  # "miami": a wide key
        names.pop()

    # Right edges of the columns, evenly spaced behind the keys.
    step = (page.right - page.left - text_width("miami", page.face, page.height)) / len(names)
    edges = [page.right - step * (len(names) - 1 - i) for i in range(len(names))]
    columns = tuple(page.write(x, name, "right") for x, name in zip(edges, names, strict=True))
    page.next_line()

    # Short keys, since columns were placed for "miami".
    keys = [word for word in (words.DAYS if rng.random() < 0.4 else words.CITIES) if len(word) <= 5]
    lines = []
    for key in words.pick(rng, keys, min(page.room, int(rng.integers(2, 11)))):
        values = [words.draw_value(f"{key} {name}", split, lambda: words.number(rng)) for name in names]
        label = page.write(page.left, key)
        cells = tuple(page.write(x, value, "right") for x, value in zip(edges, values, strict=True))
        lines.append(Line(label, cells))
        page.next_line()

    return Document("table", title, columns, tuple(lines))


def _draw_chart(rng: Generator, split: str, page: _Page, title_height: int) -> Document:
    """Draw a bar chart: a key, a bar, and its value on each line."""
    heading = words.draw_value(
        "chart", split, lambda: f"{words.pick(rng, words.TABLE_TITLES)[0]} {words.pick(rng, words.MONTHS)[0]}"
    )
    title = page.write_title(rng, heading, title_height)

    # Short keys leave room for the bars.
    candidates = [word for word in words.CITIES + words.ITEMS if len(word) <= 5]
    keys = words.pick(rng, candidates, min(page.room, int(rng.integers(3, 10))))
    values = [words.draw_value(key, split, lambda: str(rng.integers(1, 100))) for key in keys]

    # Bars start behind the longest key, and one of 100 would leave room for its value.
    start = page.left + max(text_width(key, page.face, page.height) for key in keys) + 0.3 * page.height
    space = page.right - start - text_width("99", page.face, page.height) - 0.4 * page.height
    colour = BAR_COLOURS[rng.integers(len(BAR_COLOURS))]

    lines = []
    for key, value in zip(keys, values, strict=True):
        label = page.write(page.left, key)

        # The length of a bar is proportional to its value, of at most 100.
        end = start + space * int(value) / 100
        page.draw.rectangle((start, label.box[1], end, label.box[3]), fill=colour)
        lines.append(Line(label, (page.write(end + 0.3 * page.height, value),)))
        page.next_line()

    return Document("chart", title, (), tuple(lines))


_DRAW: dict[str, Callable[[Generator, str, _Page, int], Document]] = {
    "receipt": _draw_receipt,
    "form": _draw_form,
    "table": _draw_table,
    "chart": _draw_chart,
}


def make_document(
    rng: Generator,
    split: str,
    size: tuple[int, int],
    kind: str,
    height: int,
    title_height: int,
    style: Style = STYLE,
) -> tuple[Image.Image, Document]:
    """Draw a document of one of `KINDS`.

    Args:
        rng: random numbers.
        split: split that its facts must belong to.
        size: width and height in pixels.
        kind: one of `KINDS`.
        height: font size of the body in pixels.
        title_height: font size of the title in pixels.
        style: what the image is drawn with.
    """
    page = _Page(rng, size, height, style)
    return page.image, _DRAW[kind](rng, split, page, title_height)
