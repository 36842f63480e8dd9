"""The released code's numbers on tiny random weights, and how far ours are from them.

The numbers lie in tests/goldens: inputs, weights, and what the released code made of them.
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

PROMPTS = {"single": [0], "short": [1], "batch": [0, 1], "text": [], "two": [0, 1]}  # and their images
START, END, PLACE, PAD = 500, 501, 502, 511
WORDS = 286  # of Qwen's vocabulary
QUERY_ROWS = [0, 17, 128, 255]
EMBEDDED_ROWS = [0, 7, 8, 9, 264, 265, 1032, 1033, 1288, 1289, 1290, 1312]


def goldens() -> Path:
    """Folder of the released code's numbers."""
    return resources.REPOSITORY / "tests" / "goldens"


def expected(name: str) -> dict[str, Tensor]:
    """Tensors that the released code made: "vision_896", "lmm_896" or "train_step"."""
    return load_file(goldens() / f"{name}_expected.safetensors")


def about(name: str) -> dict[str, Any]:
    """What was run, and the numbers that are no tensors."""
    return json.loads((goldens() / f"{name}.json").read_text(encoding="utf-8"))


def released_weights() -> dict[str, Tensor]:
    """The whole tiny model's weights under the names of the release."""
    visual = load_file(goldens() / "vision_896_weights.safetensors")
    visual = {f"transformer.visual.{name}": tensor for name, tensor in visual.items()}
    return load_file(goldens() / "lmm_896_weights.safetensors") | visual


def released_settings() -> dict[str, Any]:
    """The tiny model's `config.json` as the release has it."""
    language = about("lmm_896")
    return language["llm_config"] | {"visual": language["vision_config"]}


def write_released(folder: Path) -> Path:
    """Write the tiny model as a folder in the released layout, in one move.

    Its vocabulary is the first words of Qwen's, so many that `<img>` has the id of the golden prompts.
    """
    packed = resources.REPOSITORY / "tests" / "data" / "qwen.tiktoken.gz"
    words = gzip.decompress(packed.read_bytes()).splitlines(keepends=True)[:WORDS]
    with resources.create_folder(folder) as unfinished:
        (unfinished / "config.json").write_text(json.dumps(released_settings(), indent=1), encoding="utf-8")
        (unfinished / "qwen.tiktoken").write_bytes(b"".join(words))
        save_file(released_weights(), unfinished / "model.safetensors", metadata={"format": "pt"})
    return folder


def parity_images() -> dict[str, Tensor]:
    """Both images as model inputs: ten views and two grids."""
    return dict(MonkeyImageProcessor()([goldens() / "a.png", goldens() / "b.png"]))


def places(ids: Tensor) -> Tensor:
    """Ids `[..., T]` -> `[B, T]` with `<imgpad>` where the release hides the image's path."""
    ids = ids.long().clone().view(-1, ids.shape[-1])
    for row in ids:
        for start, end in zip((row == START).nonzero(), (row == END).nonzero(), strict=True):
            row[start + 1 : end] = PLACE
    return ids


def prompt(name: str, images: dict[str, Tensor]) -> dict[str, Tensor]:
    """Model inputs of one of `PROMPTS`."""
    language = expected("lmm_896")
    inputs = {"input_ids": places(language[f"{name}.input_ids"])}
    mask = language.get(f"{name}.attention_mask")
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"]) if mask is None else mask.long()
    if own := PROMPTS[name]:
        inputs["pixel_values"] = torch.cat([images["pixel_values"][5 * i : 5 * i + 5] for i in own])
        inputs["grids"] = images["grids"][own]
    return inputs


@torch.no_grad()
def report(model: MonkeyForConditionalGeneration) -> list[dict[str, Any]]:
    """Each quantity with its largest difference from the released code's, and what rounding allows.

    Args:
        model: the tiny model, however it was loaded, in evaluation mode and float32.
    """
    vision, language, step = (expected(name) for name in ("vision_896", "lmm_896", "train_step"))
    images = parity_images()
    whole = torch.cat([torch.cat([*images["pixel_values"][i : i + 2]], 2) for i in (0, 2)], 1)
    tokens = model.get_image_features(**images)
    embedded = model.splice(places(language["single.input_ids"]), tokens[:5])[0, EMBEDDED_ROWS]
    rows = [
        _row("pixels of the tiles", whole[:, ::64, ::64], vision["a.pixels896_grid64"], 1e-6),
        _row(
            "pixels of the global view",
            images["pixel_values"][4][:, ::32, ::32],
            vision["a.pixels448_grid32"],
            1e-5,
        ),
        _row("visual tokens, five views", tokens[:5], vision["a.tokens"], 2e-4),
        _row("visual tokens, another image", tokens[5:, QUERY_ROWS], vision["b.tokens_rows"], 2e-4),
        _row("embeddings with visual tokens", embedded, language["single.embeds_rows"], 2e-4),
    ]
    names = {
        "text": "text alone",
        "single": "one image",
        "short": "another",
        "batch": "both, padded on the left",
    }
    for name, said in (names | {"two": "two images, 2,597 tokens"}).items():
        logits = model(**prompt(name, images), logits_to_keep=16).logits
        allowed = 3e-4 if name == "two" else 2e-4
        rows.append(
            _row(f"logits, {said}", logits, language[f"{name}.logits_last16"].view_as(logits), allowed)
        )
    rows.append(_row("greedy ids that differ", _wrong_ids(model, images), torch.tensor(0), 0))
    batch = {name: step[name].long() for name in ("attention_mask", "labels")}
    loss = model(input_ids=places(step["input_ids"]), **batch, **images).loss
    rows.append(
        _row("loss of a training batch", loss, torch.tensor(about("train_step")["loss"]["batch"]), 1e-4)
    )
    return rows


def _wrong_ids(model: MonkeyForConditionalGeneration, images: dict[str, Tensor]) -> Tensor:
    """How many ids of a greedy answer are not the released code's."""
    inputs, greedy = prompt("single", images), torch.tensor(about("lmm_896")["greedy"]["single"])
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": PAD, "max_new_tokens": len(greedy)}
    made = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
    return (made != greedy).sum()


def _row(quantity: str, ours: Tensor, released: Tensor, allowed: float) -> dict[str, Any]:
    largest = (ours.float() - released.float()).abs().max().item()
    return {"quantity": quantity, "difference": largest, "allowed": allowed, "holds": largest <= allowed}
