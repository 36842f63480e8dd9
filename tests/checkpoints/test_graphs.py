"""Graphs for other runtimes give what the model gives."""

from functools import cache

import numpy as np
import pytest
import torch

from monkeylib.checkpoints.graphs import export_graphs
from monkeylib.processing import MonkeyProcessor
from monkeylib.tiling import Grid
from tests.support import random_monkey


@pytest.fixture(scope="module")
def monkey():
    monkey = random_monkey.make_monkey()
    monkey.model.eval()
    return monkey


@pytest.fixture(scope="module", params=["onnx", "torch"])
def graphs(monkey, request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs") / request.param
    export_graphs(monkey.model, monkey.processor, folder, request.param)
    return folder


@cache
def load(folder, name: str):
    """Load a graph into a runtime that doesn't know the library."""
    if folder.name == "torch":
        return torch.export.load(folder / f"{name}.pt2").module()
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])


def run(folder, name: str, **inputs: torch.Tensor) -> torch.Tensor:
    if folder.name == "torch":
        return load(folder, name)(**inputs)
    (output,) = load(folder, name).run(None, {key: value.numpy() for key, value in inputs.items()})
    return torch.from_numpy(np.array(output))


@torch.no_grad()
def test_graphs_give_what_the_model_gives(graphs, monkey, make_image):
    """For prompts of several lengths, none of them that of the export."""
    for number, question in enumerate(["What is it?", "And what does this longer question ask about it?"]):
        inputs = monkey.prepare([make_image(number)], [question], "vqa")
        tokens = monkey.model.get_image_features(inputs["pixel_values"], inputs["grids"])
        logits = monkey.model(**inputs).logits[:, -1]
        views = {"pixel_values": inputs["pixel_values"]}

        encoded = run(graphs, "visual_encoder", **views)
        predicted = run(graphs, "next_token", **views, input_ids=inputs["input_ids"])

        assert torch.allclose(encoded, tokens, atol=1e-4) and tokens.abs().max() > 0.1
        assert torch.allclose(predicted, logits, atol=1e-4) and logits.std() > 0.1


def test_processor_lies_beside_the_graphs(graphs, monkey, make_image):
    processor = MonkeyProcessor.from_pretrained(graphs)
    inputs = processor(images=[make_image()], text=["What?"], prompt="vqa")
    expected = monkey.prepare([make_image()], ["What?"], "vqa")
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])


def test_grid_without_adapters_or_an_existing_folder_is_refused(monkey, tmp_path):
    with pytest.raises(ValueError, match="made for the grid 2x2"):
        export_graphs(monkey.model, monkey.processor, tmp_path / "new", grid=Grid(3, 3))
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileExistsError):
        export_graphs(monkey.model, monkey.processor, tmp_path)
