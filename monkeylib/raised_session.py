"""Sessions of a raised model: an image is opened and encoded once, for any number of questions.

    session = monkey.session("receipt.png")
    session.answer("What is the total?")
    session.chat("And the tax?")

Unlike Monkey in `session`, the language model reads the image with each question: where an image stands in a
prompt is up to the base's chat template. Answers are those of `RaisedMonkey.answer` and `RaisedMonkey.chat`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BatchFeature, PreTrainedModel

from monkeylib.messages import ImagePart, Message
from monkeylib.model import generation
from monkeylib.model.answers import Answer
from monkeylib.model.streaming import AnswerStream, stream
from monkeylib.raising.conversations import Conversations
from monkeylib.raising.encodings import EncodedViews, join_encodings


class RaisedSession:
    """Questions about one image, or about several that stand in front of each question.

    A session belongs to the weights with which it was begun, and to one thread at a time.

    Attributes:
        turns: questions and answers of the chat, the oldest first.
    """

    def __init__(
        self, model: PreTrainedModel, conversations: Conversations, images: Sequence[EncodedViews]
    ) -> None:
        """Begin with images that are encoded; `RaisedMonkey.session` opens and encodes them, and calls this.

        Args:
            model: raised.
            conversations: of the model.
            images: as `encodings.encode_views` returns them.
        """
        self.model, self.conversations = model, conversations
        self.turns: list[tuple[str, Answer]] = []
        self._images = list(images)

    def answer(
        self, question: str = "", prompt: str | None = None, max_new_tokens: int = 128, **options: Any
    ) -> Answer:
        """Answer a question by itself, whatever was asked before; arguments as in `RaisedMonkey.answer`."""
        return self.answer_batch([question], prompt, max_new_tokens, **options)[0]

    def answer_batch(
        self,
        questions: Sequence[str],
        prompt: str | None = None,
        max_new_tokens: int = 128,
        **options: Any,
    ) -> list[Answer]:
        """Answer several questions, each by itself, in one batch; arguments as in `RaisedMonkey.answer`."""
        if not questions:
            return []
        inputs = self._prepare([[self._message(question)] for question in questions], prompt)
        return self._generate(inputs, max_new_tokens, options)

    def chat(
        self, question: str, prompt: str | None = None, max_new_tokens: int = 128, **options: Any
    ) -> Answer:
        """Answer a question that follows the earlier ones of this method."""
        inputs = self._prepare([self._continue_chat(question)], prompt)
        (answer,) = self._generate(inputs, max_new_tokens, options)
        self.turns.append((question, answer))
        return answer

    def stream(
        self, question: str, prompt: str | None = None, max_new_tokens: int = 128, **options: Any
    ) -> AnswerStream:
        """Answer as `chat` does, part by part as in `Monkey.stream`.

        The turn joins the chat when the stream is at its end.
        """
        inputs = self._prepare([self._continue_chat(question)], prompt)
        return self._stream(
            inputs, max_new_tokens, options, on_end=lambda answer: self.turns.append((question, answer))
        )

    def stream_messages(
        self,
        messages: Sequence[Message],
        prompt: str | None = None,
        max_new_tokens: int = 128,
        **options: Any,
    ) -> AnswerStream:
        """Answer the last question of a conversation, part by part as in `Monkey.stream`.

        The conversation is the caller's: it is no turn of this session's chat.

        Args:
            messages: with the places of this session's images, in their order, in any message.
            prompt, max_new_tokens, options: as in `Monkey.stream_messages`.

        Raises:
            ValueError: the messages have places for more or fewer images.
        """
        places = sum(len(message.images) for message in messages)
        if places != len(self._images):
            raise ValueError(
                f"the messages have places for {places} images, but the session has {len(self._images)}"
            )
        return self._stream(self._prepare([messages], prompt), max_new_tokens, options)

    def forget(self) -> None:
        """Begin the chat anew, about the same image."""
        self.turns = []

    # Prompts

    def _message(self, question: str, has_images: bool = True) -> Message:
        """Return a question with the places of the images, which are not opened again, in front of it."""
        places = [ImagePart(lambda: None) for _ in self._images] if has_images else []
        return Message("user", (*places, question))

    def _continue_chat(self, question: str) -> list[Message]:
        """Return the chat with another question; the images stand in front of the first one."""
        messages: list[Message] = []
        for earlier, answer in self.turns:
            messages += [self._message(earlier, not messages), Message("assistant", (str(answer),))]
        return [*messages, self._message(question, not messages)]

    def _prepare(self, conversations: Sequence[Sequence[Message]], prompt: str | None) -> Mapping[str, Any]:
        """Return the model's inputs of prompts, each of which reads the encoded images."""
        prompt = prompt or self.conversations.default_prompt
        wrapped = [self.conversations.wrap(messages, prompt) for messages in conversations]
        grids = [[image.grid for image in self._images]] * len(wrapped)
        inputs = BatchFeature(self.conversations.prepare_texts(wrapped, grids))

        inputs = inputs.to(self.model.device, self.model.dtype)
        outputs = [image.output for image in self._images] * len(wrapped)
        inputs["mm_encoder_outputs"] = {"image": join_encodings(outputs)}
        return inputs

    # Answers

    def _generate(
        self, inputs: Mapping[str, Any], max_new_tokens: int, options: Mapping[str, Any]
    ) -> list[Answer]:
        end_ids, tokenizer = self.conversations.end_ids, self.conversations.tokenizer
        return generation.generate(self.model, tokenizer, inputs, max_new_tokens, end_ids=end_ids, **options)

    def _stream(
        self, inputs: Mapping[str, Any], max_new_tokens: int, options: Mapping[str, Any], on_end: Any = None
    ) -> AnswerStream:
        end_ids, tokenizer = self.conversations.end_ids, self.conversations.tokenizer
        return stream(
            self.model, tokenizer, inputs, max_new_tokens, end_ids=end_ids, on_end=on_end, **options
        )
