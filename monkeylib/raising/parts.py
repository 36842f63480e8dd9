"""Parts of a raised model, each of which trains or is frozen."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from monkeylib.raising.adapters import layer_adapters
from monkeylib.raising.bases import language_model_name
from monkeylib.raising.tower import tower_name

# Janus also makes images, by weights that no answer depends on.
_IMAGE_GENERATION = ("model.vqmodel.", "model.generation_")


def set_trainable(model: PreTrainedModel, *, connector: bool = True, language_model: bool = False) -> None:
    """Let the adapters of a raised model train, in the mode "full" its tower, and what else is named.

    Args:
        model: raised.
        connector: train what lies between vision tower and language model, such as a projector, a resampler
            or a Q-Former.
        language_model: train the language model.

    Raises:
        ValueError: transformers finds no language model, and cannot tell the connector from it.
    """
    model.requires_grad_(False)
    if model.raising_settings.mode == "full":
        model.get_submodule(tower_name(model)).requires_grad_(True)
    for adapters in layer_adapters(model).values():
        for adapter in adapters:
            adapter.lora_A.requires_grad_(True)
            adapter.lora_B.requires_grad_(True)

    for part, trains in (("connector", connector), ("language_model", language_model)):
        for parameter in parameters_of(model, part):
            if trains and parameter.is_floating_point():
                parameter.requires_grad_(True)


def parameters_of(model: PreTrainedModel, part: str) -> Iterator[nn.Parameter]:
    """Yield the weights of a part: "tower", "connector" or "language_model"."""
    tower, decoder = f"{tower_name(model)}.", f"{language_model_name(model)}."
    head = model.get_output_embeddings()
    of_head = set() if head is None else {id(parameter) for parameter in head.parameters()}

    for name, parameter in model.named_parameters():
        if name.startswith(_IMAGE_GENERATION):
            continue
        if name.startswith(tower):
            own = "tower"
        elif name.startswith(decoder) or id(parameter) in of_head:
            own = "language_model"
        else:
            own = "connector"
        if own == part:
            yield parameter
