"""Records to look at: images with their prompt and answer."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from monkeylib import resources
from monkeylib.data.records import Record
from monkeylib.plots.images import Card, draw_cards
from monkeylib.reproduce.figures import STYLE

_SIDE = 480  # pixels of an image on the sheet
_TEXT = 160  # characters of a prompt or an answer


def contact_sheet(records: Sequence[Record], path: Path, columns: int = 4) -> Path:
    """Write the first image of each record, with its first prompt and answer, as one PNG.

    Raises:
        BadRecord: an image cannot be opened.
        ValueError: no records, or a path that doesn't end in .png.
    """
    if not records:
        raise ValueError("there is no image to show: the rows that were looked at have none that opens")
    if path.suffix != ".png":
        raise ValueError(f"a contact sheet is a PNG file, got {path}: let the name end in .png")
    with plt.rc_context(STYLE), resources.atomic_write(path) as temporary:
        sheet = draw_cards([_card(record) for record in records], columns)
        sheet.savefig(temporary, format="png", metadata={"Software": None})
        plt.close(sheet)
    return path


def _card(record: Record) -> Card:
    image = record.open_images()[0]
    image.thumbnail((_SIDE, _SIDE))
    prompt, answer = record.turns[0]
    more = [f"(the first of {len(record.turns)} turns)"] if len(record.turns) > 1 else []
    lines = [text if len(text) <= _TEXT else text[:_TEXT] + "…" for text in (prompt.strip(), f"→ {answer}")]
    # A dollar sign would begin a formula.
    return Card(image, record.dataset, tuple(line.replace("$", r"\$") for line in (*lines, *more)))
