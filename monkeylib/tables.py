"""Result tables: CSV files in data/results/<profile>/, and the blocks of Markdown that are written from them.

A page marks the place of a table with two comments, and `update_page` writes between them:

    <!-- table:main -->
    <!-- /table -->
"""

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monkeylib import resources

if TYPE_CHECKING:
    import pandas
    import rich.console

Value = str | int | float | None
Row = Mapping[str, Value]

_SHOWN = 40
_INTEGER = re.compile(r"-?(0|[1-9]\d*)")
_FLOAT = re.compile(r"-?\d+\.\d+(e[+-]?\d+)?|-?\d+e[+-]?\d+")
_BLOCK = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n)(?P<body>.*?)(?P<end><!-- /table -->)", re.DOTALL)
_MARK = re.compile(r"<!-- /?table")


def path_of(name: str, profile: str) -> Path:
    """Where the table lies."""
    return resources.results(profile) / f"{name}.csv"


def write(rows: Sequence[Row], name: str, profile: str) -> Path:
    """Write a table to data/results/<profile>/<name>.csv, floats with six significant digits.

    Columns come in the order in which the rows first name them; a row may leave some out.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError(f"The table {name} of profile {profile} has no rows: nothing was written.")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    path = path_of(name, profile)
    with (
        resources.atomic_write(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: _written(value) for column, value in row.items()} for row in rows)
    return path


def read(name: str, profile: str) -> list[dict[str, Value]]:
    """The rows of a table, numbers as numbers, empty fields as None.

    Raises:
        FileNotFoundError: the table hasn't been made yet.
    """
    path = path_of(name, profile)
    if not path.exists():
        raise FileNotFoundError(
            f"{resources.display_path(path)} doesn't exist yet: make it with `make reproduce PROFILE={profile}`."
        )
    return read_file(path)


def read_file(path: Path) -> list[dict[str, Value]]:
    """The rows of any CSV file with a header, empty fields as None.

    A column of nothing but numbers gives numbers; one word in it makes all of its fields texts, so that an
    answer such as "4.20" stays as it was said.
    """
    with open(path, newline="", encoding="utf-8") as file:
        texts = list(csv.DictReader(file))
    columns = list(texts[0]) if texts else []
    words = {column for column in columns if any(isinstance(_parsed(row[column]), str) for row in texts)}
    return [
        {column: (text or None) if column in words else _parsed(text) for column, text in row.items()}
        for row in texts
    ]


def frame(name: str, profile: str) -> "pandas.DataFrame":
    """The table as a pandas data frame, which a notebook shows and seaborn draws."""
    import pandas

    return pandas.DataFrame(read(name, profile))


def show(rows: Sequence[Row], title: str, console: "rich.console.Console") -> None:
    """Print rows on the terminal under a title, numbers to the right, the first 40 of a long table."""
    from rich.table import Table

    table = Table()
    for column in rows[0]:
        table.add_column(column, justify="right" if _numeric(rows, column) else "left")
    for row in rows[:_SHOWN]:
        table.add_row(*(shown(row.get(column)) for column in rows[0]))
    console.print(title, style="bold", highlight=False)
    console.print(table)
    if len(rows) > _SHOWN:
        console.print(f"and {len(rows) - _SHOWN} more rows", highlight=False)


def markdown(rows: Sequence[Row], columns: Mapping[str, str] | None = None) -> str:
    """A Markdown table, numbers to the right.

    Args:
        rows: the rows.
        columns: column -> its heading, for those to show, in that order; None shows all as they are named.
    """
    columns = columns or {column: column for row in rows for column in row}
    lines = [
        list(columns.values()),
        ["---:" if _numeric(rows, column) else "---" for column in columns],
        *([shown(row.get(column)) for column in columns] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def presented(rows: Sequence[Row], names: Mapping[str, str] | None = None) -> Sequence[Row]:
    """Rows as a reader wants them: scores as one line per model, anything else as it is.

    Rows with the columns model, split, metric, value, low and high (a score with its 95 % interval, 0 to 1)
    become one row per model with a column for each split, "63.3 (60.1–66.5)" in points: the first metric of
    the split, over all of its examples (group "all"). What all splits begin with ("nano-") is left out.

    Args:
        rows: the rows.
        names: what to call the models; as they are named, if not given.
    """
    if not rows or not rows[0].keys() >= {"model", "split", "metric", "value", "low", "high"}:
        return rows
    splits = list(dict.fromkeys(str(row["split"]) for row in rows))
    start = "".join(os.path.commonprefix(splits).rpartition("-")[:2])
    models: dict[Value, dict[str, Value]] = {}
    for row in rows:
        if row.get("group", "all") == "all":
            value, low, high = (f"{100 * row[column]:.1f}" for column in ("value", "low", "high"))
            scores = models.setdefault(row["model"], {})
            scores.setdefault(str(row["split"]).removeprefix(start), f"{value} ({low}–{high})")
    columns = [split.removeprefix(start) for split in splits]
    return [
        {"model": (names or {}).get(str(model), model), **{name: scores.get(name) for name in columns}}
        for model, scores in models.items()
    ]


def fill(page: str, render: Callable[[str], str]) -> str:
    """The page with each marked block holding what `render` makes of the block's name.

    Raises:
        ValueError: a mark without its partner.
    """
    filled, count = _BLOCK.subn(lambda match: f"{match[1]}{render(match['name'])}{match['end']}", page)
    if len(_MARK.findall(page)) != 2 * count:
        raise ValueError(
            "A table block opens with <!-- table:NAME --> on its own line and ends with <!-- /table -->: "
            "one of them has no partner."
        )
    return filled


def update_page(
    path: Path, profile: str = resources.COMMITTED_PROFILE, names: Mapping[str, str] | None = None
) -> None:
    """Write the marked blocks of a Markdown page anew from the tables of a profile, models called by
    `names`."""
    page = fill(
        path.read_text(encoding="utf-8"), lambda name: markdown(presented(read(name, profile), names))
    )
    with resources.atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def shown(value: Value) -> str:
    """A value as a reader should see it: floats with three decimals, from 10 on with one, None as nothing."""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return "" if value is None else str(value).replace("|", "\\|")


def _numeric(rows: Sequence[Row], column: str) -> bool:
    return any(isinstance(row.get(column), int | float) for row in rows)


def _written(value: Value) -> Value:
    if not isinstance(value, float):
        return value
    text = f"{value:.6g}"
    return f"{text}.0" if _INTEGER.fullmatch(text) else text  # a float is read back as one


def _parsed(text: str) -> Value:
    if not text:
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
