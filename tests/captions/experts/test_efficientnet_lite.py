"""EfficientNet-Lite0: its published weights are read back, and its padding is TensorFlow's."""

import pytest
import torch
from torch import nn

from monkeylib.captions.experts import _efficientnet_lite


def published(model: _efficientnet_lite.EfficientNetLite0) -> dict[str, torch.Tensor]:
    """The weights under the names of the published file."""
    state = {}
    for name, value in model.state_dict().items():
        for old, new in _efficientnet_lite.BLOCK_NAMES.items():
            if name.startswith("blocks.") and f".{new}" in name:
                number = name.split(".")[1]
                state[f"_blocks.{number}.{old}{name.split(new)[1]}"] = value

        for old, new in _efficientnet_lite.NAMES.items():
            if name.startswith(new):
                state[old + name.removeprefix(new)] = value

    return state


def test_published_weights_are_loaded_under_their_new_names(tmp_path):
    torch.manual_seed(0)
    model = _efficientnet_lite.EfficientNetLite0()

    assert sum(p.numel() for p in model.parameters()) == 4_652_008  # the published size

    state = published(model)
    assert state.keys() == {name for name in state} and len(state) == len(model.state_dict())

    torch.save(state, tmp_path / "weights.pth")
    reloaded = _efficientnet_lite.load_efficientnet(tmp_path / "weights.pth")
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), reloaded.state_dict().values(), strict=True)
    )

    state.pop("_fc.bias")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="no EfficientNet-Lite0: fetch the asset"):
        _efficientnet_lite.load_efficientnet(tmp_path / "weights.pth")


@pytest.mark.parametrize("kernel, stride, side", [(3, 2, 224), (5, 2, 56), (3, 2, 7), (5, 1, 14), (1, 1, 7)])
def test_padding_equals_tensorflows_same(kernel, stride, side):
    """Rounded up, the odd pixel right and below: a kernel that copies its middle picks these places."""
    layer = _efficientnet_lite.Layer(1, 1, kernel, stride, linear=True).eval()
    nn.init.zeros_(layer.convolution.weight)
    layer.convolution.weight.data[0, 0, kernel // 2, kernel // 2] = 1
    image = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side)
    out = layer(image)[0, 0] * (1 + 1e-3) ** 0.5  # the norm's epsilon
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    first = kernel // 2 - total // 2

    assert torch.allclose(out, image[0, 0, first::stride, first::stride], rtol=1e-5)
    assert out.shape[0] == -(-side // stride)
