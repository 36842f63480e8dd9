"""Answers, parts of answers, and lists of models, as OpenAI's API writes them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from monkeylib.model.answers import Answer


@dataclass(frozen=True)
class Completion:
    """The answer to one request, in the making.

    Attributes:
        model: name of the model.
        created: when, in seconds since 1970.
        id: of this answer.
    """

    model: str
    created: int
    id: str

    def full_answer(self, answer: Answer) -> dict[str, Any]:
        """Return an answer that is sent at once."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(answer),
        }
        return self._object("chat.completion", [choice]) | {"usage": usage(answer)}

    def first_part(self) -> dict[str, Any]:
        """Return the beginning of a stream, which has a role and no text."""
        return self._part({"role": "assistant", "content": ""})

    def text_part(self, text: str) -> dict[str, Any]:
        """Return a part of the text."""
        return self._part({"content": text})

    def last_part(self, answer: Answer) -> dict[str, Any]:
        """Return the end of a stream, which tells why the answer has ended."""
        return self._part({}, finish_reason(answer))

    def usage_part(self, answer: Answer) -> dict[str, Any]:
        """Return what follows the end of a stream for those who count tokens."""
        return self._object("chat.completion.chunk", []) | {"usage": usage(answer)}

    def _part(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._object("chat.completion.chunk", [choice])

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def new_completion(model: str, created: float) -> Completion:
    """Begin the answer to a request."""
    return Completion(model, int(created), f"chatcmpl-{secrets.token_hex(12)}")


def finish_reason(answer: Answer) -> str:
    """Return why an answer has ended, as the API calls it."""
    return "length" if answer.is_cut else "stop"


def usage(answer: Answer) -> dict[str, int]:
    """Return the numbers of tokens; visual ones are part of the prompt's."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": answer.prompt_tokens + answer.tokens,
    }


def model_list(model: str, created: float) -> dict[str, Any]:
    """Return the list of the one model."""
    return {"object": "list", "data": [model_entry(model, created)]}


def model_entry(model: str, created: float) -> dict[str, Any]:
    """Return what is to be said of the model."""
    return {"id": model, "object": "model", "created": int(created), "owned_by": "monkeylib"}


class WhiteSpace:
    """Strips the white space around a text that comes part by part.

    >>> space = WhiteSpace()
    >>> [space.strip(part) for part in (" ", " a", " b ", "c", " ")]
    ['', 'a', ' b', ' c', '']
    """

    def __init__(self) -> None:
        self._held = ""
        self._is_begun = False

    def strip(self, part: str) -> str:
        """Return what can be sent after another part has come: white space goes with what follows it."""
        text = self._held + part
        if not self._is_begun:
            text = text.lstrip()

        ready = text.rstrip()
        self._held = text[len(ready) :]
        self._is_begun = self._is_begun or bool(ready)
        return ready
