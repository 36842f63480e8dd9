"""Parity with the released code: its outputs for tiny random weights, and monkeylib's differences from them.

The goldens lie in tests/goldens: inputs, weights, and the outputs that the released code computed from them.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from monkeylib import resources
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyImageProcessor

# Golden prompt -> indices of its images.
PROMPT_IMAGES = {"single": [0], "short": [1], "batch": [0, 1], "text": [], "two": [0, 1]}

# Token ids of the tiny model.
IMAGE_START_ID = 500
IMAGE_END_ID = 501
IMAGE_ID = 502
PAD_ID = 511

VOCABULARY_SIZE = 286  # first words of Qwen's vocabulary that the tiny model has
_VIEWS = 5  # of each image: four tiles and the global view

# Rows of large tensors that the goldens hold.
QUERY_ROWS = [0, 17, 128, 255]
EMBEDDED_ROWS = [0, 7, 8, 9, 264, 265, 1032, 1033, 1288, 1289, 1290, 1312]


# --- goldens --------------------------------------------------------------------------------------


def golden_folder() -> Path:
    """Return the folder of the goldens."""
    return resources.REPOSITORY / "tests" / "goldens"


def golden_tensors(name: str) -> dict[str, Tensor]:
    """Load tensors that the released code computed: "vision_896", "lmm_896" or "train_step"."""
    return load_file(golden_folder() / f"{name}_expected.safetensors")


def golden_facts(name: str) -> dict[str, Any]:
    """Load the settings of a golden run, and its results that are no tensors."""
    return json.loads((golden_folder() / f"{name}.json").read_text(encoding="utf-8"))


def golden_images() -> dict[str, Tensor]:
    """Return both golden images as model inputs: ten views and two grids."""
    return dict(MonkeyImageProcessor()([golden_folder() / "a.png", golden_folder() / "b.png"]))


def golden_inputs(name: str, images: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the model inputs of a golden prompt.

    Args:
        name: a name of `PROMPT_IMAGES`.
        images: what `golden_images` returns.
    """
    tensors = golden_tensors("lmm_896")
    input_ids = insert_image_ids(tensors[f"{name}.input_ids"])
    mask = tensors.get(f"{name}.attention_mask")
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids) if mask is None else mask.long(),
    }

    indices = PROMPT_IMAGES[name]
    if indices:
        views = [images["pixel_values"][_VIEWS * i : _VIEWS * (i + 1)] for i in indices]
        inputs["pixel_values"] = torch.cat(views)
        inputs["grids"] = images["grids"][indices]

    return inputs


def insert_image_ids(ids: Tensor) -> Tensor:
    """Put `<imgpad>` between the image tags, where the released code hides the image's path.

    Args:
        ids: token ids of the released code, `[T]` or `[B, T]`.

    Returns:
        Token ids of monkeylib, `[B, T]`.
    """
    # A copy, [B, T]: the golden itself stays.
    ids = ids.long().clone().view(-1, ids.shape[-1])
    for row in ids:
        starts = (row == IMAGE_START_ID).nonzero()
        ends = (row == IMAGE_END_ID).nonzero()
        for start, end in zip(starts, ends, strict=True):
            row[start + 1 : end] = IMAGE_ID

    return ids


# --- the tiny model in the released layout --------------------------------------------------------


def released_weights() -> dict[str, Tensor]:
    """Load all weights of the tiny model under the names of the released checkpoint."""
    vision = load_file(golden_folder() / "vision_896_weights.safetensors")
    vision = {f"transformer.visual.{name}": tensor for name, tensor in vision.items()}
    return load_file(golden_folder() / "lmm_896_weights.safetensors") | vision


def released_config() -> dict[str, Any]:
    """Return the tiny model's `config.json` in the layout of the released checkpoint."""
    facts = golden_facts("lmm_896")
    return facts["llm_config"] | {"visual": facts["vision_config"]}


def write_released_checkpoint(folder: Path) -> Path:
    """Write the tiny model as a folder in the released layout, atomically.

    Its vocabulary is the first words of Qwen's, as many as give `<img>` the id of the golden prompts.
    """
    packed = resources.REPOSITORY / "tests" / "data" / "qwen.tiktoken.gz"
    words = gzip.decompress(packed.read_bytes()).splitlines(keepends=True)[:VOCABULARY_SIZE]
    config = json.dumps(released_config(), indent=1)

    with resources.create_folder(folder) as temporary:
        (temporary / "config.json").write_text(config, encoding="utf-8")
        (temporary / "qwen.tiktoken").write_bytes(b"".join(words))
        save_file(released_weights(), temporary / "model.safetensors", metadata={"format": "pt"})

    return folder


# --- report ---------------------------------------------------------------------------------------


@torch.no_grad()
def parity_report(model: MonkeyForConditionalGeneration) -> list[dict[str, Any]]:
    """Compare quantities of the forward and training pass with those of the released code.

    Args:
        model: the tiny model, however it was loaded, in evaluation mode and float32.

    Returns:
        A row for each `quantity`, with its largest `difference`, the difference `allowed` for rounding, and
        whether it `holds`.
    """
    vision = golden_tensors("vision_896")
    language = golden_tensors("lmm_896")
    images = golden_images()
    pixels = images["pixel_values"]  # [10, 3, 448, 448]

    # The first image's tiles, joined again: two rows of two.
    upper = torch.cat([pixels[0], pixels[1]], 2)
    lower = torch.cat([pixels[2], pixels[3]], 2)
    tiles = torch.cat([upper, lower], 1)

    # [10, queries, width]: five views of each image.
    tokens = model.get_image_features(**images)
    input_ids = insert_image_ids(language["single.input_ids"])
    embeddings = model.splice(input_ids, tokens[:_VIEWS])[0, EMBEDDED_ROWS]
    rows = [
        _row("pixels of the tiles", tiles[:, ::64, ::64], vision["a.pixels896_grid64"], 1e-6),
        _row("pixels of the global view", pixels[4][:, ::32, ::32], vision["a.pixels448_grid32"], 1e-5),
        _row("visual tokens, five views", tokens[:_VIEWS], vision["a.tokens"], 2e-4),
        _row("visual tokens, another image", tokens[_VIEWS:, QUERY_ROWS], vision["b.tokens_rows"], 2e-4),
        _row("embeddings with visual tokens", embeddings, language["single.embeds_rows"], 2e-4),
    ]

    titles = {
        "text": "text alone",
        "single": "one image",
        "short": "another",
        "batch": "both, padded on the left",
        "two": "two images, 2,597 tokens",
    }
    for name, title in titles.items():
        logits = model(**golden_inputs(name, images), logits_to_keep=16).logits
        reference = language[f"{name}.logits_last16"].view_as(logits)
        # Rounding adds up over the longest prompt.
        rows.append(_row(f"logits, {title}", logits, reference, 3e-4 if name == "two" else 2e-4))

    rows.append(_row("greedy ids that differ", _count_wrong_ids(model, images), torch.tensor(0), 0))
    rows.append(_row("loss of a training batch", *_training_losses(model, images), 1e-4))
    return rows


def _count_wrong_ids(model: MonkeyForConditionalGeneration, images: dict[str, Tensor]) -> Tensor:
    """Count the ids of a greedy answer that differ from the released code's."""
    inputs = golden_inputs("single", images)
    reference = torch.tensor(golden_facts("lmm_896")["greedy"]["single"])
    generated = model.generate(
        **inputs,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=PAD_ID,
        max_new_tokens=len(reference),
    )

    # The new ids, without the prompt.
    answer = generated[0, inputs["input_ids"].shape[1] :]
    return (answer != reference).sum()


def _training_losses(
    model: MonkeyForConditionalGeneration, images: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the loss of the golden training batch, and that of the released code."""
    batch = golden_tensors("train_step")
    output = model(
        input_ids=insert_image_ids(batch["input_ids"]),
        attention_mask=batch["attention_mask"].long(),
        labels=batch["labels"].long(),
        **images,
    )
    return output.loss, torch.tensor(golden_facts("train_step")["loss"]["batch"])


def _row(quantity: str, value: Tensor, reference: Tensor, allowed: float) -> dict[str, Any]:
    # Counts of ids are integers.
    difference = (value.float() - reference.float()).abs().max().item()
    return {
        "quantity": quantity,
        "difference": difference,
        "allowed": allowed,
        "holds": difference <= allowed,
    }
