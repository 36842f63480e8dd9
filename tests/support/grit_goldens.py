"""What the released GRiT computed from small random weights, and the same weights in monkeylib's model."""

import json
from functools import cache
from typing import Any

import torch
from safetensors.torch import load_file

from monkeylib import resources
from monkeylib.captions.experts.grit.checkpoint import build_grit
from monkeylib.captions.experts.grit.config import JOINT_BEGIN_ID, GritConfig
from monkeylib.captions.experts.grit.model import Grit

FOLDER = resources.REPOSITORY / "tests" / "goldens" / "grit"

# That of grit.json; the weights were drawn as those of the joint model, without its mask head.
CONFIG = GritConfig(
    short_side=480,
    long_side=640,
    width=48,
    heads=3,
    mlp_width=192,
    layers=4,
    global_layers=(1, 3),
    channels=64,
    heatmap_threshold=0.01,
    level_proposals=12,
    proposals=40,
    box_width=24,
    score_threshold=0.6,
    detections=14,
    text_width=48,
    text_heads=4,
    text_mlp_width=96,
    text_layers=2,
    vocabulary=512,
    begin_id=JOINT_BEGIN_ID,
)


@cache
def facts() -> dict[str, Any]:
    """Return what is no tensor."""
    return json.loads((FOLDER / "grit.json").read_text(encoding="utf-8"))


@cache
def expected() -> dict[str, torch.Tensor]:
    """Return the tensors that the released code computed, by the names of grit.json's README."""
    return load_file(FOLDER / "expected.safetensors")


@cache
def weights() -> dict[str, torch.Tensor]:
    """Return the small weights under their released keys; bfloat16 holds them exactly."""
    return load_file(FOLDER / "weights.safetensors")


@cache
def small_grit() -> Grit:
    """Return the model with the small weights."""
    return build_grit(weights(), CONFIG)


def assert_near(actual: torch.Tensor, name: str, tolerance: float) -> None:
    """Check a tensor against an expected one, by the largest difference."""
    torch.testing.assert_close(actual, expected()[name], rtol=0, atol=tolerance, msg=lambda m: f"{name}: {m}")
