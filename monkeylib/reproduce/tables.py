"""Markdown tables, and the blocks of a page that are filled from result tables.

A page marks the place of a table with two comments, and `update_page` writes between them:

    <!-- table:main -->
    <!-- /table -->
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from monkeylib import resources
from monkeylib.tables import Row, format_value, is_numeric, pivot_scores, read_table

_BLOCK = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n)(?P<body>.*?)(?P<end><!-- /table -->)", re.DOTALL)
_MARK = re.compile(r"<!-- /?table")

# Of tables with more columns than a page has room for: those to show, with their headings.
_COLUMNS = {
    "claims": {
        "statement": "claim",
        "paper": "the paper says",
        "rendering": "rendering",
        "measured": "difference, nats per character",
        "detectable_effect": "detectable",
        "exact_match": "exact match, %",
        "seeds": "seeds",
        "verdict": "verdict",
    }
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


def render_page(page: str, profile: str) -> str:
    """Return a page with its blocks filled from the result tables of a profile."""

    def render(name: str) -> str:
        rows = read_table(name, profile)
        # Scores of models are laid out with a row for each model, other tables as they are.
        return markdown_table(pivot_scores(rows) if "model" in rows[0] else rows, _COLUMNS.get(name))

    return fill_blocks(page, render)


def update_page(path: Path, profile: str = resources.COMMITTED_PROFILE) -> None:
    """Rewrite the marked blocks of a Markdown page from the result tables of a profile."""
    page = render_page(path.read_text(encoding="utf-8"), profile)

    with resources.atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
