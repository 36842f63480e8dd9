"""Graphs of a model for runtimes without this library: `torch.export` and ONNX, for one grid of tiles.

Two graphs are written, with the processor of the checkpoint beside them:

    visual_encoder   pixel_values [views, 3, side, side]          -> visual tokens [views, queries, width]
    next_token       pixel_values, input_ids [1, T]               -> logits [1, vocabulary] of the next token

The views are those of one image, as `MonkeyImageProcessor` gives them for the grid; `input_ids` is a prompt
of any length that begins with the image, as `MonkeyProcessor` writes it. Weights are in float32. `next_token`
keeps no keys and values: it reads the prompt anew for each token.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from monkeylib import resources
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.tile_lora import lora_index_of_image
from monkeylib.processing import MonkeyProcessor
from monkeylib.tiling import Grid

GraphFormat = Literal["onnx", "torch"]
SUFFIXES: dict[GraphFormat, str] = {"onnx": ".onnx", "torch": ".pt2"}


class VisualEncoder(nn.Module):
    """ViT with per-tile LoRA, and resampler, for the views of one image on one grid."""

    def __init__(self, model: MonkeyForConditionalGeneration, grid: Grid) -> None:
        super().__init__()
        self.vision, self.resampler = model.vision, model.resampler
        # A list of numbers: which LoRA a view meets is part of the graph.
        self.lora_index = lora_index_of_image(model.config, *grid)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`[views, 3, side, side]` -> visual tokens `[views, queries, width of the language model]`."""
        return self.resampler(self.vision(pixel_values, self.lora_index))


class NextToken(nn.Module):
    """The complete model: from the views of one image and a prompt that begins with it to the next token.

    Args:
        model: the model.
        grid: of the image.
        prefix: ids with which every prompt begins (`PromptLayout.prefix_ids`).
    """

    def __init__(self, model: MonkeyForConditionalGeneration, grid: Grid, prefix: list[int]) -> None:
        super().__init__()
        self.encoder = VisualEncoder(model, grid)
        self.language_model = model.language_model
        # The places of the visual tokens are part of the graph, too.
        self.start = prefix.index(model.config.image_token_id)
        self.end = self.start + prefix.count(model.config.image_token_id)

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """`[views, 3, side, side]` and `[1, T]` -> logits `[1, vocabulary]` of the next token."""
        visual_tokens = self.encoder(pixel_values).flatten(0, 1)[None]  # [1, views * queries, width]
        embeds = self.language_model.get_input_embeddings()(input_ids)  # [1, T, width]
        embeds = torch.cat([embeds[:, : self.start], visual_tokens, embeds[:, self.end :]], dim=1)
        output = self.language_model(
            inputs_embeds=embeds,
            # Without it, transformers looks for several texts in the row, by operations that ONNX has not.
            attention_mask=torch.ones_like(input_ids),
            use_cache=False,
            logits_to_keep=1,
        )
        return output.logits[:, -1]


def export_graphs(
    model: MonkeyForConditionalGeneration,
    processor: MonkeyProcessor,
    folder: str | Path,
    to: GraphFormat = "onnx",
    grid: Grid | None = None,
) -> None:
    """Write the graphs of a model for one grid, and its processor, into a new folder.

    Args:
        model, processor: of one checkpoint.
        folder: to be made.
        to: "onnx" for ONNX, "torch" for programs of `torch.export`.
        grid: of the images; the processor's by default.

    Raises:
        FileExistsError: there is something already.
        ValueError: a grid that the model was not trained on, or weights in another precision.
        ModuleNotFoundError: ONNX without the package `onnx`.
    """
    folder = Path(folder)
    resources.require_new(folder)
    grid = grid or Grid(processor.image_processor.rows, processor.image_processor.cols)

    if model.dtype != torch.float32:
        raise ValueError(
            f"graphs are in float32, the weights in {model.dtype}: load them with dtype='float32' first"
        )
    model.eval()
    side = model.config.tile_size
    encoder = VisualEncoder(model, grid)
    pixel_values = torch.zeros(len(encoder.lora_index), 3, side, side)

    prefix = processor.layout.prefix_ids([processor.visual_tokens(grid)])
    next_token = NextToken(model, grid, prefix)
    # Any prompt of more than two tokens: 0 and 1 would be taken for a size that never changes.
    input_ids = torch.tensor([prefix + prefix[:1] * 3])

    with resources.create_folder(folder) as new_folder, _all_views_at_once(model):
        for name, module, inputs in (
            ("visual_encoder", encoder, {"pixel_values": pixel_values}),
            ("next_token", next_token, {"pixel_values": pixel_values, "input_ids": input_ids}),
        ):
            write = _write_onnx if to == "onnx" else _write_program
            write(module, inputs, _longest_prompt(model), new_folder / f"{name}{SUFFIXES[to]}")
        processor.save_pretrained(new_folder)


def _longest_prompt(model: MonkeyForConditionalGeneration) -> int:
    """Return the most tokens of a prompt: beyond its trained length, Qwen-7B computes something else."""
    text_config = model.config.text_config
    return getattr(text_config, "trained_length", text_config.max_position_embeddings)


@contextlib.contextmanager
def _all_views_at_once(model: MonkeyForConditionalGeneration) -> Iterator[None]:
    """Let the ViT encode all views together, so that a graph holds it twice: with LoRA, and without."""
    before = model.vision.chunk_bytes
    model.vision.chunk_bytes = sys.maxsize
    try:
        yield
    finally:
        model.vision.chunk_bytes = before


def _write_program(module: nn.Module, inputs: dict[str, torch.Tensor], longest: int, path: Path) -> None:
    """Write a program of `torch.export`, which `torch.export.load` reads."""
    shapes: dict[str, dict[int, torch.export.Dim]] = {name: {} for name in inputs}
    if "input_ids" in inputs:
        shapes["input_ids"][1] = torch.export.Dim("tokens", min=inputs["input_ids"].shape[1] - 2, max=longest)

    with torch.no_grad():
        program = torch.export.export(module, (), inputs, dynamic_shapes=shapes, strict=False)
    torch.export.save(program, path)


def _write_onnx(module: nn.Module, inputs: dict[str, torch.Tensor], longest: int, path: Path) -> None:
    """Write an ONNX graph."""
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer notes each Python number that becomes a part of the graph, as intended here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=["logits" if "input_ids" in inputs else "visual_tokens"],
            dynamic_axes={"input_ids": {1: "tokens"}} if "input_ids" in inputs else None,
            opset_version=18,
            dynamo=False,
        )
