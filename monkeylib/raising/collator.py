"""Batches of conversations for transformers' `Trainer`, TRL's `SFTTrainer` and others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin

from monkeylib.images import open_image
from monkeylib.messages import IMAGE_TYPES, Message, image_field, read_messages
from monkeylib.raising.conversations import Conversations


class ConversationCollator:
    """Makes batches of a raised model: views with their `tile_index`, and labels on answers alone.

        raising.set_trainable(raised.model)
        Trainer(raised.model, arguments, ConversationCollator(*raised), dataset).train()

    A record has `messages`, the last of which is an answer. Images stand in them as
    `{"type": "image", "image": ...}`; or as `{"type": "image"}`, and then the record's `images` holds them in
    their order. A dataset must keep these columns: `remove_unused_columns=False`.

    Args:
        model, processor: what `raise_resolution` returned.
        max_length: tokens of a conversation at most; turns that do not fit are left out.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, max_length: int | None = None
    ) -> None:
        self.conversations = Conversations(model, processor)
        self.max_length = max_length

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the model's inputs of a batch.

        Raises:
            ValueError: a conversation that is none, is too long, or that the base cannot read; or a batch
                without any image.
        """
        views = self.conversations.views
        rows, images, grids = [], [], []
        for record in records:
            messages = read_messages(_fill_images(record), accepts_answer=True)
            if messages[-1].role != "assistant":
                raise ValueError(f"the last message is of {messages[-1].role}: expected an answer to learn")
            opened = [open_image(source) for message in messages for source in message.images]
            grids_of_record = [views.grids.select(image.size, views.tile_size) for image in opened]
            encoded = self.conversations.encode(messages, grids_of_record, self.max_length)
            rows.append(encoded)

            count = _count_images(messages, encoded.count)
            if count:
                images.append(opened[:count])
                grids.append(grids_of_record[:count])

        if not images:
            raise ValueError("no conversation of the batch has an image: mix those without among the others")
        batch = self.conversations.pad(rows)
        del batch["turns"]
        return {**batch, **self.conversations.views_of(images, grids)}


def _fill_images(record: Mapping[str, Any]) -> list[Any]:
    """Return the messages of a record with its `images` in their places."""
    images = iter(record.get("images") or ())
    return [
        {**message, "content": list(_fill_parts(message["content"], images))}
        if isinstance(message, Mapping) and isinstance(message.get("content"), list | tuple)
        else message
        for message in record["messages"]
    ]


def _fill_parts(parts: Sequence[Any], images: Iterator[Any]) -> Iterator[Any]:
    for part in parts:
        is_place = isinstance(part, Mapping) and part.get("type") in IMAGE_TYPES and image_field(part) is None
        yield {"type": "image", "image": next(images, None)} if is_place else part


def _count_images(messages: Sequence[Message], turns: int) -> int:
    """Return how many images the first turns of a conversation have."""
    count = 0
    for message in messages:
        turns -= message.role == "assistant"
        count += len(message.images)
        if not turns:
            break
    return count
