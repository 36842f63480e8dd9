"""The ViT as a model of its own, inside other models of transformers."""

import torch
from transformers import AutoModel

from monkeylib.model import MonkeyVisionConfig, MonkeyVisionModel

CONFIG = MonkeyVisionConfig(
    tile_size=28, patch_size=14, width=16, layers=2, heads=2, mlp_width=32, position_grid=2
)


def test_auto_model_builds_it_and_its_features_are_those_of_the_vit():
    model = AutoModel.from_config(CONFIG).eval()
    assert isinstance(model, MonkeyVisionModel)

    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True)
        expected = model.encoder(pixels)
    assert torch.equal(output.last_hidden_state, expected)
    assert len(output.hidden_states) == CONFIG.layers + 1
    assert torch.equal(output.hidden_states[-1], expected)
    assert not torch.equal(output.hidden_states[0], output.hidden_states[1])


def test_views_are_encoded_all_at_once_on_a_cpu(monkeypatch):
    """Adapters beside the layers must see all views of a call: the ViT's own chunks would hide some."""
    monkeypatch.setattr("monkeylib.model.vision.CPU_CHUNK_BYTES", 1)
    model = MonkeyVisionModel(CONFIG).eval()
    rows = []
    model.encoder.blocks[0].fc.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    model(torch.zeros(5, 3, 28, 28))
    assert rows == [5]
