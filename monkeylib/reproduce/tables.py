"""Markdown tables, and the tables and numbers of a page that are filled from result tables.

A page marks the place of a table, and of a number within a sentence, with two comments. `update_page` writes
between them:

    <!-- table:main -->
    <!-- /table -->

    It scores <!-- value:main score .1f x100 split=fine --><!-- /value --> points.

A number is named by its table, its column, how it is formatted, perhaps a factor, and the row's other values.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from monkeylib import resources
from monkeylib.tables import Row, format_value, is_numeric, pivot_scores, read_table

_BLOCK = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n)(?P<body>.*?)(?P<end><!-- /table -->)", re.DOTALL)
_MARK = re.compile(r"<!-- /?table")

_VALUE = re.compile(
    r"(?P<start><!-- value:(?P<table>[\w-]+) (?P<column>\w+) (?P<format>[^\s=]+)(?: x(?P<factor>\d+))?"
    r"(?P<conditions>(?: [\w-]+=[^\s>]+)*) -->)(?P<text>[^<]*)(?P<end><!-- /value -->)"
)
_VALUE_MARK = re.compile(r"<!-- /?value")

# Pages of the repository that `monkeylib reproduce` fills.
PAGES = ("README.md", "data/README.md", "docs/results.md", "docs/robustness.md")

# Tables that a page shows under another name, with other columns.
_SOURCES = {"verdicts": "claims"}

# Of a claim, as the guide shows it.
_CLAIM_COLUMNS = {
    "statement": "claim",
    "paper": "the paper says",
    "rendering": "rendering",
    "measured": "difference, nats per character",
    "smallest_effect": "of interest",
    "detectable_effect": "detectable",
    "exact_match": "exact match, %",
    "seeds": "seeds",
    "verdict": "verdict",
    "checked": "checked",
}
_VERDICT_COLUMNS = ("statement", "paper", "measured", "smallest_effect", "exact_match", "seeds", "verdict")

# Of tables that compare base and Monkey.
_BASE_AND_MONKEY = {
    "base": "base",
    "monkey": "Monkey",
    "difference": "difference",
    "low": "from",
    "high": "to",
    "n": "n",
}

# Of tables with more columns than a page has room for: those to show, with their headings.
_COLUMNS = {
    "claims": _CLAIM_COLUMNS,
    "raised_claims": _CLAIM_COLUMNS,
    "other_signs": {"images": "images", "signs": "signs", "others": "other signs", **_BASE_AND_MONKEY},
    "training_seeds": {"images": "images", "split": "questions", "seed": "seed", **_BASE_AND_MONKEY},
    "verdicts": {column: _CLAIM_COLUMNS[column] for column in _VERDICT_COLUMNS},
}


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str] | None = None) -> str:
    """Return rows as a Markdown table, numbers to the right.

    Args:
        rows: the rows.
        columns: column -> its heading, for those to show, in that order; None shows all as they are named.
    """
    if not columns:
        # Columns in the order in which the rows first name them.
        columns = {column: column for row in rows for column in row}

    # The heading, the alignment of the columns, then the rows.
    lines = [list(columns.values())]
    lines.append(["---:" if is_numeric(rows, column) else "---" for column in columns])
    for row in rows:
        lines.append([format_value(row.get(column)).replace("|", "\\|") for column in columns])

    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def fill_blocks(page: str, render: Callable[[str], str]) -> str:
    """Return a page with each marked block replaced by what `render` returns for the block's name.

    Raises:
        ValueError: an opening or closing mark without its partner.
    """
    filled, count = _BLOCK.subn(lambda match: f"{match[1]}{render(match['name'])}{match['end']}", page)

    # Every block has two marks.
    if len(_MARK.findall(page)) != 2 * count:
        raise ValueError(
            "A table block opens with <!-- table:NAME --> on its own line and ends with <!-- /table -->: "
            "one of them has no partner."
        )

    return filled


def fill_values(page: str, read: Callable[[str], Sequence[Row]]) -> str:
    """Return a page with each marked number replaced by that of its table.

    Args:
        page: its text.
        read: returns the rows of a table, by its name.

    Raises:
        ValueError: a mark that isn't written as one, or one that no row or several rows fit.
    """

    def value_of(match: re.Match[str]) -> str:
        conditions = dict(condition.split("=", 1) for condition in match["conditions"].split())
        fitting = [
            row
            for row in read(match["table"])
            if all(str(row.get(column)) == value for column, value in conditions.items())
        ]
        if len(fitting) != 1 or not isinstance(fitting[0].get(match["column"]), int | float):
            raise ValueError(
                f"{match['start']} names one number of one row: {len(fitting)} rows of the table "
                f"{match['table']} fit, and {match['column']} has to be a column of numbers."
            )

        number = fitting[0][match["column"]] * int(match["factor"] or 1)
        return f"{match['start']}{number:{match['format']}}{match['end']}"

    filled, count = _VALUE.subn(value_of, page)
    if len(_VALUE_MARK.findall(page)) != 2 * count:
        raise ValueError(
            "A number is marked as <!-- value:TABLE COLUMN FORMAT x100 COLUMN=VALUE -->TEXT<!-- /value -->: "
            "one mark isn't."
        )
    return filled


def render_page(page: str, profile: str) -> str:
    """Return a page with its tables and numbers filled from the result tables of a profile."""

    def render(name: str) -> str:
        rows = read_table(_SOURCES.get(name, name), profile)
        # Scores of models are laid out with a row for each model, other tables as they are.
        return markdown_table(pivot_scores(rows) if "model" in rows[0] else rows, _COLUMNS.get(name))

    return fill_values(fill_blocks(page, render), lambda name: read_table(name, profile))


def update_page(path: Path, profile: str = resources.COMMITTED_PROFILE) -> None:
    """Rewrite the marked tables and numbers of a Markdown page from the result tables of a profile."""
    page = render_page(path.read_text(encoding="utf-8"), profile)

    with resources.atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
