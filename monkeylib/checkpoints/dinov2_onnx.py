"""DINOv2's weights out of an ONNX file whose backbone was exported from transformers.

Biases, norms and the patch projection keep their names. The matrices of linear layers are transposed and
nameless: each is found through the name of the product that reads it. The position table is split into that
of the class token and that of the patches.
"""

from pathlib import Path

import torch

_BACKBONE = "backbone"
_RENAMED = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}


def read_onnx(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of transformers' `Dinov2Model` (without mask token) in an ONNX file.

    Raises:
        ValueError: the file holds no such backbone.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    values = {
        entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer
    }
    state = {_rename(name): value for name, value in values.items() if name.startswith(f"{_BACKBONE}.")}
    positions = {}
    for node in graph.node:
        scope = node.name.strip("/").split("/")
        constants = [values[name] for name in node.input if name in values]
        if scope[0] != _BACKBONE or not constants:
            continue
        if node.op_type == "MatMul":
            state[_rename(".".join([*scope[:-1], "weight"]))] = constants[0].T.contiguous()
        elif node.op_type in ("Concat", "Reshape") and scope[1] == "embeddings":
            positions[node.op_type] = constants[0]
    if len(positions) != 2:
        raise ValueError(f"{path} holds no DINOv2 as expected: fetch the asset dinov2-small anew")
    state["embeddings.position_embeddings"] = torch.cat([positions["Concat"], positions["Reshape"]], dim=1)
    return state


def _rename(name: str) -> str:
    """Our transformers' name of a tensor that an older one exported."""
    name = name.removeprefix(f"{_BACKBONE}.")
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name
