"""Answers side by side: of a base model, and of one model that sees the image in several ways."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from PIL import Image

from monkeylib.digests import image_digest
from monkeylib.encodings import ModelState, model_state
from monkeylib.errors import choose
from monkeylib.explore.variants import ONE_VIEW, Variant, begin_session, variants_of
from monkeylib.images import ImageInput, open_image
from monkeylib.messages import ImagePart, Message
from monkeylib.model.answers import Answer
from monkeylib.model.streaming import AnswerStream
from monkeylib.monkey import Monkey
from monkeylib.processing import GridInput
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.raised_session import RaisedSession
from monkeylib.session import Session
from monkeylib.tiling import Grid

BASE = "base model"


class SideBySide:
    """Models, and ways to see an image, that answer the same question.

    An image is encoded once for each of them, however many questions follow; by a raised model that has no
    sessions, with each question.

    Attributes:
        models: a model and a variant by the title under which they answer.
        answers: of the last question, by title.
    """

    def __init__(self, monkey: Monkey, base: Monkey | None = None) -> None:
        self.models: dict[str, tuple[Monkey, Variant]] = {}
        if base is not None:
            self.models[BASE] = (base, ONE_VIEW)
        self.models |= {variant.title: (monkey, variant) for variant in variants_of(monkey)}

        self.answers: dict[str, Answer] = {}

        # Of the last conversation: what it is about, and the session of each title.
        self._conversation: tuple[object, ...] = ()
        self._sessions: dict[str, tuple[ModelState | None, Session | RaisedSession]] = {}

    def stream(
        self,
        messages: Sequence[Message],
        titles: Sequence[str] = (),
        grid: GridInput | None = None,
        max_new_tokens: int = 64,
        max_seconds: float = 120.0,
    ) -> Iterator[dict[str, str]]:
        """Yield the answers by title, each time that one of them has grown; at the end they are `answers`.

        Args:
            messages: a conversation with at least one image (`converse`).
            titles: who answers; all by default.
            grid: another grid of tiles than the model's.
            max_new_tokens: maximum length of an answer.
            max_seconds: after which answers are cut.

        Raises:
            ValueError: there is no such title, no image, or one that cannot be read, or a conversation that
                does not fit into the model's context.
        """
        selected = [choose("model", title, self.models) for title in titles or self.models]
        images = [image for message in messages for image in message.images]
        if not images:
            raise ValueError("there is no image yet: choose one first")

        deadline = time.monotonic() + max_seconds
        opened = [open_image(image) for image in images]
        self.answers = {}
        texts = dict.fromkeys(selected, "")
        with ExitStack() as stack:
            streams = {}
            for title in selected:
                stream = self._stream(title, messages, opened, grid, max_new_tokens)
                streams[title] = stack.enter_context(stream)

            # In turns, so that all grow at once.
            while streams and time.monotonic() < deadline:
                for title, stream in list(streams.items()):
                    part = next(stream, None)
                    if part is None:
                        self.answers[title] = streams.pop(title).answer
                        texts[title] = self.answers[title].text
                    else:
                        texts[title] += part
                    yield dict(texts)

    def _stream(
        self,
        title: str,
        messages: Sequence[Message],
        images: Sequence[Image.Image],
        grid: GridInput | None,
        max_new_tokens: int,
    ) -> AnswerStream:
        """Begin one answer."""
        monkey, variant = self.models[title]
        if monkey.has_sessions:
            session = self._session(title, images, grid)
            return session.stream_messages(messages, max_new_tokens=max_new_tokens)
        seen_in = grid if variant.has_tiles else Grid(0, 0)
        return monkey.stream_messages(messages, grid=seen_in, max_new_tokens=max_new_tokens)

    def _session(
        self, title: str, images: Sequence[Image.Image], grid: GridInput | None
    ) -> Session | RaisedSession:
        monkey, variant = self.models[title]
        conversation = (str(grid), *map(image_digest, images))
        if conversation != self._conversation:
            self._conversation, self._sessions = conversation, {}

        # A session belongs to the weights with which it was begun; those of a raised model are not followed.
        is_raised = isinstance(monkey, RaisedMonkey)
        state = None if is_raised else model_state(monkey.model)
        begun_with, session = self._sessions.pop(title, (None, None))
        if session is None or state != begun_with or (state is None and not is_raised):
            session = begin_session(monkey, images, variant, grid)
        self._sessions[title] = state, session
        return session


def converse(
    images: Sequence[ImageInput], question: str, history: Sequence[Message] = ()
) -> tuple[Message, ...]:
    """Return a conversation with one question more, in front of which its images stand."""
    parts = (*(ImagePart(image) for image in images), question)
    return (*history, Message("user", parts))
