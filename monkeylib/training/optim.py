"""Parameter groups and the learning-rate schedule shared by all training."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(
    module: nn.Module, weight_decay: float, lr_of: dict[str, float] | None = None
) -> list[dict[str, Any]]:
    """AdamW groups of the trainable parameters: weight decay on matrices only, not on norms, biases, scales
    and learned vectors.

    Args:
        lr_of: learning rates by the beginning of the parameter's name, for example `{"vision.": 3e-3}`;
            others keep the optimiser's rate.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        part = next((piece for piece in lr_of or {} if name.startswith(piece)), "")
        decayed = parameter.ndim >= 2 and not name.endswith(("query", "positions"))
        title = (part.rstrip(".") or "other") + ("" if decayed else " without decay")
        fresh = {"params": [], "weight_decay": weight_decay if decayed else 0.0, "name": title}
        group = groups.setdefault((part, decayed), fresh)
        group["params"].append(parameter)
        if part and lr_of:
            group["lr"] = lr_of[part]
    return list(groups.values())


def cosine_with_warmup(optimiser: Optimizer, warmup: int, steps: int, floor: float = 0.02) -> LambdaLR:
    """Linear warm-up over `warmup` steps, then a cosine to `floor` times the peak at `steps` (the
    paper's schedule)."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimiser, factor)
