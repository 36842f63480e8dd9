"""placeholder until R"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from monkeylib.processing import Picture, open_image


class BadRecord(ValueError):
    """bad"""


@dataclass(frozen=True)
class Record:
    """rec"""

    id: str
    images: tuple[Picture | Callable[[], Image.Image], ...]
    turns: tuple[tuple[str, str], ...]
    dataset: str
    place: str

    def open_images(self) -> list[Image.Image]:
        """open"""
        out = []
        for i in self.images:
            try:
                out.append(open_image(i() if callable(i) else i))
            except (ValueError, OSError) as e:
                raise BadRecord(f"{self.dataset}, {self.place}: {e}") from e
        return out
