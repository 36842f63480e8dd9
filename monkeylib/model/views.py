"""Views through an encoder: sorted by their adapters, in chunks of a size that suits the device."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from monkeylib.model.adapters import group_views
from monkeylib.model.config import MonkeyConfig, mlp_width

# Bytes of the widest activation of a chunk on a CPU; larger chunks only cost page faults.
CPU_CHUNK_BYTES = 16 * 2**20


class ViewEncoder(nn.Module, ABC):
    """Views `[V, 3, side, side]` -> patch features `[V, patches, width]`; a subclass encodes a chunk."""

    def __init__(self, config: MonkeyConfig) -> None:
        super().__init__()
        vision = config.vision_config
        self.patch_size, self.mlp_width = vision.patch_size, mlp_width(vision)
        self.has_adapters = config.adapters > 0

    def forward(self, pixel_values: torch.Tensor, adapter_index: torch.Tensor | None = None) -> torch.Tensor:
        """Encode views, each with its own adapter.

        Args:
            pixel_values: `[V, 3, side, side]`, normalised.
            adapter_index: `[V]`, the adapter of each view, -1 for none (the global view). None means none
                for all.

        Raises:
            ValueError: views that do not divide into patches.
        """
        *_, height, width = pixel_values.shape
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"a view of {height}x{width} pixels does not divide into patches of {self.patch_size} "
                f"pixels: use a tile size that is a multiple of {self.patch_size}"
            )
        index = [-1] * len(pixel_values) if adapter_index is None else adapter_index.tolist()
        if not self.has_adapters:
            index = [-1] * len(index)
        # Views of one tile position come to lie together. Those without adapter go first and never share a
        # pass with adapted ones: they cost no adapter arithmetic and, while the trunk is frozen, no gradient.
        order = sorted(range(len(index)), key=index.__getitem__)
        plain = index.count(-1)
        step = self.chunk_views(pixel_values)
        bounds = [*range(0, plain, step), *range(plain, len(index), step), len(index)]
        if order != list(range(len(order))):
            pixel_values = pixel_values[order]
        features = [
            self.encode(pixel_values[start:end], _groups([index[i] for i in order[start:end]], pixel_values))
            for start, end in zip(bounds, bounds[1:], strict=False)
        ]
        joined = features[0] if len(features) == 1 else torch.cat(features)
        if order == list(range(len(order))):
            return joined
        inverse = torch.empty(len(order), dtype=torch.long)
        inverse[order] = torch.arange(len(order))
        return joined[inverse.to(joined.device)]

    @abstractmethod
    def encode(self, pixel_values: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """One pass over one chunk `[v, 3, side, side]`; `groups` as in `AdapterBank.add`, None without
        adapters."""

    def chunk_views(self, pixel_values: torch.Tensor) -> int:
        """How many views go through at once: all on an accelerator, as many as suit the cache on a CPU."""
        if pixel_values.device.type != "cpu":
            return len(pixel_values)
        patches = pixel_values.shape[-2] * pixel_values.shape[-1] // self.patch_size**2
        return max(1, CPU_CHUNK_BYTES // (4 * patches * self.mlp_width))


def _groups(adapters: list[int], like: torch.Tensor) -> torch.Tensor | None:
    """The adapters of a chunk's groups; its views have all an adapter or none has (-1)."""
    return None if adapters[0] < 0 else torch.tensor(group_views(adapters), device=like.device)
