"""What gradient checkpointing must leave as it is, and what it must change."""

import pytest
import torch


def trained_once(model, inputs):
    """Loss, gradients by name, and bytes that autograd has kept between forward and backward."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**inputs).loss
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    return loss, gradients, sum(size for place, size in kept.items() if place not in weights)


def compare_checkpointed(plain, checkpointed, inputs):
    """Two equal models, one of them with checkpointing: same loss and gradients, less kept."""
    for model in (plain, checkpointed):
        model.train().freeze_for_finetuning()
    loss, gradients, kept = trained_once(plain, inputs)
    loss_again, gradients_again, kept_again = trained_once(checkpointed, inputs)
    assert loss_again.item() == pytest.approx(loss.item(), rel=1e-6)
    assert gradients.keys() == gradients_again.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0 or "k_proj.bias" in name
        assert torch.allclose(gradients_again[name], gradient, rtol=1e-4, atol=1e-6), name
    assert kept_again < 0.6 * kept
