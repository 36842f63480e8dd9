"""Training of a raised model of transformers: its examples, its loss, and what is saved.

All else is as for Monkey: data, batches, schedule, checkpoints and exact resumption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from monkeylib.data.records import BadRecord, Record
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.messages import ImagePart, Message
from monkeylib.profiles.raised import RaisedProfile
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.raising import loading, raise_resolution
from monkeylib.raising.bases import load_base, load_base_processor, require_base
from monkeylib.raising.conversations import Conversations, EncodedTurns
from monkeylib.raising.files import write_files
from monkeylib.raising.parts import set_trainable
from monkeylib.raising.tower import tower_name
from monkeylib.tiling import Grid
from monkeylib.training.batches import EncodedExample
from monkeylib.training.module import MonkeyTraining


@dataclass(frozen=True)
class RaisedExample(EncodedExample):
    """An encoded conversation of a raised model, with all of the base's inputs of one entry a token."""

    encoded: EncodedTurns | None = None


class RaisedExampleEncoder:
    """Encode records for a raised model, and collate examples; in place of `batches.ExampleEncoder`.

    Args:
        conversations: of the model.
        max_length: longest example in tokens.
    """

    def __init__(self, conversations: Conversations, max_length: int) -> None:
        self.conversations, self.max_length = conversations, max_length

    def encode(self, record: Record) -> RaisedExample:
        """Return token ids and labels of a record; of its images, at most the sizes are read.

        Raises:
            BadRecord: it is longer than `max_length`, or the base cannot read such a conversation.
        """
        try:
            grids = self._select_grids(record)
            encoded = self.conversations.encode(self._messages(record), grids, self.max_length)
        except BadRecord:
            raise
        except ValueError as error:
            raise BadRecord(f"{record.location}: {error}") from error

        if encoded.count < len(record.prompts):
            record = record.first_turns(encoded.count)
        return RaisedExample(
            input_ids=torch.tensor(encoded.arrays["input_ids"]),
            labels=torch.tensor(encoded.labels),
            turns=torch.tensor(encoded.turns),
            record=record,
            grids=tuple(grids[: len(record.images)]),
            encoded=encoded,
        )

    def _select_grids(self, record: Record) -> list[Grid]:
        """Return the grid of each image; where it follows the image's shape, the size is read."""
        views = self.conversations.views
        if views.grids.max_tiles is None:
            return [views.grids.grids[0]] * len(record.images)
        return [views.grids.select(size, views.tile_size) for size in record.read_sizes()]

    def _messages(self, record: Record) -> list[Message]:
        """Return the messages of a record up to its last answer, in its prompt."""
        messages = list(record.messages)
        while messages and messages[-1].role != "assistant":
            messages.pop()
        return self.conversations.wrap(messages, record.prompt)

    def encode_images(self, example: EncodedExample, side: int | None = None) -> dict[str, Any]:
        """Open an example's images; nothing for an example without.

        Raises:
            BadRecord: an image cannot be read.
        """
        if example.record is None or not example.record.images:
            return {}
        return {"images": example.record.open_images()}

    def prompt(self, record: Record) -> dict[str, Tensor]:
        """Return the model's inputs of a record's first question.

        Raises:
            BadRecord: the record cannot be used.
        """
        messages = self._messages(record.first_turns(1))[:-1]
        images = iter(record.open_images())
        opened = []
        for message in messages:
            parts = [
                ImagePart(next(images)) if isinstance(part, ImagePart) else part for part in message.parts
            ]
            opened.append(Message(message.role, tuple(parts)))
        return dict(self.conversations.prepare([opened]))

    def dummy(self) -> tuple[RaisedExample, dict[str, Any]]:
        """Return an example without labels and its black image, as `ExampleEncoder.dummy`."""
        side = self.conversations.views.tile_size
        black = Image.new("RGB", (side, side))
        grid = self.conversations.views.grids.select(black.size, side)
        messages = [Message("user", (ImagePart(black), "a")), Message("assistant", ("a",))]
        encoded = self.conversations.encode(messages, [grid])

        unlabelled = [IGNORE_INDEX] * len(encoded.labels)
        encoded = encoded._replace(labels=unlabelled, turns=[-1] * len(unlabelled))
        example = RaisedExample(
            torch.tensor(encoded.arrays["input_ids"]),
            torch.tensor(encoded.labels),
            torch.tensor(encoded.turns),
            None,
            (grid,),
            encoded,
        )
        return example, {"images": [black]}

    def collate(
        self, examples: Sequence[RaisedExample], images: Sequence[dict[str, Any]]
    ) -> dict[str, Tensor]:
        """Return the model inputs of a micro-batch, padded on the right, at least one with images."""
        with_images = [
            (example, opened["images"]) for example, opened in zip(examples, images, strict=True) if opened
        ]
        views = self.conversations.views_of(
            [opened for _, opened in with_images], [example.grids for example, _ in with_images]
        )
        grids = torch.tensor([list(grid) for example, _ in with_images for grid in example.grids])
        return {**self.conversations.pad([example.encoded for example in examples]), **views, "grids": grids}


class RaisedTraining(MonkeyTraining):
    """Fine-tuning of a raised model, as `MonkeyTraining` does it with Monkey."""

    @staticmethod
    def build_encoder(processor: Conversations, profile: RaisedProfile) -> RaisedExampleEncoder:
        """Return what encodes records for a raised model."""
        return RaisedExampleEncoder(processor, profile.training.max_length)

    def loss_and_predictions(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the loss of a micro-batch, and the most likely token `[N]` in the place of each label."""
        inputs = dict(inputs)
        del inputs["grids"]
        labels, count = inputs.pop("labels"), inputs.pop("num_items_in_batch")
        # The position before a label predicts it.
        targets = F.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:]
        is_labelled = targets != IGNORE_INDEX

        # Image tokens stand first, and nobody asks for the logits of thousands of them.
        predicting = is_labelled.any(dim=0).nonzero()
        first = int(predicting[0]) if len(predicting) else labels.shape[1] - 1
        if self._limits_logits:
            inputs["logits_to_keep"] = labels.shape[1] - first
        logits = self.model(**inputs).logits
        if not self._limits_logits:
            logits = logits[:, first:]

        logits = logits[is_labelled[:, first:]].float()
        loss = F.cross_entropy(logits, targets[is_labelled], reduction="sum") / count
        return loss, logits.detach().argmax(-1)

    @property
    def _limits_logits(self) -> bool:
        return "logits_to_keep" in self.processor.accepted

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rates of parts that have their own, by the prefix of their weights' names."""
        rate = self.profile.training.lora_lr
        return {} if rate is None else {f"{tower_name(self.model)}.": rate}

    @property
    def monkey(self) -> RaisedMonkey:
        """The model as it is now, ready to answer."""
        return RaisedMonkey(self.model, self.processor.processor)


class RaisedTrainee:
    """What a run trains: a base, raised as a profile says.

    Args:
        profile: of the run.
    """

    module = RaisedTraining

    def __init__(self, profile: RaisedProfile) -> None:
        self.profile = profile
        self._model: Any = None

    @property
    def inputs(self) -> list[Path]:
        """Folders that the run reads."""
        folder = Path(self.profile.base)
        return [folder] if folder.exists() else []

    def require_start(self) -> None:
        """Check that there is a base.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is raised already.
        """
        if loading.is_raised(self.profile.base):
            raise ValueError(
                f"{self.profile.base} is a raised model: name its base, or go on with the run that trained it"
            )
        require_base(self.profile.base)

    def build_processor(self) -> Conversations:
        """Load and raise the base, whose processor is known together with it.

        Raises:
            ValueError: it cannot be raised.
        """
        profile = self.profile
        # In mixed precision weights stay in float32.
        dtype = torch.bfloat16 if profile.training.precision == "bf16-true" else torch.float32
        options: dict[str, Any] = {"dtype": dtype}
        if profile.bits is not None:
            options["device_map"] = {"": "cuda" if torch.cuda.is_available() else "cpu"}

        base = load_base(profile.base, profile.bits, **options)
        raised = raise_resolution(
            base,
            load_base_processor(profile.base),
            grid=profile.grid,
            rank=profile.rank,
            mode=profile.mode,
            dropout=profile.dropout,
            tile_size=profile.tile_size,
            resize_mode=profile.resize_mode,
        )
        self._model = raised.model
        return Conversations(raised.model, raised.processor)

    def build_model(self, processor: Conversations) -> Any:
        """Return the model that the processor was built with."""
        return self._model

    def set_trainable(self, model: Any) -> None:
        """Put the model into training mode, and freeze what the profile does not train."""
        set_trainable(
            model.train(),
            connector=self.profile.connector == "full",
            language_model=self.profile.language_model == "full",
        )

    def save(self, module: RaisedTraining, state: dict[str, Tensor], folder: Path) -> None:
        """Write what was learned, so that `load_raised` reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        write_files(module.model, module.model.raising_settings, folder)
