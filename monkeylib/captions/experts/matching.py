"""How well a text fits a crop, by two small heads on frozen encoders (trained here, not BLIP-2's).

`training.matching` trains the heads on images with descriptions; `data/models/matching-head` holds them
with their card and their retrieval accuracy.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from monkeylib import resources
from monkeylib.captions.experts.base import Matcher
from monkeylib.captions.experts.encoders import IMAGE_WIDTH, SIDE, TEXT_WIDTH, Encoders

FOLDER = "matching-head"
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


class MatchingHead(nn.Module):
    """Brings features of images and of texts into one space, and their closeness to a probability.

    `gain` and `offset` are fitted after the training, so that `probability` is the chance that a text belongs
    to the image where as many texts belong as don't.
    """

    def __init__(self, width: int = 256, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.dropout = nn.Dropout(dropout)
        self.image = nn.Linear(IMAGE_WIDTH, width)
        self.text = nn.Linear(TEXT_WIDTH, width)
        self.register_buffer("gain", torch.tensor(1.0))
        self.register_buffer("offset", torch.tensor(0.0))

    def images(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors `[N, width]` of images' features `[N, 768]`."""
        return F.normalize(self.image(self.dropout(features)), dim=-1)

    def texts(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors `[N, width]` of texts' features `[N, 384]`."""
        return F.normalize(self.text(self.dropout(features)), dim=-1)

    def probability(self, closeness: torch.Tensor) -> torch.Tensor:
        """The chance that a pair of this cosine belongs together."""
        return torch.sigmoid(self.gain * closeness + self.offset)


def save(head: MatchingHead, folder: Path, facts: dict[str, Any]) -> None:
    """Write the head (half precision), and what is to be known of its training, into a folder."""
    state = {name: tensor.half().contiguous() for name, tensor in head.state_dict().items()}
    with resources.replacing(folder / _CONFIG) as temporary:
        temporary.write_text(json.dumps({"width": head.width, **facts}, indent=2) + "\n", encoding="utf-8")
    with resources.replacing(folder / _WEIGHTS) as temporary:
        save_file(state, temporary)


def load_head(folder: Path) -> tuple[MatchingHead, dict[str, Any]]:
    """A saved head in single precision, ready to judge, and its facts.

    Raises:
        FileNotFoundError: there is no head in the folder.
    """
    if not (folder / _WEIGHTS).is_file():
        raise FileNotFoundError(
            f"There is no matching head in {resources.shown(folder)}: train one with "
            "`python -m monkeylib.training.matching`."
        )
    facts = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    head = MatchingHead(facts["width"])
    head.load_state_dict({name: value.float() for name, value in load_file(folder / _WEIGHTS).items()})
    return head.eval(), facts


class TrainedMatcher(Matcher):
    """The chance that a text belongs to a crop, by the matching head."""

    name = "matching-head"
    licence = "Apache-2.0"

    def __init__(self, folder: Path | None = None, batch_size: int = 16) -> None:
        self.folder = folder or resources.models() / FOLDER
        self.encoders = Encoders(batch_size)

    @property
    def version(self) -> str:  # type: ignore[override]
        """That of the head's file: its training's own, so that a head trained anew judges anew."""
        config = self.folder / _CONFIG
        return json.loads(config.read_text(encoding="utf-8"))["version"] if config.is_file() else "untrained"

    @property
    def settings(self) -> dict[str, Any]:
        """Pixels to a side at which a crop is seen."""
        return {"side": SIDE}

    @cached_property
    def _head(self) -> MatchingHead:
        return load_head(self.folder)[0]

    def prepare(self) -> None:
        """Load the head, and the encoders, fetched if they aren't there."""
        _ = self._head
        self.encoders.prepare()

    def release(self) -> None:
        """Free the encoders."""
        self.encoders.release()

    @torch.inference_mode()
    def match(self, crops: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """The chance of each pair; a crop object or a text that comes twice goes through its encoder once.

        Raises:
            ValueError: not as many texts as crops.
        """
        if len(crops) != len(texts):
            raise ValueError(f"A matcher takes a text for each crop: got {len(crops)} and {len(texts)}.")
        if not crops:
            return []
        seen = {id(crop): crop for crop in crops}
        said = dict.fromkeys(bare(text) for text in texts)
        images = self._head.images(self.encoders.images(list(seen.values())))
        words = self._head.texts(self.encoders.texts(list(said)))
        rows, columns = ({key: i for i, key in enumerate(keys)} for keys in (seen, said))
        first = images[[rows[id(crop)] for crop in crops]]
        second = words[[columns[bare(text)] for text in texts]]
        return self._head.probability((first * second).sum(dim=-1)).tolist()


def bare(text: str) -> str:
    """A text as the heads were trained on: in lower case, without article and full stop."""
    return re.sub(r"^(an?|the) ", "", text.strip().rstrip(".!").lower())
