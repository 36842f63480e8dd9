import copy

import pytest
import torch
from torch import nn

from monkeylib.model.tile_lora import TileLoRA
from monkeylib.raising.adapters import LayerAdapters, add_adapters, check_equal_sizes, layer_adapters
from monkeylib.raising.views import ViewState

NUMBERS = [1, -1, 0, 2, 2, -1, 0]


@pytest.fixture()
def state():
    return ViewState([0, 1, 2])


@pytest.fixture()
def layers(state):
    """Two layers with adapters."""
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8))
    add_adapters(tower, {"0": 4, "1": 2}, 3, 0.0, state)
    for adapters in layer_adapters(tower).values():
        for adapter in adapters:
            nn.init.normal_(adapter.lora_B)
            nn.init.constant_(adapter.scaling, 0.5)
    return tower


def expected_output(layer, x, numbers):
    """W x + scaling * B A x, view by view."""
    rows = []
    for view, number in zip(x, numbers, strict=True):
        output = view @ layer.weight.T + layer.bias
        if number >= 0:
            adapter = layer.tile_lora[number]
            output = output + adapter.scaling * (view @ adapter.lora_A[0].T) @ adapter.lora_B[0].T
        rows.append(output)
    return torch.stack(rows)


@pytest.mark.parametrize("numbers", [NUMBERS, [0, 1, 2, -1], [0, 1, -1] * 4, [-1, -1]], ids=str)
def test_each_view_meets_its_adapter(numbers, layers, state):
    x = torch.randn(len(numbers), 5, 8)
    with state.use(numbers):
        state.begin(len(numbers))
        assert torch.allclose(layers[0](x), expected_output(layers[0], x, numbers), atol=1e-5)
        state.end()
    assert torch.equal(layers[0](x), nn.functional.linear(x, layers[0].weight, layers[0].bias))


@pytest.mark.parametrize("shape", [(1, 35, 8), (14, 5, 4, 8), (28, 2, 8)], ids=str)
def test_views_are_told_apart_in_any_shape(shape, layers, state):
    """One row of all views, windows of views, and rows and columns of patches."""
    x = torch.randn(shape).reshape(shape)
    of_views = x.reshape(7, -1, 8)
    with state.use(NUMBERS):
        state.begin(7)
        output = layers[0](x)
        state.end()
    assert output.shape == (*shape[:-1], 6)
    expected = expected_output(layers[0], of_views, NUMBERS)
    assert torch.allclose(output.reshape(7, -1, 6), expected, atol=1e-5)


def test_gradients_reach_adapters_of_present_tiles_alone(layers, state):
    layers.requires_grad_(True)
    with state.use([0, -1, 0]):
        state.begin(3)
        layers(torch.randn(3, 5, 8)).square().sum().backward()
        state.end()

    for adapters in layer_adapters(layers).values():
        assert adapters[0].lora_A.grad.abs().max() > 0 and adapters[0].lora_B.grad.abs().max() > 0
        assert adapters[1].lora_A.grad is None and adapters[2].lora_B.grad is None


def test_weight_decay_and_momentum_leave_absent_tiles_alone(layers, state):
    adapters = layer_adapters(layers)["0"]
    optimiser = torch.optim.AdamW(layers.parameters(), lr=0.1, weight_decay=0.5)

    def step(numbers):
        optimiser.zero_grad()
        with state.use(numbers):
            state.begin(len(numbers))
            layers(torch.ones(len(numbers), 5, 8)).square().sum().backward()
            state.end()
        optimiser.step()

    # All tiles once, so that each has a momentum.
    step([0, 1, 2])
    before = copy.deepcopy(adapters.state_dict())
    step([0, -1, -1])

    moved = {name for name, value in adapters.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"0.lora_A", "0.lora_B"}


def test_adapters_take_precision_and_device_of_their_layer(state):
    layer = nn.Linear(8, 6, dtype=torch.bfloat16)
    adapters = LayerAdapters(2, 4, layer, 0.0, state)
    assert {parameter.dtype for parameter in adapters.parameters()} == {torch.bfloat16}

    quantised = nn.Linear(8, 6)
    quantised.weight = nn.Parameter(torch.zeros(6, 8, dtype=torch.uint8), requires_grad=False)
    assert LayerAdapters(2, 4, quantised, 0.0, state)[0].lora_A.dtype == torch.float32


def test_autocast_adds_in_the_precision_of_the_output(layers, state):
    x = torch.randn(3, 5, 8)
    with state.use([0, 1, -1]), torch.autocast("cpu", torch.bfloat16):
        state.begin(3)
        output = layers[0](x)
        state.end()
    assert output.dtype == torch.bfloat16
    assert torch.allclose(output.float(), expected_output(layers[0], x, [0, 1, -1]), atol=0.1)


def test_adapters_are_tile_loras_that_start_without_effect(state):
    layer = nn.Linear(8, 6)
    x = torch.randn(2, 5, 8)
    before = layer(x)
    add_adapters(nn.ModuleDict({"block": layer}), {"block": 4}, 3, 0.0, state)
    assert [type(adapter) for adapter in layer.tile_lora] == [TileLoRA] * 3
    with state.use([0, 2]):
        state.begin(2)
        assert torch.equal(layer(x), before)
        state.end()


def test_views_of_different_sizes_raise():
    check_equal_sizes(None)
    check_equal_sizes(torch.tensor([[28, 28], [28, 28]]))
    with pytest.raises(ValueError, match="28x28 and 28x56 pixels, cannot be told apart"):
        check_equal_sizes(torch.tensor([[28, 28], [28, 56]]))
