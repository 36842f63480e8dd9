"""Result tables: CSV files in `resources.results(profile)`, and their display on a terminal."""

import csv
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from monkeylib import resources

if TYPE_CHECKING:
    import pandas
    import rich.console

Value = str | int | float | None
Row = Mapping[str, Value]

_MAX_PRINTED_ROWS = 40
_MAX_FIELD = 2**31 - 1  # characters
_MAX_WIDTH = 10_000  # characters of a line
_SCORE_COLUMNS = {"model", "split", "metric", "value", "low", "high"}
_INTEGER = re.compile(r"-?(0|[1-9]\d*)")
_FLOAT = re.compile(r"-?\d+\.\d+(e[+-]?\d+)?|-?\d+e[+-]?\d+")


# Files


def table_path(name: str, profile: str) -> Path:
    """Return the path of a result table that is to be read.

    Where the seed of this process is another one than 0 and has no such table, a sentence says that the
    published one is read.
    """
    own = _own_path(name, profile)
    path = resources.published(own)
    if path != own and resources.seed() != 0:
        _say_published(path.name, resources.seed())
    return path


@functools.cache  # once for each table
def _say_published(file: str, seed: int) -> None:
    from monkeylib.progress import say

    say(f"{file} is the published one: nothing here has written one with seed {seed}")


def _own_path(name: str, profile: str) -> Path:
    return resources.results(profile) / f"{name}.csv"


def write_table(rows: Sequence[Row], name: str, profile: str) -> Path:
    """Write a table to `resources.results(profile)/<name>.csv`, floats with six significant digits.

    Columns come in the order in which the rows first name them; a row may leave some out.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError(f"The table {name} of profile {profile} has no rows: nothing was written.")

    rounded = [{column: _to_csv(value) for column, value in row.items()} for row in rows]
    return write_csv(rounded, _own_path(name, profile))


def write_csv(rows: Sequence[Row], path: str | Path, columns: Sequence[str] | None = None) -> Path:
    """Write rows to a CSV file with a header, atomically and with their values as they are.

    Args:
        rows: the rows; one may leave columns out.
        path: the file. An earlier table there is replaced.
        columns: names of the columns; if not given, in the order in which the rows first name them.

    Returns:
        `path`.

    Raises:
        FileExistsError: there is a file that is no earlier version of this table.
    """
    path = resources.to_path(path)
    if columns is None:
        # dict.fromkeys drops duplicates and keeps the order.
        columns = list(dict.fromkeys(column for row in rows for column in row))
    _require_earlier_version(path, columns)

    with (
        resources.atomic_write(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    return path


def _require_earlier_version(path: Path, columns: Sequence[str]) -> None:
    """Check that a file is missing or an earlier version of a table, whose first column is the same.

    Raises:
        FileExistsError: it is something else.
    """
    if not os.path.lexists(path):
        return
    if path.is_file() and not path.is_symlink():
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            header = _read_header(file)
        if header[:1] == list(columns[:1]):
            return

    raise FileExistsError(
        f"{resources.display_path(path)} is in the way and is no table of monkeylib with the columns "
        f"{', '.join(columns)}: move it away"
    )


def _read_header(file: TextIO) -> list[str]:
    """Return the names of a table's columns, none of what is no table."""
    try:
        return next(csv.reader(file), [])
    except csv.Error:
        return []


def read_table(name: str, profile: str) -> list[dict[str, Value]]:
    """Read the rows of a result table, numbers as numbers, empty fields as None.

    Raises:
        FileNotFoundError: the table hasn't been written yet.
    """
    path = table_path(name, profile)
    if not path.exists():
        with_seed = f" SEED={resources.seed()}" if resources.seed() != 0 else ""
        remedy = f"make it with `make reproduce PROFILE={profile}{with_seed}`"
        if _is_committed(path):
            remedy += ", and `monkeylib reproduce --publish`"
        elif with_seed and profile == resources.COMMITTED_PROFILE:
            remedy = (
                f"unset {resources.SEED} to read the table of seed 0, or {remedy}, whose tables lie in "
                "data/reproduced"
            )
        raise FileNotFoundError(f"{resources.display_path(path)} doesn't exist yet: {remedy}.")

    return read_csv(path)


def _is_committed(path: Path) -> bool:
    """Return whether the table would be one of the repository, into which results are copied."""
    is_nano = path.parent.name == resources.COMMITTED_PROFILE
    return (
        is_nano
        and not resources.is_installed()
        and path.is_relative_to(resources.REPOSITORY / "data" / "results")
    )


def read_csv(path: str | Path) -> list[dict[str, Value]]:
    """Read the rows of any CSV file with a header, empty fields as None.

    A column holds numbers only if all of its fields are numbers or empty. Otherwise all are text, so that an
    answer such as "4.20" stays as it was given.
    """
    path = resources.to_path(path)
    # An answer may be longer than the 131,072 characters that Python allows by default.
    limit = csv.field_size_limit(_MAX_FIELD)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    finally:
        csv.field_size_limit(limit)

    # One word makes a column text.
    text_columns = {column for row in rows for column, field in row.items() if isinstance(_parse(field), str)}

    return [
        {
            column: (field or None) if column in text_columns else _parse(field)
            for column, field in row.items()
        }
        for row in rows
    ]


def read_frame(name: str, profile: str) -> "pandas.DataFrame":
    """Read a result table as a pandas data frame, which a notebook displays and seaborn draws."""
    import pandas

    return pandas.DataFrame(read_table(name, profile))


def _to_csv(value: Value) -> Value:
    if not isinstance(value, float):
        return value

    text = f"{value:.6g}"
    if _INTEGER.fullmatch(text):
        return f"{text}.0"  # so that a float is read back as one
    return text


def _parse(field: str) -> Value:
    if not field:
        return None
    if _INTEGER.fullmatch(field):
        return int(field)
    if _FLOAT.fullmatch(field):
        return float(field)
    return field


# Display


def print_table(rows: Sequence[Row], title: str, console: "rich.console.Console") -> None:
    """Print rows under a title, numbers to the right, at most the first 40.

    Nothing is cut: on a narrow terminal, long words are broken, and elsewhere lines are as long as they need.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in rows[0]:
        justify = "right" if is_numeric(rows, column) else "left"
        table.add_column(column, justify=justify, overflow="fold")
    for row in rows[:_MAX_PRINTED_ROWS]:
        # Text: what stands in brackets would else be taken for markup.
        table.add_row(*(Text(format_value(row.get(column))) for column in rows[0]))

    console.print(Text(title), style="bold", highlight=False, soft_wrap=True)
    if console.is_terminal:
        console.print(table)
    else:
        # A file or a pipe has no width of its own.
        options = console.options.update(max_width=_MAX_WIDTH)
        width = Measurement.get(console, options, table).maximum
        Console(file=console.file, width=max(width, console.width)).print(table)

    if len(rows) > _MAX_PRINTED_ROWS:
        console.print(f"and {len(rows) - _MAX_PRINTED_ROWS} more rows", highlight=False)


def pivot_scores(rows: Sequence[Row]) -> Sequence[Row]:
    """Return score rows as one row per model with a column for each split; other rows as they are.

    Rows are scores if they have the columns model, split, metric, value, low and high (the score with its
    95 % interval, 0 to 1). A field then reads "63.3 (60.1–66.5)", in points: the first metric of the split,
    over all of its examples (group "all"). A prefix that all splits share ("nano-") is left out.
    """
    if not rows or not rows[0].keys() >= _SCORE_COLUMNS:
        return rows  # not a table of scores

    splits = list(dict.fromkeys(str(row["split"]) for row in rows))
    # "nano-fine", "nano-large" -> "nano-"
    prefix = "".join(os.path.commonprefix(splits).rpartition("-")[:2])

    # Only the first metric of a split, and only the score over all of its examples.
    scores: dict[Value, dict[str, Value]] = {}  # model -> split -> score with its interval
    for row in rows:
        if row.get("group", "all") != "all":
            continue

        value, low, high = (f"{100 * row[column]:.1f}" for column in ("value", "low", "high"))
        split = str(row["split"]).removeprefix(prefix)
        scores.setdefault(row["model"], {}).setdefault(split, f"{value} ({low}–{high})")

    columns = [split.removeprefix(prefix) for split in splits]
    return [
        {"model": model, **{column: of_model.get(column) for column in columns}}
        for model, of_model in scores.items()
    ]


def format_value(value: Value) -> str:
    """Return a value for display: floats with three decimals, from 10 on with one; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


def is_numeric(rows: Sequence[Row], column: str) -> bool:
    """Tell whether a column holds a number in any row."""
    return any(isinstance(row.get(column), int | float) for row in rows)
