"""GRiT's text decoder: a caption for each box, word by word.

A BERT (arXiv 1810.04805) whose sequence begins with the features of a box, as in GIT (arXiv 2205.14100):
visual places see each other, and a text place sees them and the text up to itself. Visual places see no text,
so what they add to each layer is computed once and remembered.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from monkeylib.captions.experts.grit.config import GritConfig

Memory = tuple[torch.Tensor, torch.Tensor]  # keys and values [N, heads, places, d] of one layer

_REPEATED = -10000.0  # logit of the id just before: no id follows itself


class TextDecoder(nn.Module):
    """Caption boxes by greedy search."""

    def __init__(self, config: GritConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text_width

        self.projection = nn.Linear(config.channels, width)
        self.projection_norm = nn.LayerNorm(width, eps=1e-5)

        self.words = nn.Embedding(config.vocabulary, width)
        self.positions = nn.Embedding(config.text_positions, width)
        self.embedding_norm = nn.LayerNorm(width, eps=1e-8)

        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.text_layers))
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids `[N, max_ids]` and mean log probabilities `[N]` of boxes `[N, channels, 14, 14]`."""
        memory = self.encode(pooled)

        def next_logits(ids: torch.Tensor) -> torch.Tensor:
            nonlocal memory
            logits, memory = self.step(ids[:, -1], ids.shape[1] - 1, memory)
            return logits

        begin_ids = torch.full((len(pooled),), self.config.begin_id, device=pooled.device)
        return greedy_search(next_logits, begin_ids, self.config.end_id, self.config.max_ids)

    def encode(self, pooled: torch.Tensor) -> list[Memory]:
        """Return the memory of the visual places of boxes `[N, channels, 14, 14]`, a layer at a time."""
        x = pooled.flatten(2).transpose(1, 2)
        x = self.projection_norm(self.projection(x))  # [N, 196, width]

        memory = []
        for layer in self.layers:
            x, remembered = layer(x, None)
            memory.append(remembered)

        return memory

    def step(self, ids: torch.Tensor, index: int, memory: list[Memory]) -> tuple[torch.Tensor, list[Memory]]:
        """Go one id further.

        Args:
            ids: id of each caption at the last place, `[N]`.
            index: position of that place within the text.
            memory: of the visual places and of all ids before, for each layer.

        Returns:
            Logits `[N, vocabulary]` of the next id, and the memory with the last place.
        """
        x = self.embedding_norm(self.words(ids) + self.positions.weight[index])[:, None]

        longer = []
        for layer, before in zip(self.layers, memory, strict=True):
            x, remembered = layer(x, before)
            longer.append(remembered)

        # The words' embeddings are the output layer, too.
        return F.linear(x[:, 0], self.words.weight, self.bias), longer


class TextLayer(nn.Module):
    """Attention and an MLP, each with a norm behind it."""

    def __init__(self, config: GritConfig) -> None:
        super().__init__()
        width = config.text_width
        self.heads = config.text_heads

        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.fc1 = nn.Linear(width, config.text_mlp_width)
        self.fc2 = nn.Linear(config.text_mlp_width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: torch.Tensor, memory: Memory | None) -> tuple[torch.Tensor, Memory]:
        """Let places see each other, and all that is remembered.

        Args:
            x: `[N, T, width]`: the visual places, or the last place of the text.
            memory: keys and values of the places before them.

        Returns:
            `[N, T, width]`, and the memory with these places.
        """
        q, k, v = (self._split(linear(x)) for linear in (self.query, self.key, self.value))
        if memory is not None:
            k, v = torch.cat([memory[0], k], dim=2), torch.cat([memory[1], v], dim=2)

        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm1(self.out(attended) + x)
        x = self.norm2(self.fc2(F.gelu(self.fc1(x))) + x)
        return x, (k, v)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, T, width]` -> `[N, heads, T, d]`."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def greedy_search(
    next_logits: Callable[[torch.Tensor], torch.Tensor], begin_ids: torch.Tensor, end_id: int, max_ids: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the likeliest id again and again, but never the same twice in a row.

    Args:
        next_logits: returns the logits `[N, vocabulary]` of the next id, for all ids so far, `[N, T]`.
        begin_ids: `[N]`.
        end_id: id that ends a caption.
        max_ids: the most ids of a caption, with the first.

    Returns:
        Ids `[N, max_ids]`, with the end id at all places after the end, and the mean log probability `[N]` of
        each caption's ids after the first, its first end id among them.
    """
    ids = begin_ids[:, None]
    ended = torch.zeros_like(begin_ids, dtype=torch.bool)
    log_probabilities = torch.zeros(len(ids), device=ids.device)
    lengths = torch.zeros(len(ids), device=ids.device)

    while ids.shape[1] < max_ids and not ended.all():
        logits = next_logits(ids).float()
        if ids.shape[1] > 1:  # what follows the begin id is free
            logits = logits.scatter(1, ids[:, -1:], _REPEATED)
        best, chosen = logits.log_softmax(dim=1).max(dim=1)

        ids = torch.cat([ids, chosen.masked_fill(ended, end_id)[:, None]], dim=1)
        log_probabilities += best.masked_fill(ended, 0)
        lengths += ~ended
        ended |= ids[:, -1] == end_id

    ids = F.pad(ids, (0, max_ids - ids.shape[1]), value=end_id)
    return ids, log_probabilities / lengths.clamp(min=1)
