"""An answer as it is generated, part by part."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event, Thread
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import TextIteratorStreamer

from monkeylib.model.answers import Answer
from monkeylib.model.context import check_context, count_visual_tokens
from monkeylib.model.generation import cut_at_stop_string, decode
from monkeylib.model.generation_options import check_options, list_stop_strings

# The threads that generate, and what ends each of them.
_interruptions: WeakKeyDictionary[Thread, Event] = WeakKeyDictionary()


@atexit.register
def _end_threads() -> None:
    """End all generation, after the token at hand: a thread in the middle of one makes Python abort."""
    remaining = list(_interruptions.items())
    for _, interruption in remaining:
        interruption.set()
    for thread, _ in remaining:
        thread.join()


class AnswerStream(Iterator[str]):
    """Parts of an answer's text as the model generates them, and then the answer.

        with monkey.stream(image, question) as stream:
            for part in stream:
                print(part, end="", flush=True)
        stream.answer.ended_by

    The parts together are the answer's text, with the white space around it. Leaving the `with` block ends
    generation, also early or by an error or Ctrl-C, and no thread remains. Without the block, `close` does,
    or the end of Python.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        inputs: Mapping[str, Any],
        max_new_tokens: int,
        options: Mapping[str, Any],
        end_ids: int | Sequence[int] | None = None,
        on_end: Callable[[Answer], None] | None = None,
    ) -> None:
        self._streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._interruption = Event()
        self._on_end = on_end
        self._stop_strings = list_stop_strings(options.get("stop_strings"))
        self._text = ""  # what has come and is not yet yielded
        self._is_stopped = False  # by a stop string
        self._is_complete = False
        self._answers: list[Answer] = []
        self._errors: list[BaseException] = []

        # `generate` returns at the end only, so it runs in a thread. That holds no reference to this object,
        # so that a stream nobody reads any more is closed.
        streamer, interruption = self._streamer, self._interruption
        answers, errors = self._answers, self._errors

        @torch.no_grad()
        def run() -> None:
            try:
                answers.extend(
                    decode(model, tokenizer, inputs, max_new_tokens, end_ids, options, streamer, interruption)
                )
            except BaseException as error:  # raised in the caller's thread
                errors.append(error)
                streamer.end()

        self._thread = Thread(target=run, daemon=True, name="monkeylib stream")

    @property
    def answer(self) -> Answer:
        """The complete answer; of a stream that is not at its end, the rest is read first.

        Raises:
            ValueError: the stream was closed before its end.
        """
        for _ in self:
            pass
        if not self._answers or self._interruption.is_set():
            raise ValueError("the stream was closed before its end: it has no complete answer")
        return self._answers[0]

    def __next__(self) -> str:
        """Return the next part of the text; errors of the model are raised here."""
        try:
            return self._next_part()
        except StopIteration:
            # `answer = yield from stream` gives the answer.
            raise StopIteration(self._answers[0] if self._answers else None) from None
        except BaseException:
            self.close()
            raise

    def _next_part(self) -> str:
        if self._thread.ident is None and not self._is_complete:
            _interruptions[self._thread] = self._interruption
            self._thread.start()

        while not self._is_complete:
            part = next(self._streamer, None)
            if part is None:
                self._is_complete = True
                self._thread.join()
                if self._errors:
                    raise self._errors[0]
                if self._on_end is not None:
                    self._on_end(self._answers[0])
            if text := self._release(part or ""):
                return text
        raise StopIteration

    def _release(self, part: str) -> str:
        """Return what can be yielded after another part has come: no part of a stop string."""
        if self._is_stopped:
            return ""

        text, self._is_stopped = cut_at_stop_string(self._text + part, self._stop_strings)
        # The last characters may be the beginning of a stop string.
        held = max(map(len, self._stop_strings), default=1) - 1
        if self._is_stopped or self._is_complete:
            held = 0

        ready = text[: len(text) - held]
        self._text = text[len(ready) :]
        return ready

    def close(self) -> None:
        """End generation after the token at hand, and wait for its thread."""
        if not self._is_complete:
            self._is_complete = True
            self._interruption.set()
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Its thread ends soon; here nobody waits for it.
        self._interruption.set()


def stream(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    max_new_tokens: int,
    *,
    end_ids: int | Sequence[int] | None = None,
    on_end: Callable[[Answer], None] | None = None,
    **options: Any,
) -> AnswerStream:
    """Return the stream of one answer.

    Args:
        model, tokenizer, inputs, max_new_tokens, options: as in `generate`.
        on_end: is called with the complete answer when the reader comes to its end; not if the stream is
            closed before.

    Raises:
        ValueError: more than one prompt or answer, or as `generate`.
    """
    check_options(max_new_tokens, options)
    check_one_answer(options)
    prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
    check_context(model, prompt_tokens, count_visual_tokens(model, inputs["input_ids"]), max_new_tokens)
    return AnswerStream(model, tokenizer, inputs, max_new_tokens, options, end_ids, on_end)


def check_one_answer(options: Mapping[str, Any]) -> None:
    """Check that the options of a stream are those of one answer.

    Raises:
        ValueError: it searches with beams, or there would be several.
    """
    for name in ("num_beams", "num_return_sequences"):
        if (options.get(name) or 1) > 1:
            raise ValueError(
                f"{name} is {options[name]}: a stream is one answer without beams, so call `answer`"
            )
