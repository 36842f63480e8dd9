"""From records to what a training step reads: token ids, labels and views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monkeylib.data.collate import IGNORE, Encoded, encode, pack, pad
from monkeylib.data.records import BadRecord, Record
from monkeylib.data.worlds import make_sample
from monkeylib.data.worlds.tasks import training_turns
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from monkeylib.profiles import Profile

# Which of several signs is asked about is the hardest thing to find in several views.
MIX = {"general": 0.2, "scene_text": 0.42, "document": 0.38}


class WorldRecords:
    """Record `n`: image `n` of a split of the nano world, and a conversation about it."""

    def __init__(self, profile: Profile, split: str):
        self.size, self.split = profile.image_size, split
        self.scale = 1.0 if profile.views != "global" else profile.tile_size / self.size[0]
        self.name = f"nano-{split}"

    def __getitem__(self, number: int) -> Record:
        family = str(np.random.default_rng([31, number]).choice(list(MIX), p=list(MIX.values())))
        sample = make_sample(number, self.split, self.size, family)
        # Visual tokens are most of a row: more text costs little time and teaches more.
        turns = training_turns(
            sample, np.random.default_rng([13, number]), self.scale, budget=300, detailed=0.25, apart=True
        )
        name = f"{self.name}-{number}"
        return Record(name, (sample.image,), tuple(turns), self.name, name)


@dataclass(frozen=True)
class Row:
    """A record with its token ids; its images are opened when a step needs them."""

    record: Record
    encoded: Encoded

    def __len__(self) -> int:
        return len(self.encoded.ids)

    @property
    def supervised(self) -> int:
        """Tokens that are learned."""
        return int((self.encoded.labels != IGNORE).sum())


class RowMaker:
    """Encodes records and puts rows together into what the model takes.

    Args:
        max_length: tokens of a row at most.
        packed: put the rows of a pass into one sequence, in which none sees another, instead of padding.
    """

    def __init__(self, processor: MonkeyProcessor, max_length: int, packed: bool = False):
        self.processor, self.max_length, self.packed = processor, max_length, packed

    def encode(self, record: Record) -> Row:
        """Token ids and labels of a record, without opening its images.

        Raises:
            BadRecord: its images and its first turn don't fit.
        """
        spans = self.processor.opening_ids() + self.processor.image_span() * len(record.images)
        try:
            encoded = encode(self.processor.tokenizer, spans, record.turns, self.max_length)
        except ValueError as error:
            raise BadRecord(f"{record.place}: {error}") from error
        return Row(record, encoded)

    def views(self, row: Row, side: int | None = None) -> dict[str, Tensor]:
        """`pixel_values [V, 3, tile, tile]` and `grids [images, 2]` of a row's images; nothing of a row
        without images.

        Args:
            side: see images through one view of so many pixels, in place of the processor's views.

        Raises:
            BadRecord: an image cannot be read.
        """
        images = row.record.open_images()
        usual = self.processor.image_processor
        if side is not None:
            usual = MonkeyImageProcessor(
                side, 1, 1, "global", usual.image_mean, usual.image_std, fit=usual.fit
            )
        return dict(usual(images)) if images else {}

    def blank(self) -> tuple[Row, dict[str, Tensor]]:
        """A row from which nothing is learned, with a black image: where a device has none left, it takes
        part in the step with this one."""
        spans = self.processor.image_span()
        ids = torch.tensor([*spans, self.processor.tokenizer.eos_token_id])
        encoded = Encoded(ids, torch.full_like(ids, IGNORE), torch.full_like(ids, -1))
        side = self.processor.image_processor.tile_size
        views = self.processor.image_processor(np.zeros((side, side, 3), np.uint8))
        return Row(Record("blank", (), (), "", ""), encoded), dict(views)

    def collate(self, rows: Sequence[Row], views: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Views of all images one after the other (there is one at least), and the conversations padded, or
        packed into one row."""
        shown = [features for features in views if features]
        images = {
            key: torch.cat([features[key] for features in shown]) for key in (shown[0] if shown else ())
        }
        encoded = [row.encoded for row in rows]
        if self.packed:
            return images | pack(encoded)
        padded = pad(encoded, self.processor.tokenizer.pad_token_id)
        del padded["attention_mask"]  # of padding after every label: causal attention without it is faster
        return images | padded
