"""Model card of nano-llava, written from the recipe's settings and the scores on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monkeylib import resources, tables
from monkeylib.reproduce.tables import markdown_table

TEMPLATE = """---
license: apache-2.0
library_name: monkeylib
pipeline_tag: image-text-to-text
---

# nano-llava

A projector of {parameters:,} weights that makes a LLaVA-shaped base of nano-base: every patch of a view
becomes a visual token, by two linear layers with a GELU between them, in place of nano-base's resampler. ViT
and language model are nano-base's, unchanged; `{file}` holds the projector alone. The profile
`recipes/nano_llava/nano-llava.yaml` builds the model, and Monkey on it:

    monkeylib train --profile recipes/nano_llava/nano-llava.yaml

## Training

On synthetic images (`monkeylib.data.synthetic`), the projector alone; `make nano-llava` repeats it.

* distilled: for each patch the projector learns the visual token that nano-base's resampler gives for a query
  at its place ({distillation}).
* tuned: with the loss on answers about images of one view, as in fine-tuning
  ({tuning}).

## Validation scores

Exact match, and log-likelihood of the true answer in nats per character, on questions about validation
images of 192 pixels: large text in one view of 96 pixels, fine text in four tiles and the global view, for
which no model here has been trained. Other numbers of queries than nano-base's 64 are interpolated.

{scores}
One token per patch is kept, as in LLaVA-1.5: averaging squares of patches would leave fewer tokens than the
64 a view that the language model was trained on.

## Limits

Those of nano-base. The language model has never been trained on 144 visual tokens a view.

Licence: Apache-2.0. Data: code and the photographs of scikit-image (see `data/README.md`).
"""


def write(
    folder: Path,
    parameters: int,
    distillation: Mapping[str, Any],
    tuning: Mapping[str, Any],
    scores: Path,
    file: str = "projector.safetensors",
) -> Path:
    """Write `folder / "README.md"`.

    Args:
        folder: of the model.
        parameters: number of the projector's weights.
        distillation, tuning: settings of the two phases.
        scores: the table of validation scores.
        file: name of the weights.
    """
    rows = [
        {**row, "exact_match": f"{row['exact_match']:.3f}", "log_likelihood": f"{row['log_likelihood']:.3f}"}
        for row in tables.read_csv(scores)
    ]
    text = TEMPLATE.format(
        parameters=parameters,
        file=file,
        distillation=_in_words(distillation),
        tuning=_in_words(tuning),
        scores=markdown_table(rows),
    )

    card = folder / "README.md"
    with resources.atomic_write(card) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return card


def _in_words(settings: Mapping[str, Any]) -> str:
    """Return settings as a list: `images 300, epochs 12`."""
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())
