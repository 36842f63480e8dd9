"""Learning rates of components, parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from monkeylib.profiles import Profile
from monkeylib.profiles.trainable import trainable_components

# Learned vectors that are stored as matrices: they do not decay.
_LEARNED_VECTORS = ("query", "positions")


def learning_rates(profile: Profile) -> dict[str, float]:
    """Return the learning rates of components that have their own, by the prefix of their parameters'
    names."""
    components = trainable_components(profile)
    rates = {
        "vision.": components.vision.lr,
        "resampler.": components.resampler.lr,
        "language_model.": components.language_model.lr,
    }
    return {prefix: rate for prefix, rate in rates.items() if rate is not None}


def parameter_groups(
    module: nn.Module, weight_decay: float, rates: dict[str, float] | None = None
) -> list[dict[str, Any]]:
    """Return AdamW's groups of the trainable parameters.

    Matrices decay; norms, biases, scales and learned vectors do not.

    Args:
        module: holds the parameters.
        weight_decay: of matrices.
        rates: learning rates by the prefix of a parameter's name, such as `{"vision.": 3e-3}`. Other
            parameters have the optimiser's rate.
    """
    rates = rates or {}
    groups: dict[tuple[str, bool], dict[str, Any]] = {}

    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        # The rate of its component, else that of the run.
        prefix = next((prefix for prefix in rates if name.startswith(prefix)), "")
        decays = parameter.ndim >= 2 and not name.endswith(_LEARNED_VECTORS)

        # Groups come in the order of the parameters, which checkpoints of the optimiser rely on.
        if (prefix, decays) not in groups:
            title = prefix.rstrip(".") or "other"
            group: dict[str, Any] = {
                "params": [],
                "weight_decay": weight_decay if decays else 0.0,
                "name": title if decays else f"{title} without decay",
            }
            if prefix:
                group["lr"] = rates[prefix]
            groups[prefix, decays] = group
        groups[prefix, decays]["params"].append(parameter)

    return list(groups.values())


def cosine_with_warmup(optimizer: Optimizer, warmup: int, steps: int, floor: float = 0.02) -> LambdaLR:
    """Return the paper's schedule, a linear warm-up and a cosine decay.

    The peak rate is multiplied at step s by

        (s + 1) / warmup                                                              for s < warmup
        floor + (1 - floor) / 2 * (1 + cos(pi * (s - warmup) / (steps - warmup)))     after it

    Args:
        optimizer: has the peak rates.
        warmup: steps of the warm-up.
        steps: steps in all.
        floor: share of the peak rate that is left at the end.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
