import pytest
import torch

from monkeylib.raising.tower import find_tower, tower_name, try_image
from tests.raising.conftest import noise_image
from tests.support import tiny_vlms


def test_layers_above_the_features_get_no_adapters(llava):
    inputs = llava.processor(images=noise_image(), text="<image>", return_tensors="pt")
    dry_run = try_image(llava.model, inputs)
    blocks = {name.split(".")[2] for name in dry_run.layers}
    # The features are read one layer below the last of three.
    assert blocks == {"0", "1"}
    assert len(dry_run.layers) == 12 and dry_run.linear_count == 18
    assert (dry_run.view_count, dry_run.tokens) == (1, 4)


def test_pooling_head_gets_no_adapters():
    vlm = tiny_vlms.build("gemma3")
    dry_run = try_image(vlm.model, vlm.processor(images=noise_image(), text=vlm.marker, return_tensors="pt"))
    assert dry_run.linear_count == 15 and len(dry_run.layers) == 12
    assert not any("head" in name for name in dry_run.layers)


def test_projector_of_zeros_hides_no_layer(llava):
    """Gemma 3's begins so: gradients are then zero, but the layers are connected."""
    torch.nn.init.zeros_(llava.model.model.multi_modal_projector.linear_2.weight)
    inputs = llava.processor(images=noise_image(), text="<image>", return_tensors="pt")
    assert len(try_image(llava.model, inputs).layers) == 12


def test_dry_run_leaves_no_hooks_and_no_gradients(llava):
    inputs = llava.processor(images=noise_image(), text="<image>", return_tensors="pt")
    try_image(llava.model, inputs)
    linears = [module for module in llava.model.modules() if isinstance(module, torch.nn.Linear)]
    assert not any(layer._forward_hooks for layer in linears)
    assert not find_tower(llava.model)._forward_pre_hooks
    assert all(parameter.grad is None for parameter in llava.model.parameters())


def test_tower_has_a_name(llava):
    assert llava.model.get_submodule(tower_name(llava.model)) is find_tower(llava.model)


def test_model_without_a_tower_raises(llava):
    with pytest.raises(ValueError, match="has no vision tower"):
        find_tower(llava.model.model.language_model)
