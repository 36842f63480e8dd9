"""Auxiliary heads and losses: dense labels from patches and visual tokens, and attention supervision.

They exist during the training of nano-base only. Supervising every point teaches a tiny ViT to read in
minutes where the language model's loss alone stays on a plateau. Supervising the resampler's queries with
what lies in their own region teaches it to pass on what was read, and from where.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monkeylib.label_mask import IGNORE_INDEX
from recipes.nano_base.dense_labels import CHAR_CLASSES, COLOUR_CLASSES, OBJECT_CLASSES

CLASSES = (CHAR_CLASSES, OBJECT_CLASSES, COLOUR_CLASSES)
BLANK_WEIGHT = 0.15  # most points are empty


class DenseHead(nn.Module):
    """Class scores at `points x points` label points, from vectors on a `side x side` grid.

    Args:
        width: of the vectors.
        side: vectors along each side of the view.
        points: label points along each side, a multiple of `side`.
    """

    def __init__(self, width: int, side: int, points: int):
        super().__init__()
        self.side = side
        self.per_side = points // side
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, self.per_side**2 * sum(CLASSES))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """`[B, side * side, width]` -> three `[B, points * points, classes]`."""
        # Each vector scores the label points of its own cell: [B, rows, cols, rows in cell, cols in cell, C]
        scores = self.score(self.norm(x)).view(
            len(x), self.side, self.side, self.per_side, self.per_side, sum(CLASSES)
        )

        # Bring the rows inside a cell next to its row: [B, points * points, C]
        points = self.side * self.per_side
        scores = scores.transpose(2, 3).reshape(len(x), points**2, sum(CLASSES))
        return scores.split(CLASSES, dim=-1)


def dense_loss(scores: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Return the sum of the cross-entropies of characters, objects and colours.

    Characters are averaged over the points that count. Objects and colours are averaged over all points, so
    that a batch with a single object does not pull as hard as one full of them: weighted like characters,
    their noise keeps a tiny ViT from learning to read.

    Args:
        scores: three `[B, points * points, classes]`.
        labels: `[B, 3, points, points]`.
    """
    loss = scores[0].new_zeros(())
    targets = labels.flatten(2).unbind(1)  # three [B, points * points]

    for kind, (score, target) in enumerate(zip(scores, targets, strict=True)):
        weight = torch.ones(score.shape[-1])
        weight[0] = BLANK_WEIGHT

        is_characters = kind == 0
        term = F.cross_entropy(
            score.flatten(0, 1),
            target.flatten(),
            weight,
            ignore_index=IGNORE_INDEX,
            reduction="mean" if is_characters else "sum",
        )
        loss = loss + (term if is_characters else term / target.numel())

    return loss


@torch.no_grad()
def reading_accuracy(scores: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Return the share of written points whose character is right; arguments as in `dense_loss`."""
    target = labels[:, 0].flatten()
    has_character = target > 0
    predicted = scores[0].flatten(0, 1).argmax(-1)
    return (predicted[has_character] == target[has_character]).float().mean()


class FirstAttentionHead:
    """Query and key of the first head of an attention layer of Qwen2's or Llama's kind.

    They are computed beside the layer's own fused attention, which gives no weights.
    """

    def __init__(self, attention: nn.Module) -> None:
        self.attention = attention
        attention.register_forward_pre_hook(self._keep_inputs, with_kwargs=True)

    def _keep_inputs(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.hidden = args[0] if args else kwargs["hidden_states"]
        self.cos, self.sin = kwargs["position_embeddings"]

    def query_and_key(self) -> tuple[Tensor, Tensor]:
        """Return those of the last forward pass, rotated, the query scaled: `[B, T, head_dim]` each."""
        head_dim = self.attention.head_dim
        rotated = []
        for projection in (self.attention.q_proj, self.attention.k_proj):
            # The first head has the first rows of the projection.
            x = F.linear(self.hidden, projection.weight[:head_dim], projection.bias[:head_dim])

            # Rotary position embedding, as transformers computes it.
            half = torch.cat([-x[..., head_dim // 2 :], x[..., : head_dim // 2]], -1)
            rotated.append(x * self.cos + half * self.sin)

        query, key = rotated
        return query * self.attention.scaling, key


def attention_loss(query: Tensor, key: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of a head that should attend to the character that is written next.

    Copying from visual tokens needs a head that finds them. The language model's loss alone takes very long
    to form one, and the location of the character is known.

    Args:
        query, key: `[B, T, head_dim]` of the head; prompts are padded on the right.
        targets: `[B, T]`, for each label the position of the visual token that shows it, -1 for none.

    Returns:
        The mean negative log of the attention to the target, and how often the target has the most.
    """
    row, position = (targets > 0).nonzero(as_tuple=True)
    if not len(row):
        return query.new_zeros(()), query.new_zeros(())

    # The position before a label predicts it, and attends to nothing after itself.
    target = targets[row, position]
    previous = position - 1
    scores = torch.einsum("nd,ntd->nt", query[row, previous], key[row])
    is_later = torch.arange(key.shape[1], device=key.device) > previous[:, None]
    scores = scores.masked_fill(is_later, -torch.inf)

    accuracy = (scores.argmax(-1) == target).float().mean()
    return F.cross_entropy(scores, target), accuracy.detach()
