"""Model card of nano-base, written from its curriculum and its scores on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monkeylib import resources, tables
from monkeylib.reproduce.tables import markdown_table

TEMPLATE = """---
license: apache-2.0
library_name: monkeylib
pipeline_tag: image-text-to-text
---

# nano-base

A vision-language model of {millions:.1f} M weights that sees an image as one view of {tile} x {tile} pixels.
In this repository it has the role that Qwen-VL has for Monkey: the base whose resolution is raised without
training it anew.

| part | weights |
|---|---:|
{parts}
## Training

From scratch on synthetic images (`monkeylib.data.synthetic`), rendered on the fly, none of them twice; `make
nano-base` repeats it.

{phases}
In the first phase the ViT and the resampler learn from dense labels what is written and drawn at every point
of a view. In the second the language model learns captions, transcripts and answers; the dense labels stay as
a second loss. In the third most prompts hold one to four other images too, as those of Qwen-VL may, and only
one of them answers what is asked. In the fourth some of the others are details of the same image, which cut
what is asked for or lie elsewhere. In the fifth more images show signs, of which the asked one has to be
told from the others by its colour or its place. The sixth goes on with up to four details of an image beside
it, in which signs can be read that are too small in the whole. The seventh is one view of signs alone, each
asked for once, mostly by its colour, and never after a transcript that names it; the head that looks for the
next character is taught in particular where an answer starts. Before it, a sign was found by its place, but
not by its colour. The eighth mixes all of this again. Heads for the dense labels are not part of the model.
(The shipped weights were trained in five sittings: for the fourth and the sixth phase these heads were fitted
anew to the weights of the phase before.)

## Test scores

Exact match (captions: CIDEr-D, 0 to 10) with 95 % bootstrap intervals, on test images of {pixels} pixels
resized to {tile}: photographs, layout seeds and written facts that training never shows.

{scores}
Small text (`fine`) is not legible at this resolution, so its answers are guesses; reading it is what tiling
is for.

## Limits

It reads lower case (capitals are folded) in three bold DejaVu faces from about 10 pixels, and knows the
objects, colours and question forms of the synthetic data and nothing else. It is meant for studying
Monkey's method on two CPU cores, not for reading real photographs.

Licence: Apache-2.0. Data: code and the photographs of scikit-image (see `data/README.md`).
"""


def write(
    folder: Path, parts: dict[str, int], phases: list[dict[str, Any]], scores: Path, tile: int, pixels: int
) -> Path:
    """Write `folder / "README.md"`.

    Args:
        parts: number of weights by part.
        phases: the curriculum, one mapping for each phase.
        scores: the table that `scoring.write_table` wrote, with groups by family.
        tile, pixels: side of the view and of the test images.
    """
    rows = [row for row in tables.read_csv(scores) if row["metric"] in ("exact_match", "cider_d")]
    shown = [
        {
            "split": row["split"],
            "questions": row["group"],
            "score": f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
            "n": row["n"],
        }
        for row in rows
    ]
    text = TEMPLATE.format(
        millions=sum(parts.values()) / 1e6,
        parts="".join(f"| {name} | {count:,} |\n" for name, count in parts.items()),
        phases=markdown_table([{**phase, "lr": f"{phase['lr']:g}"} for phase in phases]),
        scores=markdown_table(shown),
        tile=tile,
        pixels=pixels,
    )
    card = folder / "README.md"
    with resources.atomic_write(card) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return card
