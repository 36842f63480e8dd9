"""What gradient checkpointing must leave as it is (loss and gradients), and what it must reduce (memory)."""

import pytest
import torch


def forward_and_backward(model, inputs):
    """Return loss, gradients by name, and bytes that autograd keeps between forward and backward pass."""
    saved_bytes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**inputs).loss
    loss.backward()

    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    activations = sum(size for address, size in saved_bytes.items() if address not in weights)
    return loss, gradients, activations


def compare_checkpointed(plain, checkpointed, inputs):
    """Check that two equal models, one with checkpointing, have the same loss and gradients, the latter with
    fewer activations."""
    for model in (plain, checkpointed):
        model.train().freeze_for_finetuning()

    loss, gradients, activations = forward_and_backward(plain, inputs)
    checkpointed_loss, checkpointed_gradients, checkpointed_activations = forward_and_backward(
        checkpointed, inputs
    )

    assert checkpointed_loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert gradients.keys() == checkpointed_gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0 or "k_proj.bias" in name
        assert torch.allclose(checkpointed_gradients[name], gradient, rtol=1e-4, atol=1e-6), name
    assert checkpointed_activations < 0.6 * activations
