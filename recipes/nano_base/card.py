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
training it from scratch.

| part | weights |
|---|---:|
{parts}
## Training

From scratch on synthetic images (`monkeylib.data.synthetic`), rendered on the fly, none of them twice; `make
nano-base` repeats it.

{phases}
* `reading`: the ViT and the resampler learn from dense labels what is written and drawn at every point of a
  view.
* `language`: the language model learns captions, transcripts and answers. The dense labels stay as a second
  loss.
* `several`: most prompts hold one to four other images too, as those of Qwen-VL may, and only one image shows
  the answer.
* `details`: some of the other images are details of the same image that cut the answer or lie elsewhere.
* `signs`: more images show several signs, and a question names one of them by its colour or its place.
* `parts`: up to four details stand beside an image. Signs that are too small in the image can be read there.
* `colours`: one view of signs alone. Each is asked for once, mostly by its colour, and never after a
  transcript that names it. The attention head that finds the next character is supervised most where an
  answer starts. Before this phase the model found signs by their place, but not by their colour.
* `mixed`: all of the above.

`Phase` in `recipes/nano_base/train.py` explains the columns. The heads for the dense labels are not part of
the model. (The shipped weights were trained in five sittings: for the phases `details` and `parts` these
heads were trained anew on the weights of the phase before.)

## Test scores

Exact match (captions: CIDEr-D, 0 to 10) with 95 % intervals over images (Wilson's; captions: BCa bootstrap),
on test images of {pixels} pixels resized to {tile}. Their photographs, layouts and written facts never appear
in training.

{scores}
Small text (`nano-fine`) is not legible at this resolution, so its answers are guesses. Tiling is what makes
it legible.

## Limits

It reads lower-case letters in three bold DejaVu faces from about 10 pixels up; its tokenizer turns capitals
into lower case. It knows the objects, colours and question forms of the synthetic data and nothing else. It
is meant for studying Monkey's method on two CPU cores, not for reading real photographs.

Licence: Apache-2.0. Data: code and the photographs of scikit-image (see `data/README.md`).
"""


def write(
    folder: Path, parts: dict[str, int], phases: list[dict[str, Any]], scores: Path, tile: int, pixels: int
) -> Path:
    """Write `folder / "README.md"`.

    Args:
        folder: of the model.
        parts: number of weights by component.
        phases: the curriculum, one mapping for each phase.
        scores: the table that `results.write_table` wrote, with groups by family.
        tile, pixels: side of the view and of the test images.
    """
    score_rows = []
    for row in tables.read_csv(scores):
        if row["metric"] not in ("exact_match", "cider_d"):
            continue
        score_rows.append(
            {
                "split": row["split"],
                "questions": row["group"],
                "score": f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
                "n": row["n"],
            }
        )

    text = TEMPLATE.format(
        millions=sum(parts.values()) / 1e6,
        parts="".join(f"| {name} | {count:,} |\n" for name, count in parts.items()),
        phases=markdown_table([{**phase, "lr": f"{phase['lr']:g}"} for phase in phases]),
        scores=markdown_table(score_rows),
        tile=tile,
        pixels=pixels,
    )

    card = folder / "README.md"
    with resources.atomic_write(card) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return card
