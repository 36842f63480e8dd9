"""Read the weights of DINOv2 from an ONNX file whose backbone was exported from transformers.

Biases, norms and the patch projection keep their names. The matrices of linear layers are transposed and
nameless: each is found through the name of the product that reads it. The position embedding is split into
that of the class token and that of the patches.
"""

from pathlib import Path

import torch

_BACKBONE = "backbone"
# Names in the older transformers that exported the file -> names today.
_RENAMED = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}


def read_onnx(path: Path) -> dict[str, torch.Tensor]:
    """Read the state dict of transformers' `Dinov2Model` (without mask token) from an ONNX file.

    Raises:
        ValueError: the file holds no such backbone.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    constants = {
        entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer
    }

    # Tensors with a name.
    state = {}
    for name, tensor in constants.items():
        if name.startswith(f"{_BACKBONE}."):
            state[_current_name(name)] = tensor

    # Tensors that are found through the node that reads them.
    positions = {}
    for node in graph.node:
        scope = node.name.strip("/").split("/")
        inputs = [constants[name] for name in node.input if name in constants]
        if scope[0] != _BACKBONE or not inputs:
            continue

        if node.op_type == "MatMul":
            name = ".".join([*scope[:-1], "weight"])
            state[_current_name(name)] = inputs[0].T.contiguous()
        elif node.op_type in ("Concat", "Reshape") and scope[1] == "embeddings":
            positions[node.op_type] = inputs[0]

    if len(positions) != 2:
        raise ValueError(f"{path} holds no DINOv2 as expected: fetch the asset dinov2-small anew")
    state["embeddings.position_embeddings"] = torch.cat([positions["Concat"], positions["Reshape"]], dim=1)
    return state


def _current_name(exported: str) -> str:
    """Return the name in transformers today of a tensor in the file."""
    name = exported.removeprefix(f"{_BACKBONE}.")
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name
