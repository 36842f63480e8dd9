"""GRiT's image encoder: a plain ViT whose blocks attend to windows, or to the full image.

As in ViTDet (arXiv 2203.16527), most blocks attend inside windows of 14 x 14 patches, and every third one to
the full image. Both have relative positions, decomposed by axis (MViTv2, arXiv 2112.01526). There is neither
a class token nor a final norm.
"""

import torch
from torch import nn
from torch.nn import functional as F

from monkeylib.captions.experts.grit.config import GritConfig

PATCH = 16  # side in pixels
POSITION_GRID = 14  # side in patches of the images that the ViT was pretrained on
SCORES_AT_ONCE = 1 << 24  # attention scores in memory: 64 MiB in float32


class VisionTransformer(nn.Module):
    """Encode images to features of their patches."""

    def __init__(self, config: GritConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, config.width, PATCH, PATCH)
        self.positions = nn.Parameter(torch.zeros(1, 1 + POSITION_GRID**2, config.width))
        self.blocks = nn.ModuleList(
            Block(config, None if layer in config.global_layers else config.window)
            for layer in range(config.layers)
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the features `[B, H/16, W/16, width]` of normalised pixels `[B, 3, H, W]`."""
        x = self.patch_embedding(pixels).permute(0, 2, 3, 1)

        x = x + self._position_embedding(x.shape[1], x.shape[2])
        for block in self.blocks:
            x = block(x)

        return x

    def _position_embedding(self, rows: int, columns: int) -> torch.Tensor:
        """Return the absolute positions `[1, rows, columns, width]`, interpolated to the grid."""
        # The first entry is that of the class token of the pretraining, which GRiT has not.
        grid = self.positions[:, 1:].unflatten(1, (POSITION_GRID, POSITION_GRID)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return grid.permute(0, 2, 3, 1)


class Block(nn.Module):
    """Attention and an MLP, each behind a norm.

    Args:
        config: the sizes.
        window: side of the windows in patches; None to attend to the full image.
    """

    def __init__(self, config: GritConfig, window: int | None) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attention = Attention(config.width, config.heads, window or config.global_grid)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[B, rows, columns, width]` for features of the same shape."""
        normed = self.norm1(x)
        if self.window is None:
            x = x + self.attention(normed)
        else:
            x = x + self._attend_in_windows(normed, self.window)

        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def _attend_in_windows(self, x: torch.Tensor, side: int) -> torch.Tensor:
        batch, rows, columns, width = x.shape

        # The grid is filled up with zeros, which are not masked: as in the released code, they are attended
        # to like any patch.
        x = F.pad(x, (0, 0, 0, -columns % side, 0, -rows % side))
        down, across = x.shape[1] // side, x.shape[2] // side

        windows = x.view(batch, down, side, across, side, width).transpose(2, 3)
        attended = self.attention(windows.reshape(-1, side, side, width))

        attended = attended.view(batch, down, across, side, side, width).transpose(2, 3)
        return attended.reshape(x.shape)[:, :rows, :columns]


class Attention(nn.Module):
    """Multi-head attention over a grid, with a relative position for each axis.

    The score of query (i, j) and key (k, l) is

        q·k / √d + q·R_rows[i - k] + q·R_columns[j - l]

    so the relative terms are not scaled.

    Args:
        width: channels.
        heads: number of heads.
        side: side of the grid that the relative positions are made for, in patches.
    """

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.relative_rows = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.relative_columns = nn.Parameter(torch.zeros(2 * side - 1, width // heads))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[B, rows, columns, width]` for features of the same shape."""
        batch, rows, columns, width = x.shape
        places = rows * columns

        # [B, places, 3 * width] -> three times [B, heads, places, d]
        qkv = self.qkv(x).view(batch, places, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)

        # What a query adds to all keys of a row, and to all keys of a column.
        q_grid = q.unflatten(2, (rows, columns))
        to_rows = torch.einsum("bhijd,ikd->bhijk", q_grid, _relative_positions(self.relative_rows, rows))
        to_columns = torch.einsum(
            "bhijd,jld->bhijl", q_grid, _relative_positions(self.relative_columns, columns)
        )

        # All scores of an image of 800 x 1333 pixels would take 0.85 GB: a few rows of queries at a time.
        scores_per_row = batch * self.heads * columns * places
        step = max(1, SCORES_AT_ONCE // scores_per_row)
        attended = []
        for start in range(0, rows, step):
            some = slice(start, start + step)
            queries = q_grid[:, :, some].flatten(2, 3) * (width // self.heads) ** -0.5

            scores = (queries @ k.transpose(2, 3)).view(batch, self.heads, -1, columns, rows, columns)
            scores += to_rows[:, :, some, :, :, None]
            scores += to_columns[:, :, some, :, None, :]
            attended.append(scores.flatten(4).flatten(2, 3).softmax(dim=-1) @ v)

        joined = torch.cat(attended, dim=2)  # [B, heads, places, d]
        return self.out(joined.transpose(1, 2).reshape(x.shape))


def _relative_positions(table: torch.Tensor, side: int) -> torch.Tensor:
    """Return the entries `[side, side, d]` for each query and key of an axis.

    Args:
        table: `[2n - 1, d]` for an axis of n patches, interpolated linearly if `side` is another number.
        side: patches along the axis.
    """
    if len(table) != 2 * side - 1:
        table = F.interpolate(table.T[None], size=2 * side - 1, mode="linear", align_corners=False)[0].T

    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places[None, :] + side - 1]
