"""From patch features to visual tokens: the shared resampler, or LLaVA's projector in its place."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from monkeylib.model.config import MonkeyConfig, MonkeyResamplerConfig, check_pooling
from monkeylib.model.vision import PositionEmbeddingCache, attend, interpolate_position_embedding


class Resampler(GradientCheckpointingLayer):
    """Cross-attention of learned queries over the patches of a view; all views share its weights.

    This is the "shared resampler" of paper section 3.1, Qwen-VL's position-aware adapter. With the patch
    features `X` of one view, learned queries `Q` and the 2-D sine-cosine position embeddings `P`,

        Z = norm(X W_kv)
        A = softmax((norm(Q) + P_queries) W_q ((Z + P_patches) W_k)^T / sqrt(head_dim))
        tokens = norm(A Z W_v W_out) W_proj

    per head and with biases. Positions are added to queries and keys, never to values. The number of visual
    tokens of a view is that of the queries, however many patches it has; where the configuration's `pooling`
    says so, the tokens of neighbouring queries are then averaged (`average_tokens`).
    """

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        queries = config.resampler_config.queries
        self.query_grid = config.resampler_config.query_grid
        self.pooling = config.resampler_config.pooling
        width = config.text_config.hidden_size
        eps = config.vision_config.layer_norm_eps

        self.heads = config.resampler_config.heads
        if width % self.heads:
            raise ValueError(f"the resampler's width {width} does not divide by its {self.heads} heads")

        self.query = nn.Parameter(torch.empty(queries, width))
        # A buffer, since these positions are fixed. The released fine-tuning trains them by accident.
        positions = sincos_position_embedding(width, *self.query_grid)
        self.register_buffer("positions", positions.to(self.query.dtype))
        self.position_cache = PositionEmbeddingCache()

        self.kv_proj = _build_kv_proj(config)
        self.ln_q = nn.LayerNorm(width, eps=eps)
        self.ln_kv = nn.LayerNorm(width, eps=eps)
        self.qkv = PackedProjections(width)
        self.out = nn.Linear(width, width)
        self.ln_post = nn.LayerNorm(width, eps=eps)
        self.proj = nn.Linear(width, width, bias=False)

        self.reset_queries()

    def forward(
        self,
        features: torch.Tensor,
        patch_grid: tuple[int, int] | None = None,
        return_attention: bool = False,
        shared: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Resample the patches of each view.

        Args:
            features: `[V, patches, width of the ViT]`.
            patch_grid: rows and columns of patches in a view; a square by default.
            return_attention: also return the attention weights.
            shared: what the calls for chunks of the same views share, empty for the first of them: the
                projected queries.

        Returns:
            Visual tokens `[V, queries / pooling^2, width]`, and if asked for, attention
            `[V, heads, queries, patches]`.

        Raises:
            ValueError: the patches do not form the grid.
        """
        patches = features.shape[1]
        side = math.isqrt(patches)
        rows, cols = patch_grid or (side, side)
        if rows * cols != patches:
            raise ValueError(
                f"{patches} patches do not form a {rows}x{cols} grid: pass patch_grid=(rows, cols)"
            )

        # The ViT's features in the width of the language model.
        kv = self.ln_kv(self.kv_proj(features))  # [V, patches, width]

        q, k, v = self.query_key_value(kv, (rows, cols), {} if shared is None else shared)
        tokens = self.resample(q, k, v)  # [V, queries, width]
        tokens = average_tokens(tokens, self.query_grid, self.pooling)
        if not return_attention:
            return tokens

        # The fused kernel does not return its weights, so compute them again. [V, heads, queries, patches]
        attention = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
        return tokens, attention

    def query_key_value(
        self, kv: torch.Tensor, patch_grid: tuple[int, int], shared: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values of each head, `[V, heads, queries or patches, head_dim]`."""
        # A buffer keeps the precision of the file when a model is loaded in a lower one.
        p_q = self.positions.to(kv.dtype)
        p_k = self.position_cache(self.positions, *patch_grid, self.query_grid).to(kv.dtype)

        # The queries are the same for every view.
        if "queries" not in shared:
            shared["queries"] = self.qkv.query(self.ln_q(self.query) + p_q)
        q = self._split_heads(shared["queries"][None]).expand(len(kv), -1, -1, -1)
        k = self._split_heads(self.qkv.key(kv + p_k))
        v = self._split_heads(self.qkv.value(kv))
        return q, k, v

    def resample(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return a visual token for each query, `[V, queries, width]`."""
        # softmax(q k^T / sqrt(head_dim)) v: [V, heads, queries, head_dim] -> [V, queries, width]
        context = attend(q, k, v, self.training).transpose(1, 2).flatten(2)
        return self.proj(self.ln_post(self.out(context)))

    @torch.no_grad()
    def resize_queries(self, queries: int) -> None:
        """Change the number of queries; the new ones are interpolated from the old ones (bicubic).

        Queries that were learned on one grid are resampled to the other like the position embedding of a ViT
        that is given another image size: each new query stands between old ones, and its position too. The
        positions stay in the old grid's coordinates, in which the projections were trained.

        Raises:
            ValueError: another number than `MonkeyResamplerConfig` takes.
        """
        grid = MonkeyResamplerConfig(queries=queries, pooling=self.pooling).query_grid
        query = interpolate_position_embedding(self.query, *grid, self.query_grid)
        positions = interpolate_position_embedding(self.positions, *grid, self.query_grid)

        self.query = nn.Parameter(query.detach().clone(), requires_grad=self.query.requires_grad)
        self.positions = positions.clone()
        self.query_grid = grid
        self.position_cache = PositionEmbeddingCache()

    def reset_queries(self) -> None:
        """Draw the queries at random, as they are before any training; their positions stay."""
        nn.init.trunc_normal_(self.query, std=0.02)

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """`[n, tokens, width]` -> `[n, heads, tokens, head_dim]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PackedProjections(nn.Module):
    """The projections to queries, keys and values, whose weights lie in one tensor as in the released file.

    It is no `nn.Linear`: each third is applied to an input of its own, and what exchanges the linear layers
    of a model, to quantise them or to put adapters beside them, would exchange one that is never called.

    Args:
        width: of inputs and outputs.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        layer = nn.Linear(width, 3 * width)  # for its shapes and initial values
        self.weight, self.bias = layer.weight, layer.bias

    def extra_repr(self) -> str:
        """Return the widths that a printed model shows."""
        return f"in_features={self.width}, out_features=3 x {self.width}"

    def query(self, x: torch.Tensor) -> torch.Tensor:
        """Project to queries, `[..., width]`."""
        return self._project(x, 0)

    def key(self, x: torch.Tensor) -> torch.Tensor:
        """Project to keys, `[..., width]`."""
        return self._project(x, 1)

    def value(self, x: torch.Tensor) -> torch.Tensor:
        """Project to values, `[..., width]`."""
        return self._project(x, 2)

    def _project(self, x: torch.Tensor, third: int) -> torch.Tensor:
        rows = slice(third * self.width, (third + 1) * self.width)
        return F.linear(x, self.weight[rows], self.bias[rows])


def _build_kv_proj(config: MonkeyConfig) -> nn.Module:
    """Build the projection from the ViT's width to that of the language model.

    Raises:
        ValueError: the configuration leaves it out, but the widths differ.
    """
    d_in, width = config.vision_config.hidden_size, config.text_config.hidden_size
    if config.resampler_config.kv_proj:
        return nn.Linear(d_in, width, bias=False)

    if d_in != width:
        raise ValueError(
            f"a resampler without kv_proj needs a ViT as wide as the language model, got {d_in} and {width}: "
            "set resampler_config.kv_proj to true"
        )
    return nn.Identity()


def average_tokens(tokens: torch.Tensor, grid: tuple[int, int], pooling: int) -> torch.Tensor:
    """Average each square of `pooling x pooling` neighbouring tokens.

    Args:
        tokens: `[V, rows * cols, width]`, row by row.
        grid: rows and columns.
        pooling: side of the squares; 1 changes nothing.

    Returns:
        `[V, rows / pooling * cols / pooling, width]`, row by row.

    Raises:
        ValueError: the grid does not divide into such squares.
    """
    if pooling == 1:
        return tokens

    check_pooling(pooling, grid)
    rows, cols = grid
    # [V, rows / pooling, pooling, cols / pooling, pooling, width]
    squares = tokens.reshape(len(tokens), rows // pooling, pooling, cols // pooling, pooling, -1)
    return squares.mean((2, 4)).flatten(1, 2)


def sincos_position_embedding(width: int, rows: int, cols: int | None = None) -> torch.Tensor:
    """Return the fixed 2-D sine-cosine position embedding of MAE, `[rows * cols, width]`, row by row.

    A coordinate `p` is encoded by `width / 2` numbers, with `w_i = 10000 ** (-i / (width / 4))`:

        sin(w_0 p), sin(w_1 p), ..., cos(w_0 p), cos(w_1 p), ...

    The first half of the width encodes x, the second y.

    Args:
        width: of an embedding.
        rows, cols: of the grid; a square by default.

    Raises:
        ValueError: the width is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"2-D sine-cosine positions need a width that is a multiple of 4, got {width}")

    # In fp64, as the released code computes it.
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    cols = rows if cols is None else cols
    # [cells, 1] * [width / 4] -> [cells, width / 4]
    angles = torch.arange(max(rows, cols), dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # [cells, width / 2]

    # Row by row: x changes with every cell, y with every row.
    x = axis[:cols].repeat(rows, 1)
    y = axis[:rows].repeat_interleave(cols, dim=0)
    return torch.cat([x, y], dim=1).float()


class Projector(GradientCheckpointingLayer):
    """LLaVA-1.5's projector in the resampler's place: two linear layers with an activation between them.

    Every patch becomes one visual token. Where the configuration's `pooling` says so, those of neighbouring
    patches are then averaged (`average_tokens`).
    """

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, width)
        self.act = ACT2FN[config.resampler_config.hidden_act]
        self.linear_2 = nn.Linear(width, width)
        self.pooling = config.resampler_config.pooling

    def forward(
        self,
        features: torch.Tensor,
        patch_grid: tuple[int, int] | None = None,
        shared: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Project the patches of each view.

        Args:
            features: `[V, patches, width of the ViT]`.
            patch_grid: rows and columns of patches in a view; a square by default.
            shared: nothing here, see `Resampler.forward`.

        Returns:
            Visual tokens `[V, patches / pooling^2, width]`.
        """
        tokens = self.linear_2(self.act(self.linear_1(features)))
        side = math.isqrt(features.shape[1])
        return average_tokens(tokens, patch_grid or (side, side), self.pooling)
