"""Conversations as a raised base reads them: in its own chat template, or as plain text where it has none.

A chat template puts everything in its place. As plain text, a conversation is its images' markers, texts and
answers one after the other, each answer with the end of text behind it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedModel

from monkeylib.errors import first_line, shorten
from monkeylib.images import open_image
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.messages import ImagePart, Message
from monkeylib.prompts import CHAT_PROMPTS, PROMPTS, get_chat_template, get_template, wrap_content
from monkeylib.raising.families import image_marker
from monkeylib.raising.processor import RaisedProcessor
from monkeylib.tiling import Grid

# What InstructBLIP's Q-Former reads: rows of tokens of its own, one a view.
_QFORMER = "qformer_"


class EncodedTurns(NamedTuple):
    """Tokens of a conversation to train on.

    Fields:
        arrays: the base's inputs of one entry a token, each `[T]`, among them `input_ids`; and rows of
            InstructBLIP's Q-Former, one a view.
        labels: `[T]`, the ids of answers and the ends of text behind them, `IGNORE_INDEX` elsewhere.
        turns: `[T]`, number of the turn whose answer a token belongs to, -1 elsewhere.
        count: number of turns that fit.
    """

    arrays: dict[str, list]
    labels: list[int]
    turns: list[int]
    count: int


class Conversations:
    """Turns conversations into inputs of a raised model.

    Args:
        model: raised.
        processor: raised with it.

    Attributes:
        views: how images are cut.
        accepted: names of the model's inputs.
        end_ids: tokens that end an answer, first that which is written behind one.
    """

    def __init__(self, model: PreTrainedModel, processor: Any) -> None:
        if not isinstance(processor, RaisedProcessor):
            raise ValueError("the processor is not raised: pass what `raise_resolution` returned")
        self.processor = processor
        self.views = processor.view_settings
        self.tokenizer = processor.tokenizer
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)

        # Batches are padded, and some language models come without a token for it.
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

        # Processors make more than models take.
        self.accepted = set(inspect.signature(model.forward).parameters)
        self.end_ids = _end_ids(model, self.tokenizer)
        self._end = self.tokenizer.convert_ids_to_tokens(self.end_ids[0])
        self._writes_end = self.has_template and self._template_writes_end()

    @property
    def has_template(self) -> bool:
        """Whether the base has a chat template."""
        return bool(getattr(self.processor, "chat_template", None))

    @property
    def templates(self) -> dict[str, str]:
        """The text of each prompt by its name, with `{question}` for the question."""
        texts = {name: template.text for name, template in PROMPTS.items()}
        return texts | CHAT_PROMPTS if self.has_template else texts

    @property
    def default_prompt(self) -> str:
        """Name of the prompt where none is requested: a chat model reads the question as it is."""
        return "plain" if self.has_template else "vqa"

    # --- texts

    def wrap(self, messages: Sequence[Message], prompt: str | None) -> list[Message]:
        """Put a named prompt around the texts of each message of the user; without one, they stay.

        Raises:
            ValueError: no such prompt, or it needs a question and a message has no text.
        """
        if prompt is None:
            return list(messages)
        (get_chat_template if self.has_template else get_template)(prompt)
        return [
            Message(
                message.role,
                tuple(wrap_content(message.parts, prompt, for_chat_model=self.has_template)),
            )
            if message.role == "user"
            else message
            for message in messages
        ]

    def write(self, messages: Sequence[Message]) -> str:
        """Return the text of a conversation: a prompt to be completed, if the user speaks last.

        Raises:
            ValueError: a text holds the base's marker of an image, or the chat template refuses the messages.
        """
        self._check_texts(messages)
        if not self.has_template:
            return "".join(self._plain_text(message) for message in messages)

        conversation = [
            {"role": message.role, "content": [*self._template_parts(message)]} for message in messages
        ]
        is_prompt = messages[-1].role == "user"
        try:
            return self.processor.apply_chat_template(
                conversation, add_generation_prompt=is_prompt, tokenize=False
            )
        except Exception as error:  # templates raise whatever their authors have written
            raise ValueError(
                f"the chat template of the base does not take this conversation: {first_line(error)}"
            ) from error

    def _check_texts(self, messages: Sequence[Message]) -> None:
        marker = image_marker(self.processor)
        for message in messages:
            if marker and marker in message.text:
                raise ValueError(
                    f"the text {shorten(message.text)} holds {marker}, which stands for an image to this "
                    "base: pass the image itself in its place"
                )

    def _template_parts(self, message: Message) -> Iterator[dict[str, str]]:
        for part in message.parts:
            if isinstance(part, ImagePart):
                yield {"type": "image"}
            else:
                is_open = message.role == "assistant" and not self._writes_end
                yield {"type": "text", "text": part + self._end if is_open else part}

    def _plain_text(self, message: Message) -> str:
        marker = image_marker(self.processor)
        text = "".join(marker if isinstance(part, ImagePart) else part for part in message.parts)
        if message.role == "assistant":
            return text + self._end
        return f"{text}\n" if message.role == "system" else text

    def _template_writes_end(self) -> bool:
        """Tell whether the template itself puts an end of text behind an answer."""
        self._writes_end = True
        text = self.write([Message("user", ("a",)), Message("assistant", ("b",))])
        behind = text.rpartition("b")[2]
        return any(token in behind for token in self.tokenizer.convert_ids_to_tokens(self.end_ids))

    # --- prompts

    def prepare(self, conversations: Sequence[Sequence[Message]], grid: Any = None) -> BatchFeature:
        """Return the model's inputs of a batch of prompts, padded on the left.

        Args:
            conversations: each ends with a question.
            grid: of all images, or a list of one an image; by default the model's.

        Raises:
            ValueError: a text or an image that cannot be read, or no adapters for the tiles of a grid.
        """
        texts = [self.write(messages) for messages in conversations]
        images = [list(_open_images(messages)) for messages in conversations]
        # The encoder of an encoder and a decoder learns positions from the left.
        side = self.tokenizer.padding_side if self.is_encoder_decoder else "left"
        features = self._process(texts, images, grid, padding=True, padding_side=side, return_tensors="pt")
        return BatchFeature(self._accept(features))

    def prepare_texts(
        self, conversations: Sequence[Sequence[Message]], grids: Sequence[Sequence[Grid]]
    ) -> dict[str, Any]:
        """Return the inputs of `prepare` without what is of the images, none of which is opened.

        Args:
            conversations: each ends with a question.
            grids: of each image of each conversation.
        """
        texts = [self.write(messages) for messages in conversations]
        flat = [grid for of_text in grids for grid in of_text]
        images = [[self._blank] * len(of_text) for of_text in grids]
        features = self._process(
            texts, images, flat or None, padding=True, padding_side="left", return_tensors="pt"
        )
        rows = features["input_ids"]
        return {
            name: value for name, value in self._accept(features).items() if self._is_of_tokens(value, rows)
        }

    @property
    def _blank(self) -> Image.Image:
        """An image in the place of another one: how many tokens it has is a matter of its grid alone."""
        return Image.new("RGB", (self.views.tile_size, self.views.tile_size))

    def _process(
        self, texts: list[str], images: list[list[Image.Image]], grid: Any, **options: Any
    ) -> Mapping[str, Any]:
        """Call the processor with the images of each text."""
        family = self.views.family
        if not (family.has_marker and family.nests_images) and any(len(of_text) != 1 for of_text in images):
            counts = ", ".join(str(len(of_text)) for of_text in images)
            raise ValueError(f"this base reads one image a prompt: got {counts}")
        if not family.nests_images:
            images = [image for of_text in images for image in of_text]

        # A template may begin with what the tokenizer would add once more.
        begin = self.tokenizer.bos_token
        if begin and texts[0].startswith(begin):
            options["add_special_tokens"] = False
        return self.processor(images=images if any(images) else None, text=texts, grid=grid, **options)

    def _accept(self, features: Mapping[str, Any]) -> dict[str, Any]:
        # PaliGemma's processor makes labels of its own.
        names = self.accepted - {"labels"}
        return {name: value for name, value in features.items() if name in names}

    # --- training

    def encode(
        self, messages: Sequence[Message], grids: Sequence[Grid], max_length: int | None = None
    ) -> EncodedTurns:
        """Return tokens and labels of a conversation, without opening its images.

        Only the assistant's answers are learned, with the ends of text behind them. A turn that does not fit
        into `max_length` is left out with all that follow.

        Args:
            messages: the last is an answer.
            grids: of each image.
            max_length: tokens of the conversation at most.

        Raises:
            ValueError: not even the first turn fits, the base has an encoder and a decoder, or as `write`.
        """
        if self.is_encoder_decoder:
            raise ValueError(
                "this base has an encoder and a decoder, whose answers are no part of the prompt: train it "
                "with transformers' Trainer"
            )
        encode = self._encode_by_template if self.has_template else self._encode_plain
        encoded, length = encode(messages, grids, math.inf if max_length is None else max_length)
        if not encoded.count:
            raise ValueError(
                f"The image and its first question need {length} tokens but max_length is {max_length}: "
                "raise max_length or shorten the answer."
            )
        return encoded

    def _encode_by_template(
        self, messages: Sequence[Message], grids: Sequence[Grid], max_length: float
    ) -> tuple[EncodedTurns, int]:
        """Return the turns that fit, and the tokens of the first turn.

        An answer is what follows its prompt, whose tokens are the beginning of those of the conversation.
        """
        arrays: dict[str, list] = {}
        prompts, lengths = [], []
        for position, message in enumerate(messages):
            if message.role != "assistant":
                continue
            longer = self._token_arrays(messages[: position + 1], grids)
            lengths.append(len(longer["input_ids"]))
            if lengths[-1] > max_length:
                break
            prompt = self._token_arrays(messages[:position], grids)
            prompts.append((prompt["input_ids"], longer["input_ids"]))
            # The Q-Former reads the question, and must not see the answer.
            first_question = arrays or prompt
            arrays = {
                name: first_question[name] if name.startswith(_QFORMER) else longer[name] for name in longer
            }

        ids = arrays.get("input_ids", [])
        labels, turns = [IGNORE_INDEX] * len(ids), [-1] * len(ids)
        for number, (prompt, answered) in enumerate(prompts):
            for place in range(_common_length(ids, prompt), _common_length(ids, answered)):
                labels[place], turns[place] = ids[place], number
                # Templates write blanks or line breaks behind it, which nobody has to learn.
                if ids[place] in self.end_ids:
                    break
        return EncodedTurns(arrays, labels, turns, len(prompts)), lengths[0]

    def _encode_plain(
        self, messages: Sequence[Message], grids: Sequence[Grid], max_length: float
    ) -> tuple[EncodedTurns, int]:
        """Return the turns that fit, and the tokens of the first turn."""
        first = next(number for number, message in enumerate(messages) if message.role == "assistant")
        if any(message.images for message in messages[first:]):
            raise ValueError(
                "this base has no chat template: images stand before the first answer, and not behind it"
            )
        arrays = self._token_arrays(messages[:first], grids)
        labels = [IGNORE_INDEX] * len(arrays["input_ids"])
        turns = [-1] * len(labels)

        prompt: list[int] = []
        count, first_length = 0, 0
        for message in messages[first:]:
            self._check_texts([message])
            ids = self.tokenizer(message.text, add_special_tokens=False)["input_ids"]
            if message.role != "assistant":
                prompt = ids
                continue

            ids = [*ids, self.end_ids[0]]
            length = len(labels) + len(prompt) + len(ids)
            first_length = first_length or length
            if length > max_length:
                break
            self._append(arrays, [*prompt, *ids])
            labels += [IGNORE_INDEX] * len(prompt) + ids
            turns += [-1] * len(prompt) + [count] * len(ids)
            count += 1
        return EncodedTurns(arrays, labels, turns, count), first_length

    def _token_arrays(self, messages: Sequence[Message], grids: Sequence[Grid]) -> dict[str, list]:
        """Return the inputs of one entry a token of a conversation, whose images are not opened."""
        count = sum(len(message.images) for message in messages)
        images = [[self._blank] * count]
        features = self._process(
            [self.write(messages)], images, list(grids[:count]) or None, return_tensors="pt"
        )

        rows = features["input_ids"]
        arrays = {}
        for name, value in self._accept(features).items():
            if name.startswith(_QFORMER):
                arrays[name] = [list(row) for row in value]
            elif self._is_of_tokens(value, rows):
                arrays[name] = [int(entry) for entry in value[0]]
        return arrays

    @staticmethod
    def _is_of_tokens(value: Any, rows: Sequence[Any]) -> bool:
        """Tell whether an input has one entry a token, as `rows` of ids have."""
        try:
            return [len(row) for row in value] == [len(row) for row in rows]
        except TypeError:  # numbers have no length
            return False

    def _append(self, arrays: dict[str, list], ids: Sequence[int]) -> None:
        """Append tokens of text to a conversation."""
        for name, array in arrays.items():
            if name == "input_ids":
                array += ids
            elif not name.startswith(_QFORMER):
                array += [self._fill(name)] * len(ids)

    def _fill(self, name: str) -> int:
        """Return what an input of one entry a token holds for the text of an answer."""
        return {"attention_mask": 1, "token_type_ids": int(self.views.family.marks_answers)}.get(name, 0)

    def append_ids(self, inputs: Mapping[str, Any], ids: torch.Tensor) -> dict[str, Any]:
        """Return the inputs of one prompt with more tokens `[1, T]` behind it.

        Raises:
            ValueError: the base has an encoder and a decoder.
        """
        if self.is_encoder_decoder:
            raise ValueError(
                "this base has an encoder and a decoder, whose answers are no part of the prompt"
            )
        rows = inputs["input_ids"]
        appended = {}
        for name, value in inputs.items():
            if name == "input_ids":
                appended[name] = torch.cat([value, ids], dim=1)
            elif self._is_of_tokens(value, rows) and not name.startswith(_QFORMER):
                appended[name] = torch.cat([value, torch.full_like(ids, self._fill(name))], dim=1)
            else:
                appended[name] = value
        return appended

    def pad(self, rows: Sequence[EncodedTurns]) -> dict[str, torch.Tensor]:
        """Return the inputs of a batch, its labels and its turns, padded on the right: each `[B, T]`."""
        padding = {"input_ids": self.tokenizer.pad_token_id}
        columns = {name: [row.arrays[name] for row in rows] for name in rows[0].arrays}
        columns |= {"labels": [row.labels for row in rows], "turns": [row.turns for row in rows]}

        padded = {}
        for name, column in columns.items():
            fill = {"labels": IGNORE_INDEX, "turns": -1}.get(name, padding.get(name, 0))
            if name.startswith(_QFORMER):
                # Rows of views, each with a question of its own.
                column = [row for of_example in column for row in of_example]
                fill = self.processor.qformer_tokenizer.pad_token_id if name.endswith("input_ids") else 0
            padded[name] = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(row) for row in column], batch_first=True, padding_value=fill
            )
        return padded

    def views_of(
        self, images: Sequence[Sequence[Image.Image]], grids: Sequence[Sequence[Grid]]
    ) -> dict[str, torch.Tensor]:
        """Return what the model takes of the images of a batch: pixels, `tile_index` and so on.

        Args:
            images: of each conversation that has any.
            grids: of each image.
        """
        marker = image_marker(self.processor)
        texts = [f"{marker * len(of_text)}a" for of_text in images]
        flat_grids = [grid for of_text in grids for grid in of_text]
        features = self._process(
            texts, [list(of_text) for of_text in images], flat_grids, padding=True, return_tensors="pt"
        )
        rows = features["input_ids"]
        return {
            name: value
            for name, value in self._accept(features).items()
            if not name.startswith(_QFORMER) and not self._is_of_tokens(value, rows)
        }


def _end_ids(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer, first that which is written behind one."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = [] if named is None else [named] if isinstance(named, int) else list(named)
    if tokenizer.eos_token_id in ids or not ids:
        ids = [tokenizer.eos_token_id, *ids]
    return list(dict.fromkeys(ids))


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two conversations have in common from their beginning."""
    for number, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return number
    return min(len(first), len(second))


def _open_images(messages: Sequence[Message]) -> Iterator[Image.Image]:
    for message in messages:
        for source in message.images:
            yield open_image(source() if isinstance(source, Callable) else source)
