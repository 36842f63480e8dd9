"""The low-rank adapters of the tile positions (paper section 3.1), stacked and applied in one grouped
product."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class TileLoRA(nn.Module):
    """One low-rank adapter per tile position beside one projection: `scale * B(A(dropout(x)))`.

    `a [tiles, rank, d_in]`, `b [tiles, d_out, rank]`, `scale [tiles]`. As in the released code, the scale is
    learned, starts at 1, and there is no alpha/rank factor; B starts at zero, so that a fresh adapter changes
    nothing.
    """

    def __init__(self, tiles: int, rank: int, d_in: int, d_out: int, dropout: float) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(tiles, rank, d_in))
        self.lora_B = nn.Parameter(torch.empty(tiles, d_out, rank))
        self.scaling = nn.Parameter(torch.empty(tiles))
        self.dropout = dropout
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A as the release (kaiming uniform with a = sqrt 5, which is +-1/sqrt(d_in)), B zero, scale one."""
        bound = 1 / math.sqrt(self.lora_A.shape[-1])
        nn.init.uniform_(self.lora_A, -bound, bound)
        nn.init.zeros_(self.lora_B)
        nn.init.ones_(self.scaling)

    def add(self, output: torch.Tensor, x: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """Add the adapters' part to the projection's `output`, in place.

        Args:
            output: `[views, tokens, d_out]`, what the frozen projection made of `x`.
            x: `[views, tokens, d_in]`.
            groups: `[g]` adapter numbers; the views are `g` consecutive groups of equal size, group `j` using
                adapter `groups[j]`.
        """
        # Here tile i meets adapter i: groups[j] is the position of the tiles of group j.
        a, b, scale = self.lora_A[groups], self.lora_B[groups], self.scaling[groups]
        grouped = F.dropout(x, self.dropout, self.training).reshape(len(groups), -1, x.shape[-1])
        low_rank = torch.bmm(grouped, (a * scale[:, None, None]).transpose(1, 2))
        # Under autocast `output` has a lower precision, which in-place products have to be given.
        low_rank, b = low_rank.to(output.dtype), b.to(output.dtype)
        output.view(len(groups), -1, output.shape[-1]).baddbmm_(low_rank, b.transpose(1, 2))
        return output

    @torch.no_grad()
    def extend(self, sources: list[int], fresh: bool) -> None:
        """Append one adapter per entry of `sources`: a copy of that adapter, or a fresh one of the same
        shape."""
        extra = TileLoRA(len(sources), *self.lora_A.shape[1:], self.lora_B.shape[1], self.dropout).to(
            self.lora_A
        )
        for name, new in extra.named_parameters():
            old = getattr(self, name)
            joined = torch.cat([old, new if fresh else old[sources]])
            setattr(self, name, nn.Parameter(joined, requires_grad=old.requires_grad))


def group_views(lora_index: list[int]) -> list[int]:
    """The adapter of each group of equally many neighbouring views, given the adapter of each view.

    A chunk of whole tile positions becomes one group per position (`[0, 0, 1, 1]` -> `[0, 1]`), an uneven one
    a group per view (`[0, 0, 1]` stays).
    """
    runs: list[list[int]] = []
    for adapter in lora_index:
        if runs and runs[-1][0] == adapter:
            runs[-1].append(adapter)
        else:
            runs.append([adapter])
    even = len({len(run) for run in runs}) == 1
    return [run[0] for run in runs] if even else lora_index
