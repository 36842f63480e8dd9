"""Cross-entropy of the tokens that are learned, with bounded memory for any number of them.

Logits of the paper's 151,936 words take 0.6 MB a position. `cross_entropy_in_parts` holds those of a part of
the positions at a time, and computes each part again in the backward pass.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from monkeylib.label_mask import IGNORE_INDEX

# Logits of one part, in float32: 883 positions of the paper's vocabulary. Fewer positions than that are one
# part, of which nothing is computed twice.
PART_BYTES = 2**29

# Language models of transformers whose logits are the output layer's product and nothing else. Others cap or
# scale it in their `forward`, which then has to compute all logits at once.
_PLAIN_OUTPUT = frozenset({"llama", "mistral", "monkey_qwen", "qwen2", "qwen3"})


def has_plain_output(language_model: PreTrainedModel) -> bool:
    """Return whether the logits are the output layer's product, so that they can be computed in parts."""
    return language_model.config.model_type in _PLAIN_OUTPUT


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, num_items: int | float | None = None
) -> torch.Tensor:
    """Return `-sum_t log p(target_t) / n` in fp32 over the supervised positions.

    Args:
        logits: `[..., vocabulary]`.
        targets: `[...]` token ids, `IGNORE_INDEX` where there is none.
        num_items: `n`; the number of supervised positions by default.

    Raises:
        ValueError: there is no supervised position, and no `num_items`.
    """
    # fp32: in lower precision the exponentials lose digits over a large vocabulary.
    logits, targets = logits.flatten(0, -2).float(), targets.flatten()

    # Part of a batch: the sum, divided by the count over the complete batch.
    if num_items is not None:
        return F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORE_INDEX) / num_items

    # The mean over no position would be NaN.
    if not bool((targets != IGNORE_INDEX).any()):
        raise ValueError(
            "the labels hold no supervised token: check that answers were not cut off by truncation"
        )

    return F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX)


def cross_entropy_in_parts(
    hidden: torch.Tensor,
    output_layer: nn.Linear,
    targets: torch.Tensor,
    num_items: int | float | None = None,
    part_bytes: int = PART_BYTES,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of `cross_entropy`, and the most likely token of each position.

    Args:
        hidden: `[N, width]`, what the output layer reads.
        output_layer: `[N, width]` -> logits `[N, vocabulary]`.
        targets: `[N]` token ids, all of them supervised.
        num_items: as in `cross_entropy`.
        part_bytes: bytes that the logits of a part may take in float32.

    Returns:
        The loss, and token ids `[N]`.

    Raises:
        ValueError: there is no position, and no `num_items`.
    """
    positions = max(1, part_bytes // (4 * output_layer.out_features))

    # One part: as fast as it can be, since its logits are kept for the backward pass.
    if len(targets) <= positions:
        logits = output_layer(hidden)
        return cross_entropy(logits, targets, num_items), logits.detach().argmax(-1)

    def part(hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = output_layer(hidden)
        return cross_entropy(logits, targets, num_items=1), logits.detach().argmax(-1)

    results = [
        checkpoint(part, *inputs, use_reentrant=False)
        for inputs in zip(hidden.split(positions), targets.split(positions), strict=True)
    ]
    losses, predictions = zip(*results, strict=True)
    loss = torch.stack(losses).sum() / (len(targets) if num_items is None else num_items)
    return loss, torch.cat(predictions)
