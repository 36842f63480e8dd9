"""Model card: what a folder of a Monkey says to people, and that it needs this library."""

from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyProcessor

_CARD = """\
---
library_name: monkeylib
pipeline_tag: image-text-to-text
tags:
- monkey
---

# {name}

A Monkey, a large multimodal model that reads an image as tiles and a global view, with a LoRA for each tile
position ([paper](https://arxiv.org/abs/2311.06607)).

**This model needs the package `monkeylib`.** Import it before the model is loaded: transformers alone does
not know the model type `monkey`.

```python
import monkeylib

monkey = monkeylib.load_model("{name}")
print(monkey.answer("photo.jpg", "What is written on the sign?"))
```

or, as any other model of transformers,

```python
import monkeylib
from transformers import pipeline

pipe = pipeline("image-text-to-text", model="{name}")
messages = [
    {{
        "role": "user",
        "content": [
            {{"type": "image", "image": "photo.jpg"}},
            {{"type": "text", "text": "What is written on the sign?"}},
        ],
    }}
]
print(pipe(text=messages, return_full_text=False))
```

| what | value |
|---|---|
| tiles (rows x columns) | {grids} |
| side of a tile | {tile_size} pixels |
| visual tokens of a view | {queries} |
| LoRA | {lora} |
| vision encoder | {vision}, {vision_weights:,} weights with LoRA |
| language model | {text}, {text_weights:,} weights |
| resampler or projector | {resampler}, {resampler_weights:,} weights |
"""


def write_card(name: str, model: MonkeyForConditionalGeneration, processor: MonkeyProcessor) -> str:
    """Return the card of a model.

    Args:
        name: of the model, such as "owner/name"; it stands in the examples.
        model, processor: of one checkpoint.
    """
    config = model.config
    if config.max_tiles is not None:
        grids = f"by the image's shape, up to {config.max_tiles} tiles"
    else:
        grids = ", ".join(f"{rows}x{cols}" for rows, cols in config.grids) or "none, a global view alone"

    lora = f"{config.lora_mode}, rank {config.attention_rank} (attention) and {config.mlp_rank} (MLP)"
    parts = {"vision": model.vision, "text": model.language_model, "resampler": model.resampler}
    weights = {
        f"{part}_weights": sum(weight.numel() for weight in module.parameters())
        for part, module in parts.items()
    }
    return _CARD.format(
        name=name,
        grids=grids,
        tile_size=config.tile_size,
        queries=processor.queries,
        lora=lora if config.lora_count else "none",
        vision=config.vision_config.model_type,
        text=config.text_config.model_type,
        resampler=config.resampler_config.model_type,
        **weights,
    )
