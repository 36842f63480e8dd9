"""GRiT's released checkpoints: which of their tensors is which of ours, and how they are read.

The key map is a list of rules: the beginning of a name in our state dict, and what it is called in the
released one. Two kinds of released tensors have no place: the output layer of the text decoder, which repeats
the embeddings of the words, and the mask head of the models that were trained for object detection as well.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from monkeylib.captions.experts.grit.config import BEGIN_ID, JOINT_BEGIN_ID, GritConfig
from monkeylib.captions.experts.grit.model import Grit
from monkeylib.checkpoints.weight_files import WeightFiles, check_finite, check_tensors, explain_broken

_MASK_HEAD = "roi_heads.mask_head."
_TEXT = "roi_heads.text_decoder.textual."
_REPEATED_WORDS = f"{_TEXT}output.weight"
_BEGINNINGS = (b"PK", b"\x80\x02")  # of a file that `torch.save` writes, today and before 1.6

_RULES = (
    (r"vit\.positions", "backbone.bottom_up.pos_embed"),
    (r"vit\.patch_embedding", "backbone.bottom_up.patch_embed.proj"),
    (r"vit\.blocks\.(\d+)\.attention\.qkv", r"backbone.bottom_up.blocks.\1.attn.qkv"),
    (r"vit\.blocks\.(\d+)\.attention\.out", r"backbone.bottom_up.blocks.\1.attn.proj"),
    (r"vit\.blocks\.(\d+)\.attention\.relative_rows", r"backbone.bottom_up.blocks.\1.attn.rel_pos_h"),
    (r"vit\.blocks\.(\d+)\.attention\.relative_columns", r"backbone.bottom_up.blocks.\1.attn.rel_pos_w"),
    (r"vit\.blocks\.(\d+)\.(norm\d)", r"backbone.bottom_up.blocks.\1.\2"),
    (r"vit\.blocks\.(\d+)\.(fc\d)", r"backbone.bottom_up.blocks.\1.mlp.\2"),
    (r"pyramid\.upsample", "backbone.fpn_stride_16_8"),
    (r"pyramid\.p3\.0", "backbone.fpn_stride8_conv1"),
    (r"pyramid\.p3\.1", "backbone.fpn_stride8_norm1"),
    (r"pyramid\.p3\.2", "backbone.fpn_stride8_conv2"),
    (r"pyramid\.p3\.3", "backbone.fpn_stride8_norm2"),
    (r"pyramid\.p4\.0", "backbone.fpn_stride16_conv1"),
    (r"pyramid\.p4\.1", "backbone.fpn_stride16_norm1"),
    (r"pyramid\.p4\.2", "backbone.fpn_stride16_conv2"),
    (r"pyramid\.p4\.3", "backbone.fpn_stride16_norm2"),
    (r"pyramid\.p5\.0", "backbone.fpn_stride32_conv1"),
    (r"pyramid\.p5\.1", "backbone.fpn_stride32_norm1"),
    (r"pyramid\.p5\.2", "backbone.fpn_stride32_conv2"),
    (r"pyramid\.p5\.3", "backbone.fpn_stride32_norm2"),
    (r"pyramid\.(p6|p7)", r"backbone.top_block.\1"),
    (r"proposals\.tower", "proposal_generator.centernet_head.bbox_tower"),
    (r"proposals\.heatmap", "proposal_generator.centernet_head.agn_hm"),
    (r"proposals\.distances", "proposal_generator.centernet_head.bbox_pred"),
    (r"proposals\.scales\.(\d)", r"proposal_generator.centernet_head.scales.\1.scale"),
    (r"cascade\.stages\.(\d)\.(fc\d)", r"roi_heads.box_head.\1.\2"),
    (r"cascade\.stages\.(\d)\.score", r"roi_heads.box_predictor.\1.cls_score"),
    (r"cascade\.stages\.(\d)\.delta", r"roi_heads.box_predictor.\1.bbox_pred"),
    (r"decoder\.projection_norm", f"{_TEXT}object_feature_projection.1"),
    (r"decoder\.projection", f"{_TEXT}object_feature_projection.0"),
    (r"decoder\.(words|positions)", rf"{_TEXT}embedding.\1"),
    (r"decoder\.embedding_norm", f"{_TEXT}embedding.layer_norm"),
    (r"decoder\.bias", f"{_TEXT}output.bias"),
    (
        r"decoder\.layers\.(\d+)\.(query|key|value)",
        rf"{_TEXT}transformer.encoder.layer.\1.attention.self.\2",
    ),
    (r"decoder\.layers\.(\d+)\.out", rf"{_TEXT}transformer.encoder.layer.\1.attention.output.dense"),
    (r"decoder\.layers\.(\d+)\.norm1", rf"{_TEXT}transformer.encoder.layer.\1.attention.output.LayerNorm"),
    (r"decoder\.layers\.(\d+)\.fc1", rf"{_TEXT}transformer.encoder.layer.\1.intermediate.dense"),
    (r"decoder\.layers\.(\d+)\.fc2", rf"{_TEXT}transformer.encoder.layer.\1.output.dense"),
    (r"decoder\.layers\.(\d+)\.norm2", rf"{_TEXT}transformer.encoder.layer.\1.output.LayerNorm"),
)


def load_grit(path: Path, config: GritConfig) -> Grit:
    """Load a released checkpoint, on the CPU in float32. Nothing in the file is executed.

    Its captions begin with the id that it was trained with: a model that learned several tasks, which is
    known by its mask head, has one for each.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut off, holds something other than finite tensors, or another model.
    """
    tensors = read_checkpoint(path)
    is_joint = any(key.startswith(_MASK_HEAD) for key in tensors)
    config = dataclasses.replace(config, begin_id=JOINT_BEGIN_ID if is_joint else BEGIN_ID)

    check_tensors(
        WeightFiles(path.parent, {path.name: list(tensors)}, _without_mask_head(tensors)),
        expected_shapes(config),
        advice="take the released grit_b_densecap.pth",
        described_by="GRiT-B",
    )
    return build_grit(tensors, config)


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Read the released tensors of a file by key, which lie at its top or under `model`.

    Raises:
        FileNotFoundError, ValueError: as `load_grit`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the file of weights {path} is missing: fetch it again")
    with path.open("rb") as file:
        if file.read(2) not in _BEGINNINGS:
            raise ValueError(f"{path} is no file of weights that PyTorch has written: fetch it again")
    with explain_broken(path):
        contents = torch.load(path, map_location="cpu", weights_only=True)

    tensors = contents.get("model", contents) if isinstance(contents, dict) else contents
    is_of_tensors = isinstance(tensors, dict) and all(isinstance(t, torch.Tensor) for t in tensors.values())
    if not is_of_tensors:
        raise ValueError(f"{path} holds something other than tensors by name: take the weights alone")

    for key, tensor in tensors.items():
        check_finite(tensor, key, path)
    return tensors


def expected_shapes(config: GritConfig) -> dict[str, list[int]]:
    """Return the shape of each released tensor of the model for dense captions alone."""
    with torch.device("meta"):
        own_tensors = Grit(config).state_dict()

    shapes = {released_key(name): list(tensor.shape) for name, tensor in own_tensors.items()}
    return shapes | {_REPEATED_WORDS: list(own_tensors["decoder.words.weight"].shape)}


def build_grit(tensors: Mapping[str, torch.Tensor], config: GritConfig) -> Grit:
    """Return the model with released tensors, which become its own in float32.

    Raises:
        KeyError: a tensor is missing.
    """
    with torch.device("meta"):
        grit = Grit(config)

    own_tensors = {name: tensors[released_key(name)].float() for name in grit.state_dict()}
    grit.load_state_dict(own_tensors, assign=True)
    return grit.eval().requires_grad_(False)


def released_key(name: str) -> str:
    """Return the released key of a tensor of our state dict.

    Raises:
        KeyError: no rule knows the name.
    """
    for beginning, released in _RULES:
        key, count = re.subn(rf"^{beginning}(?![a-z_])", released, name)
        if count:
            return key

    raise KeyError(f"no rule of the key map gives the released key of {name}: add one")


def _without_mask_head(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the shapes of the tensors that have a place."""
    return {key: tensor.to("meta") for key, tensor in tensors.items() if not key.startswith(_MASK_HEAD)}
