"""Position tables: the 2-D sine-cosine table, and bicubic interpolation of a square table to any grid."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def sincos_table(width: int, grid: int) -> torch.Tensor:
    """Fixed 2-D sine-cosine positions `[grid * grid, width]` (MAE; used by the released resampler).

    The first half of the width encodes x, the second y; within each half sines come before cosines, base
    10000.
    """
    if width % 4:
        raise ValueError(f"2-D sine-cosine positions need a width that is a multiple of 4, got {width}")
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * rates
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    x = axis.repeat(grid, 1)
    y = axis.repeat_interleave(grid, dim=0)
    return torch.cat([x, y], dim=1).float()


def interpolate_table(table: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """Resample a square table `[n * n, width]` to `[rows * cols, width]`: bicubic in fp32, then cast back."""
    side = math.isqrt(table.shape[0])
    if (rows, cols) == (side, side):
        return table
    square = table.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(rows, cols), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(rows * cols, -1).to(table.dtype)


class TableCache(nn.Module):
    """Interpolates a table once per grid, and again when the table has changed or is being trained."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[tuple[int, int], tuple[tuple, torch.Tensor]] = {}

    def forward(self, table: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
        """`[n * n, width]` -> `[rows * cols, width]`."""
        if table.requires_grad and torch.is_grad_enabled():
            return interpolate_table(table, rows, cols)
        state = (table.data_ptr(), table._version, table.dtype, table.device)
        kept = self._kept.get((rows, cols))
        if kept is None or kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                kept = (state, interpolate_table(table, rows, cols).clone())
            self._kept[rows, cols] = kept
        return kept[1]
