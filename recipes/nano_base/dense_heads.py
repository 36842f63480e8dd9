"""Dense reading: heads that say what is written or drawn at every point of a view, from patches and from
visual tokens.

They exist during the training of nano-base only. Supervising every point teaches a tiny ViT to read in
minutes where the language model's loss alone sits on a plateau; supervising the resampler's queries with
what lies in their own region teaches it to pass on what was read, and from where.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monkeylib.prompts import IGNORE_INDEX
from recipes.nano_base.dense_labels import CHAR_CLASSES, COLOUR_CLASSES, OBJECT_CLASSES

CLASSES = (CHAR_CLASSES, OBJECT_CLASSES, COLOUR_CLASSES)
BLANK_WEIGHT = 0.15  # most points are empty


class DenseHead(nn.Module):
    """Vectors on a `side x side` grid -> class scores at `points x points` label points, `points` a
    multiple of `side`."""

    def __init__(self, width: int, side: int, points: int):
        super().__init__()
        self.side, self.per_side = side, points // side
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, self.per_side**2 * sum(CLASSES))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """`[B, side * side, width]` -> three `[B, points * points, classes]`."""
        scores = self.score(self.norm(x)).view(
            len(x), self.side, self.side, self.per_side, self.per_side, sum(CLASSES)
        )
        scores = scores.transpose(2, 3).reshape(len(x), (self.side * self.per_side) ** 2, sum(CLASSES))
        return scores.split(CLASSES, dim=-1)


def dense_loss(scores: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Cross-entropy over characters, objects and colours; `labels` is `[B, 3, points, points]`.

    Characters are averaged over the points that count. Objects and colours are averaged over all points, so
    that a batch with a single object does not pull as hard as one full of them: weighted like characters,
    their noise keeps a tiny ViT from learning to read.
    """
    loss = scores[0].new_zeros(())
    for kind, (score, target) in enumerate(zip(scores, labels.flatten(2).unbind(1), strict=True)):
        weight = torch.ones(score.shape[-1])
        weight[0] = BLANK_WEIGHT
        reduction = "mean" if kind == 0 else "sum"
        part = F.cross_entropy(
            score.flatten(0, 1),
            target.flatten(),
            weight,
            ignore_index=IGNORE_INDEX,
            reduction=reduction,
        )
        loss = loss + (part if kind == 0 else part / target.numel())
    return loss


@torch.no_grad()
def reading_accuracy(scores: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Share of written points whose character is right."""
    target = labels[:, 0].flatten()
    written = target > 0
    return (scores[0].flatten(0, 1).argmax(-1)[written] == target[written]).float().mean()


class FirstAttentionHead:
    """The first head of an attention layer of Qwen2's or Llama's kind, computed beside the layer's own fast
    attention, which gives no weights."""

    def __init__(self, attention: nn.Module) -> None:
        self.attention = attention
        attention.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.hidden = args[0] if args else kwargs["hidden_states"]
        self.cos, self.sin = kwargs["position_embeddings"]

    def query_and_key(self) -> tuple[Tensor, Tensor]:
        """Of the last pass, turned to their positions and scaled: `[B, T, head_dim]` each."""
        width = self.attention.head_dim
        turned = []
        for part in (self.attention.q_proj, self.attention.k_proj):
            x = F.linear(self.hidden, part.weight[:width], part.bias[:width])
            half = torch.cat([-x[..., width // 2 :], x[..., : width // 2]], -1)
            turned.append(x * self.cos + half * self.sin)
        return turned[0] * self.attention.scaling, turned[1]


def attention_loss(query: Tensor, key: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How far a head is from looking at the character that is written next.

    Copying from visual tokens needs a head that finds them; the language model's loss alone takes very long
    to form one, and where the character stands is known.

    Args:
        query, key: `[B, T, head_dim]` of the head; prompts are padded on the right.
        looks: `[B, T]`, for each label the position of the visual token that shows it, -1 for none.

    Returns:
        The mean negative log of the attention where it belongs, and how often it is largest there.
    """
    row, place = (targets > 0).nonzero(as_tuple=True)
    if not len(row):
        return query.new_zeros(()), query.new_zeros(())
    target, before = targets[row, place], place - 1  # the position before a label predicts it
    scores = torch.einsum("nd,ntd->nt", query[row, before], key[row])
    later = torch.arange(key.shape[1], device=key.device) > before[:, None]
    scores = scores.masked_fill(later, -torch.inf)
    right = (scores.argmax(-1) == target).float().mean()
    return F.cross_entropy(scores, target), right.detach()
