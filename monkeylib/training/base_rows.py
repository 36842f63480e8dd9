"""Rows of nano-base's training: views with dense labels, conversations, and where to look."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from monkeylib.data.collate import Encoded, encode, pad
from monkeylib.data.worlds import make_sample
from monkeylib.data.worlds.evidence import queries_to_look_at
from monkeylib.data.worlds.labels import dense_labels
from monkeylib.data.worlds.samples import TILE, Sample
from monkeylib.data.worlds.tasks import Turn, training_turns
from monkeylib.processing import CLIP_MEAN, CLIP_STD, MonkeyProcessor

FARTHEST = 280  # positions: what four more views take
POINTS = 24  # dense label points along a side: one every 4 pixels
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))


Row = tuple[Tensor, Tensor, Encoded | None, Tensor | None, tuple[int, int]]


class BaseRows:
    """Row `n` of a stage: a view of 96 x 96 pixels with dense labels and, in the language stage, a
    conversation.

    A view is a world drawn at that size, a 192-pixel world resized to it, or, while reading, a crop of one,
    cut through texts and objects as a tile is. The image and what follows it mostly stand at later positions
    than their own, as if other images came before and between: so the language model learns to read at the
    distances that prompts of several views have.
    """

    def __init__(self, processor: MonkeyProcessor, split: str, answers: bool):
        self.processor, self.split, self.answers = processor, split, answers

    def __call__(self, number: int) -> Row:
        """Image `[96, 96, 3]` uint8, dense labels `[3, 24, 24]` and the conversation of one sample."""
        rng = np.random.default_rng([11, number])
        kind = rng.choice(
            ["native", "resized", "crop"], p=(0.75, 0.25, 0.0) if self.answers else (0.5, 0.1, 0.4)
        )
        family = (
            None
            if self.answers
            else str(rng.choice(["document", "scene_text", "general"], p=(0.7, 0.2, 0.1)))
        )
        size = TILE if kind == "native" else 2 * TILE
        sample = make_sample(number, self.split, (size, size), family)
        view, image = (0, 0, size, size), sample.image
        if kind == "crop":
            x, y = (int(v) for v in rng.integers(0, size - TILE + 1, 2))
            view = (x, y, x + TILE, y + TILE)
            image = image.crop(view)
        elif kind == "resized":
            image = image.resize((TILE, TILE), Image.Resampling.BICUBIC)
        labels = dense_labels(sample, view, TILE, POINTS)
        dense = torch.from_numpy(np.stack([labels.chars, labels.objects, labels.colours]))
        conversation = looks = None
        if self.answers:
            turns = training_turns(sample, rng, TILE / size, budget=130, detailed=0.7)
            conversation = encode(
                self.processor.tokenizer, self.processor.image_span(), turns, max_length=512
            )
            looks = self.looks(sample, turns, conversation)
        shift = int(rng.integers(0, FARTHEST)) if rng.random() < 0.75 else 0
        shifts = (shift, int(rng.integers(shift, FARTHEST))) if shift else (0, 0)
        return torch.from_numpy(np.array(image)), dense, conversation, looks, shifts

    def looks(self, sample: Sample, turns: list[Turn], conversation: Encoded) -> Tensor:
        """`[T]`: the place in the prompt of the visual token that shows each labelled character, else -1."""
        side = math.isqrt(self.processor.queries)
        looks = torch.full_like(conversation.turns, -1)
        for number, (_, answer) in enumerate(turns):
            places = (conversation.turns == number).nonzero()[:-1, 0]  # without the end of text
            queries = torch.tensor(queries_to_look_at(sample, answer, self.processor.tokenizer, side))
            if len(places):
                looks[places] = torch.where(queries >= 0, queries + 1, -1)  # after the opening tag
        return looks

    def collate(self, rows: list[Row]) -> dict[str, Tensor]:
        """A batch: normalised `pixel_values [B, 3, 96, 96]`, `dense [B, 3, 24, 24]` and the padded
        conversations."""
        images, dense, conversations, looks, shifts = zip(*rows, strict=True)
        pixels = torch.stack(images).permute(0, 3, 1, 2)
        batch = {"pixel_values": (pixels / 255 - MEAN) / STD, "dense": torch.stack(dense)}
        if not self.answers:
            return batch
        batch |= pad(conversations, self.processor.tokenizer.pad_token_id)
        positions = torch.arange(batch["input_ids"].shape[1]).repeat(len(rows), 1)
        text = positions >= len(self.processor.image_span())
        before, after = torch.tensor(shifts).T[..., None]
        looks = nn.utils.rnn.pad_sequence(looks, batch_first=True, padding_value=-1)
        return batch | {"position_ids": positions + torch.where(text, after, before), "looks": looks}
