"""The table of families in docs/raising.md: what the checks of tests/raising/test_families.py say of each.

    python -m tests.support.family_table

writes it anew. A test compares the page with it, and every mark in it is a test that runs.
"""

import re
from pathlib import Path

from monkeylib.raising import check_raising
from tests.support import tiny_vlms

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
# Families of the same kind whose needs are not among the library's dependencies.
NOT_TRIED = {"FastVLM": "timm", "PerceptionLM": "timm and torchvision"}


def family_table() -> str:
    """Return the table in Markdown, with its notes."""
    heads = ["family", "route", "adapters", *CHECKS.values()]
    lines = [_row(heads), _row(["---"] * len(heads))]
    notes: list[str] = []

    for family in tiny_vlms.FAMILIES:
        vlm = tiny_vlms.build(family)
        check = check_raising(vlm.model, vlm.processor, tile_size=vlm.tile_size)
        cells = [check.family.removesuffix("ForConditionalGeneration")]
        if family.startswith("llava_"):
            cells[0] += f" ({family.removeprefix('llava_').upper()})"
        cells += [check.route, f"{len(check.layers)} of {check.linear_count}"]

        for name in CHECKS:
            reason = EXCEPTIONS.get((family, name))
            if reason is not None and reason not in notes:
                notes.append(reason)
            cells.append("yes" if reason is None else f"[{notes.index(reason) + 1}]")
        lines.append(_row(cells))

    lines += ["", *(f"[{number}] {note}." for number, note in enumerate(notes, 1))]
    for family, needs in NOT_TRIED.items():
        lines.append(f"{family}: not tried, since it needs {needs}.")
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
