"""DINOv2 read from an ONNX file of an older export."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from transformers import AutoConfig, AutoModel

from monkeylib import assets, profiles
from monkeylib.checkpoints import dinov2_onnx, pretrained

ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 70,
    "patch_size": 14,
    "use_mask_token": False,
}


def as_onnx(path, state):
    """A file with the names that an export of DINOv2 from an older transformers has."""
    old_names = {new: old for old, new in dinov2_onnx._RENAMED.items()}
    initialisers, nodes = [], []

    def add(name, tensor):
        initialisers.append(numpy_helper.from_array(np.ascontiguousarray(tensor.numpy()), name))

    for number, (name, tensor) in enumerate(state.items()):
        for new, old in old_names.items():
            name = name.replace(new, old)
        if name == "embeddings.position_embeddings":
            for kind, part in (("Concat", tensor[:, :1]), ("Reshape", tensor[:, 1:])):
                add(f"onnx::{kind}_{number}", part)
                nodes.append(
                    helper.make_node(
                        kind, [f"onnx::{kind}_{number}", "x"], ["y"], f"/backbone/embeddings/{kind}_6"
                    )
                )
        elif name.endswith(".weight") and tensor.ndim == 2:
            add(f"onnx::MatMul_{number}", tensor.T)
            scope = name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            nodes.append(
                helper.make_node(
                    "MatMul", ["x", f"onnx::MatMul_{number}"], ["y"], f"/backbone/{scope}/MatMul"
                )
            )
        else:
            add(f"backbone.{name}", tensor)

    onnx.save(helper.make_model(helper.make_graph(nodes, "tiny", [], [], initialisers)), path)


def test_dinov2_is_read_from_onnx(tmp_path):
    state = AutoModel.from_config(AutoConfig.for_model("dinov2", **ENCODER)).state_dict()
    as_onnx(tmp_path / "model.onnx", state)
    read = dinov2_onnx.read_onnx(tmp_path / "model.onnx")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_another_onnx_file_raises(tmp_path):
    as_onnx(tmp_path / "model.onnx", {"layernorm.weight": torch.ones(3)})
    with pytest.raises(ValueError, match="holds no DINOv2"):
        dinov2_onnx.read_onnx(tmp_path / "model.onnx")


@pytest.mark.skipif(
    assets.locate(assets.find("dinov2-small")) is None, reason="needs `monkeylib assets fetch dinov2-small`"
)
def test_fetched_dinov2_gives_the_features_of_its_onnx_file(tmp_path):
    import onnxruntime

    file = assets.fetch("dinov2-small")
    graph, last = onnx.load(file), "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(helper.make_empty_tensor_value_info(last))
    onnx.save(graph, tmp_path / "with_features.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "with_features.onnx", providers=["CPUExecutionProvider"]
    )
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    (expected,) = session.run([last], {"input_image": pixels})
    config = profiles.build_config(profiles.load_profile("small")).vision_config
    encoder = pretrained.load_vision_backbone("facebook/dinov2-small", config).eval()
    with torch.no_grad():
        features = encoder(torch.from_numpy(pixels)).last_hidden_state

    assert np.abs(features.numpy() - expected).max() < 1e-3
