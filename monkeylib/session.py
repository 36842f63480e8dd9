"""Sessions: an image is opened, encoded and read once, for any number of questions.

    session = monkey.session("receipt.png")
    session.answer("What is the total?")
    session.answer_batch(["Which shop is it?", "On which day?"])
    session.chat("And the tax?")

A session keeps the image's visual tokens, and the keys and values of what the language model has read last.
The next prompt continues from where the two agree: a question from the image, a turn of a chat from all that
was said before. Answers are those of `Monkey.answer` and `Monkey.chat`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from monkeylib.images import JpegFile
from monkeylib.messages import ImagePart, Message, lay_out, replace_images
from monkeylib.model import MonkeyForConditionalGeneration, generation
from monkeylib.model.answers import Answer
from monkeylib.model.kv_cache import RoomyLayer, empty_cache
from monkeylib.model.shared_prefix import share_prefixes
from monkeylib.model.streaming import AnswerStream, stream
from monkeylib.processing import MonkeyProcessor
from monkeylib.tiling import Grid

# Options of `generate` that copy, reorder or replace the keys and values of a prompt.
_OTHER_CACHES = (
    "cache_implementation",
    "num_beams",
    "num_return_sequences",
    "past_key_values",
    "use_cache",
)


class EncodedImage(NamedTuple):
    """An image as the language model reads it, good for any number of sessions.

    Attributes:
        visual_tokens: `[views, queries, width of the language model]`.
        grid: rows and columns of its tiles.
    """

    visual_tokens: Tensor
    grid: Grid


@torch.no_grad()
def encode_images(
    model: MonkeyForConditionalGeneration,
    processor: MonkeyProcessor,
    images: Sequence[Image.Image | JpegFile],
    grids: Sequence[Grid],
    use_lora: bool = True,
) -> list[EncodedImage]:
    """Encode images that are open.

    Args:
        model, processor: of one checkpoint.
        images: as `processor.image_processor.open` returns them.
        grids: of each image.
        use_lora: as in `get_image_features`.

    Raises:
        ValueError: an image that cannot be read, or a grid that the model has no LoRA for.
    """
    views = processor.image_processor(list(images), list(grids)).to(model.device)
    visual_tokens = model.get_image_features(views["pixel_values"], views["grids"], use_lora=use_lora)

    # The views of all images lie one after the other.
    counts = [processor.image_processor.view_count(of_image) for of_image in grids]
    return [
        EncodedImage(tokens, of_image)
        for tokens, of_image in zip(visual_tokens.split(counts), grids, strict=True)
    ]


class Session:
    """Questions about one image, or about several that stand in front of each question.

    A session belongs to the weights with which it was begun, and to one thread at a time.

    Attributes:
        turns: questions and answers of the chat, the oldest first.
    """

    def __init__(
        self,
        model: MonkeyForConditionalGeneration,
        processor: MonkeyProcessor,
        images: Sequence[EncodedImage],
    ) -> None:
        """Begin with images that are encoded; `Monkey.session` opens and encodes them, and calls this.

        Args:
            model, processor: of one checkpoint.
            images: as `encode_images` and `Monkey.encode` return them.
        """
        self.model, self.processor = model, processor
        self.turns: list[tuple[str, Answer]] = []

        # [views of all images, queries, width of the language model]
        self._visual_tokens = torch.cat([image.visual_tokens for image in images])

        # What every prompt begins with: the number of visual tokens of each image, and the ids.
        self._counts = [processor.visual_tokens(image.grid) for image in images]
        self._prefix = processor.layout.prefix_ids(self._counts)

        # The ids that the language model has read last, and their keys and values.
        self._read: list[int] = []
        self._cache: DynamicCache | None = None

    def answer(
        self, question: str = "", prompt: str = "vqa", max_new_tokens: int = 128, **options: Any
    ) -> Answer:
        """Answer a question by itself, whatever was asked before; arguments as in `Monkey.answer`."""
        return self.complete(self._question_ids(question, prompt), max_new_tokens, options)

    def answer_batch(
        self, questions: Sequence[str], prompt: str = "vqa", max_new_tokens: int = 128, **options: Any
    ) -> list[Answer]:
        """Answer several questions, each by itself, in one batch; arguments as in `Monkey.answer`."""
        rows = [self._question_ids(question, prompt) for question in questions]
        if len(rows) < 2 or not all(self._may_continue(ids, max_new_tokens, options) for ids in rows):
            return [self.complete(ids, max_new_tokens, options) for ids in rows]

        # The images once, for all questions: keys and values [1, heads, T, width].
        cache = self._read_images(self._prefix)
        if cache is None:
            return [self.complete(ids, max_new_tokens, options) for ids in rows]
        self._read, self._cache = self._prefix, cache
        prefixes = [(layer.keys, layer.values) for layer in cache.layers]

        # Padding stands between the images and the questions, so that all answers begin at one position.
        questions_alone = [ids[len(self._prefix) :] for ids in rows]
        padded = self.processor.tokenizer.pad(
            {"input_ids": questions_alone}, padding_side="left", return_tensors="pt"
        )
        images_alone = torch.tensor([self._prefix] * len(rows))
        inputs = {
            "input_ids": torch.cat([images_alone, padded["input_ids"]], dim=1).to(self.model.device),
            "attention_mask": torch.cat([torch.ones_like(images_alone), padded["attention_mask"]], dim=1).to(
                self.model.device
            ),
        }
        with share_prefixes(self.model.language_model, prefixes, [0] * len(rows)) as shared:
            inputs["past_key_values"] = shared
            return generation.generate(
                self.model, self.processor.tokenizer, inputs, max_new_tokens, **options
            )

    def chat(self, question: str, prompt: str = "vqa", max_new_tokens: int = 128, **options: Any) -> Answer:
        """Answer a question that follows the earlier ones of this method; arguments as in `Monkey.chat`."""
        answer = self.complete(self._chat_ids(question, prompt), max_new_tokens, options)
        self.turns.append((question, answer))
        return answer

    def stream(
        self, question: str, prompt: str = "vqa", max_new_tokens: int = 128, **options: Any
    ) -> AnswerStream:
        """Answer as `chat` does, part by part as in `Monkey.stream`.

        The turn joins the chat when the stream is at its end.
        """
        return self.stream_ids(
            self._chat_ids(question, prompt),
            max_new_tokens,
            options,
            on_end=lambda answer: self.turns.append((question, answer)),
        )

    def stream_messages(
        self, messages: Sequence[Message], prompt: str = "vqa", max_new_tokens: int = 128, **options: Any
    ) -> AnswerStream:
        """Answer the last question of a conversation, part by part as in `Monkey.stream`.

        The conversation is the caller's: it is no turn of this session's chat. What it shares with the last
        prompt isn't read again.

        Args:
            messages: with the places of this session's images, in their order, in any message.
            prompt, max_new_tokens, options: as in `Monkey.stream_messages`.

        Raises:
            ValueError: the messages have places for more or fewer images.
        """
        places = sum(len(message.images) for message in messages)
        if places != len(self._counts):
            raise ValueError(
                f"the messages have places for {places} images, but the session has {len(self._counts)}"
            )
        return self.stream_ids(self._message_ids(messages, prompt), max_new_tokens, options)

    def forget(self) -> None:
        """Begin the chat anew, about the same image."""
        self.turns = []

    # Ids of a prompt

    def _question_ids(self, question: str, prompt: str) -> list[int]:
        return self.processor.layout.encode([*self._counts, question], prompt)

    def _chat_ids(self, question: str, prompt: str) -> list[int]:
        # The images stand in front of the first question.
        leading = tuple(ImagePart(lambda: None) for _ in self._counts)
        messages = []
        for asked, answer in self.turns:
            messages += [Message("user", (*leading, asked)), Message("assistant", (str(answer),))]
            leading = ()
        messages.append(Message("user", (*leading, question)))
        return self._message_ids(messages, prompt)

    def _message_ids(self, messages: Sequence[Message], prompt: str) -> list[int]:
        turns = lay_out(messages, prompt, self.processor.separator)
        counts = iter(self._counts)
        answered = [(replace_images(parts, counts), answer) for parts, answer in turns.answered]
        return self.processor.layout.encode_turns(answered, replace_images(turns.last, counts))

    # Keys and values

    def _may_continue(self, ids: Sequence[int], max_new_tokens: int, options: Mapping[str, Any]) -> bool:
        """Return whether a prompt may continue from keys and values that are there.

        A language model that rescales positions beyond its trained length reads everything anew there.
        """
        # What an option leaves open, the model's own configuration may say.
        configuration = self.model.generation_config
        for name in _OTHER_CACHES:
            value = options.get(name)
            if value is None:
                value = getattr(configuration, name, None)
            if value not in (None, 1):
                return False
        trained_length = getattr(self.model.config.text_config, "trained_length", math.inf)
        return len(ids) + max_new_tokens <= trained_length

    def _continue(self, ids: Sequence[int]) -> DynamicCache | None:
        """Return the keys and values of the longest beginning of a prompt that has been read; None if none.

        They now belong to the caller: an error on the way must not leave them half changed here.
        """
        cache, self._cache = self._cache, None
        if cache is None or any(type(layer) is not RoomyLayer for layer in cache.layers):
            return None

        # At least the last token of a prompt is read again: the next one is predicted from it.
        limit = min(len(self._read), len(ids) - 1)
        common = next((n for n in range(limit) if self._read[n] != ids[n]), limit)
        # The images of a prompt come with its beginning.
        if self.processor.image_token_id in ids[common:]:
            return None

        cache.crop(common - cache.get_seq_length())
        return cache

    @torch.no_grad()
    def _read_images(self, prefix: list[int]) -> DynamicCache | None:
        """Return the keys and values of the beginning of a prompt, up to its last image.

        They now belong to the caller, as those of `_continue`. None where some layers attend to a window of
        tokens, or keep something else than keys and values.
        """
        # One id more, which is not read: what is asked for is everything before a question.
        cache = self._continue([*prefix, -1])
        if cache is None:
            images = self._images()
            cache = empty_cache(self.model)
            if cache.layers:
                return None
            input_ids = torch.tensor([prefix], device=self.model.device)
            self.model(
                input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1, mm_encoder_outputs=images
            )
        return cache

    def _prepare(
        self, ids: list[int], max_new_tokens: int, options: Mapping[str, Any], is_repeatable: bool = False
    ) -> dict[str, Any]:
        """Return the model's inputs for one prompt: with what has been read of it, or with its images."""
        input_ids = torch.tensor([ids], device=self.model.device)
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        if not self._may_continue(ids, max_new_tokens, options):
            return inputs | {"mm_encoder_outputs": self._images()}

        if not is_repeatable:
            cache = self._continue(ids)
            if cache is not None:
                return inputs | {"past_key_values": cache}

        # The images by themselves, so that their keys and values are the same to the last bit in any prompt.
        # Nothing is left to read behind an image that ends a prompt.
        length = min(self._images_end(ids), len(ids) - 1)
        if self.processor.image_token_id not in ids[length:]:
            cache = self._read_images(ids[:length])
            if cache is not None:
                return inputs | {"past_key_values": cache}
        return inputs | {"past_key_values": empty_cache(self.model), "mm_encoder_outputs": self._images()}

    def _images_end(self, ids: Sequence[int]) -> int:
        """Return the number of tokens of a prompt up to the end of its last image."""
        end = max(place for place, token in enumerate(ids) if token == self.processor.image_token_id) + 1
        return end + (end < len(ids) and ids[end] == self.processor.image_end_id)

    def _remember(self, ids: Sequence[int], answer: Answer, inputs: Mapping[str, Any]) -> None:
        """Keep the keys and values of a prompt and its answer; those of the last token were never needed."""
        cache = inputs.get("past_key_values")
        if cache is not None:
            self._read = [*ids, *answer.token_ids][: cache.get_seq_length()]
            self._cache = cache

    def _images(self) -> dict[str, Any]:
        """Return the visual tokens as the model takes them."""
        return {"image": BaseModelOutputWithPooling(pooler_output=self._visual_tokens)}

    def stream_ids(
        self,
        ids: list[int],
        max_new_tokens: int,
        options: Mapping[str, Any],
        is_repeatable: bool = False,
        on_end: Callable[[Answer], None] | None = None,
    ) -> AnswerStream:
        """Complete a prompt as `complete` does, part by part; `on_end` gets the answer."""
        inputs = self._prepare(ids, max_new_tokens, options, is_repeatable)

        def end(answer: Answer) -> None:
            self._remember(ids, answer, inputs)
            if on_end is not None:
                on_end(answer)

        return stream(self.model, self.processor.tokenizer, inputs, max_new_tokens, on_end=end, **options)

    def complete(
        self, ids: list[int], max_new_tokens: int, options: Mapping[str, Any], is_repeatable: bool = False
    ) -> Answer:
        """Complete a prompt.

        Args:
            ids: of the prompt, with the places of this session's images in their order.
            max_new_tokens, options: as in `Monkey.answer`.
            is_repeatable: whether the answer must be the same to the last bit whatever this session has read
                before: it then goes on from the images alone, which are read by themselves in any case. How
                many tokens are read at once shows in the last digits.
        """
        inputs = self._prepare(ids, max_new_tokens, options, is_repeatable)
        (answer,) = generation.generate(
            self.model, self.processor.tokenizer, inputs, max_new_tokens, **options
        )
        self._remember(ids, answer, inputs)
        return answer
