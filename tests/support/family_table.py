"""The table of families in docs/raising.md: what the checks of tests/raising/test_families.py say of each.

    python -m tests.support.family_table

writes it anew, where the needs of all families are installed. A test compares the page with it, and every
mark in it is a test that runs; what has been learned of eight records, `overfitting` has written into a file.
"""

import re
from pathlib import Path

from monkeylib import tables
from monkeylib.raising import check_raising
from tests.support import overfitting, tiny_vlms

PAGE = Path(__file__).parents[2] / "docs" / "raising.md"
# Test in test_families.py -> heading of its column.
CHECKS = {
    "parity": "base unchanged",
    "tiles": "tiles apart",
    "gradients": "gradients",
    "generate": "generate",
    "batch": "batch",
    "training": "learns",
    "conversations": "conversations",
    "checkpointing": "checkpointing",
    "files": "files, peft alone",
}
# What is not as it should be: family and check -> reason. These tests are skipped, and the table says why.
EXCEPTIONS = {
    ("kosmos2", "tiles"): "encodes images only together with a prompt",
    ("florence2", "conversations"): "has a decoder for answers, which are then no part of the prompt",
}
# The reasons in the order of their numbers; dict.fromkeys drops duplicates.
NOTES = dict.fromkeys(EXCEPTIONS.values())
# The column of what `overfitting` has trained.
EIGHT_RECORDS = "eight records"


def family_rows() -> dict[str, str]:
    """Return the row of each family whose needs are installed, in Markdown."""
    trainings = {str(row["family"]): row for row in tables.read_table(overfitting.TABLE, overfitting.PROFILE)}
    rows = {}
    for family in tiny_vlms.FAMILIES:
        vlm = tiny_vlms.build(family)
        check = check_raising(vlm.model, vlm.processor, tile_size=vlm.tile_size)
        name = check.family.removesuffix("ForConditionalGeneration")
        if family.startswith("llava_"):
            name += f" ({family.removeprefix('llava_').upper()})"

        cells = [name, check.route, f"{len(check.layers)} of {check.linear_count}"]
        for test in CHECKS:
            reason = EXCEPTIONS.get((family, test))
            cells.append("yes" if reason is None else f"[{list(NOTES).index(reason) + 1}]")
        rows[family] = _row([*cells, _learned(trainings[family])])
    return rows


def _learned(training: tables.Row) -> str:
    """Return the steps after which the loss was low, or the loss that it had at the end."""
    if training["loss"] < overfitting.LOSS:
        return f"{training['steps']} steps"
    return f"loss {training['loss']:.2f}"


def family_table() -> str:
    """Return the table in Markdown, with its notes."""
    heads = ["family", "route", "adapters", *CHECKS.values(), EIGHT_RECORDS]
    lines = [_row(heads), _row(["---"] * len(heads)), *family_rows().values()]
    lines += ["", *(f"[{number}] {note}." for number, note in enumerate(NOTES, 1))]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write() -> None:
    """Write the table into the page."""
    page = PAGE.read_text(encoding="utf-8")
    start, end = "<!-- families -->", "<!-- /families -->"
    text = f"{start}\n\n{family_table()}\n\n{end}"
    PAGE.write_text(re.sub(f"{start}.*{end}", lambda _: text, page, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    write()
