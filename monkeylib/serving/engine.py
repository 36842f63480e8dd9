"""Requests become answers of one model. What they share: see `monkeylib.encodings`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from monkeylib.images import open_image
from monkeylib.messages import ImagePart, Message
from monkeylib.model.answers import Answer
from monkeylib.model.context import ContextError
from monkeylib.model.streaming import AnswerStream
from monkeylib.monkey import Monkey
from monkeylib.serving.chat_requests import ChatRequest
from monkeylib.serving.limits import Limits, RequestError
from monkeylib.serving.worker import Worker


class Engine:
    """A model behind a queue.

    Attributes:
        monkey: the model.
        name: of the model, as clients call it.
        limits: of requests.
        allow_address: whether images are fetched from http and https addresses.
        worker: computes.
    """

    def __init__(self, monkey: Monkey, name: str, limits: Limits, allow_address: bool = False) -> None:
        self.monkey, self.name, self.limits = monkey, name, limits
        self.allow_address = allow_address
        self.worker = Worker(limits)
        monkey.model.eval()

    def stream(self, request: ChatRequest) -> Iterator[str | Answer]:
        """Yield the parts of an answer, and at last the answer itself; for `Worker.iterate`.

        Raises:
            RequestError: an image that cannot be read, or a conversation that the model does not take.
        """
        try:
            stream = self._begin_within_context(request)
        except ValueError as error:
            raise RequestError(str(error), parameter="messages") from error

        # Nobody may wait for the rest: generation then ends with the token at hand.
        with stream:
            yield from stream
            yield stream.answer

    def _begin_within_context(self, request: ChatRequest) -> AnswerStream:
        """Return the stream of an answer that is as long as the context has room for, if no field says more.

        Raises:
            ValueError: the prompt does not fit, or not with as many tokens as the client requests.
        """
        try:
            return self._begin(request, request.max_new_tokens)
        except ContextError as error:
            if request.length_field or error.room < 1:
                field = request.length_field or "max_tokens"
                raise ValueError(str(error).replace("max_new_tokens", field)) from error
            return self._begin(request, error.room)

    def _begin(self, request: ChatRequest, max_new_tokens: int) -> AnswerStream:
        """Open and encode the images of a request, and return the stream of its answer."""
        messages = [self._open_images(message) for message in request.messages]
        return self.monkey.stream_messages(
            messages, request.prompt, max_new_tokens, request.grid, **request.options
        )

    def _open_images(self, message: Message) -> Message:
        parts = tuple(
            ImagePart(open_image(part.source, allow_address=self.allow_address))
            if isinstance(part, ImagePart)
            else part
            for part in message.parts
        )
        return dataclasses.replace(message, parts=parts)
