"""Descriptions by a chat model (the paper's composer), from any OpenAI-compatible endpoint.

The endpoint, the model and the key come from the environment only: OPENAI_BASE_URL (OpenAI's own if not
set), MONKEYLIB_CHAT_MODEL and OPENAI_API_KEY. The key is read when the first question is asked; it is kept
in no file and no record. `from_environment` also takes limits from there: MONKEYLIB_CHAT_TOKENS,
MONKEYLIB_CHAT_DOLLARS with MONKEYLIB_CHAT_PRICES, and MONKEYLIB_CHAT_CONCURRENCY.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from monkeylib import resources
from monkeylib.captions.annotations import GeneratedCaption, Record
from monkeylib.captions.composers import rules
from monkeylib.captions.composers.chat_client import (
    Budget,
    ChatClient,
    ChatFailed,
    Prices,
    RetryPolicy,
    Usage,
    environment,
)
from monkeylib.captions.experts.base import Composer

MODEL, BASE_URL, KEY = "MONKEYLIB_CHAT_MODEL", "OPENAI_BASE_URL", "OPENAI_API_KEY"
TOKENS, DOLLARS, PRICES = "MONKEYLIB_CHAT_TOKENS", "MONKEYLIB_CHAT_DOLLARS", "MONKEYLIB_CHAT_PRICES"
CONCURRENCY = "MONKEYLIB_CHAT_CONCURRENCY"
OPENAI = "https://api.openai.com/v1"


class ChatComposer(Composer):
    """Asks a chat model with the paper's prompt, as one user message.

    Every response is kept in `cache`, so that a run that was killed asks only what is missing. Budgets count
    what this composer spends, not what earlier runs did; one with a budget runs as one copy, so that the
    budget is one on many machines too. Where that copy's process ends and Ray starts another, that one
    counts anew.
    """

    name = "chat"
    licence = "terms of the endpoint"
    batch_size = 64  # answers are kept one by one: a kill loses none

    def __init__(
        self,
        cache: Path | str | None = None,
        *,
        concurrency: int = 8,
        maximum_tokens: int | None = None,
        maximum_dollars: float | None = None,
        prices: Prices | tuple[float, float] | None = None,
        answer_tokens: int = 400,
        answer_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        temperature: float | None = None,
        prompt_characters: int = 6000,
        patience: RetryPolicy | None = None,
    ) -> None:
        """Nothing is asked yet.

        Args:
            cache: folder of the responses; `chat` in the library's cache if not given.
            concurrency: the most requests on their way at once, of this process.
            maximum_tokens: budget, prompts and answers together; none if not given.
            maximum_dollars: budget in US dollars; none if not given.
            prices: US dollars for a million tokens of prompts and of answers.
            answer_tokens: the longest answer; one that is cut off there fails.
            answer_limit: what the endpoint calls `answer_tokens`: OpenAI's newer models take the longer name.
            temperature: the endpoint's own if not given, as in the release.
            prompt_characters: the longest prompt, see `compose.chat_prompt`.
            patience: waits and repetitions.

        Raises:
            ValueError: no model is named in the environment, fewer than one request at once, or a limit in
                dollars without prices.
        """
        if concurrency < 1:
            raise ValueError(f"At least one request has to be on its way at once, got {concurrency}.")
        self.version = environment(MODEL, "name a chat model (the release used gpt-3.5-turbo)")
        self.base_url = os.environ.get(BASE_URL, "").strip() or OPENAI
        self.cache = Path(cache).absolute() if cache else resources.cache() / "chat"
        self.concurrency, self.patience = concurrency, patience or RetryPolicy()
        prices = Prices(*prices) if isinstance(prices, tuple) else prices
        self._limits = {"tokens": maximum_tokens, "dollars": maximum_dollars, "prices": prices}
        Budget(**self._limits)
        self.answer_tokens, self.answer_limit = answer_tokens, answer_limit
        self.temperature, self.prompt_characters = temperature, prompt_characters

    @classmethod
    def from_environment(cls, cache: Path | str | None = None) -> "ChatComposer":
        """A composer whose limits are environment variables too, where they are set.

        MONKEYLIB_CHAT_TOKENS is the budget in tokens, MONKEYLIB_CHAT_DOLLARS that in US dollars,
        MONKEYLIB_CHAT_PRICES what a million tokens of prompts and of answers cost ("0.5,1.5"),
        MONKEYLIB_CHAT_CONCURRENCY the most requests at once.

        Raises:
            ValueError: one of them is no number, or what the composer itself refuses.
        """
        limits = {"maximum_tokens": _numbers(TOKENS, 1), "maximum_dollars": _numbers(DOLLARS, 1)}
        limits |= {"prices": _numbers(PRICES, 2), "concurrency": _numbers(CONCURRENCY, 1)}
        found = {name: values for name, values in limits.items() if values}
        single = {name: values[0] for name, values in found.items() if name != "prices"}
        whole = {name: int(single[name]) for name in ("maximum_tokens", "concurrency") if name in single}
        return cls(cache, **{**found, **single, **whole})

    def __getstate__(self) -> dict[str, Any]:
        """Without the connection, its locks and the key: another process makes its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_client"}

    @property
    def alone(self) -> bool:  # type: ignore[override]
        """Whether there is a budget, which copies couldn't keep together."""
        return any(self._limits[name] is not None for name in ("tokens", "dollars"))

    @property
    def settings(self) -> dict[str, Any]:
        """The endpoint (without a password in its address), and what shapes prompt and answer."""
        parts = urlsplit(self.base_url)
        address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        own = ("answer_tokens", "temperature", "prompt_characters")
        return {"base_url": address, **{name: getattr(self, name) for name in own}}

    @cached_property
    def _client(self) -> ChatClient:
        key = environment(KEY, f"put the key of {self.settings['base_url']} there (any word if it has none)")
        budget = Budget(**self._limits)
        return ChatClient(self.base_url, key, self.cache, budget, self.concurrency, self.patience)

    def prepare(self) -> None:
        """Make the client; nothing is asked.

        Raises:
            ValueError: the environment holds no key.
            ModuleNotFoundError: the package openai isn't installed.
        """
        _ = self._client

    @property
    def spent(self) -> Usage:
        """Requests, tokens and dollars since this composer was made."""
        return self._client.budget.spent if "_client" in self.__dict__ else Usage()

    @property
    def cost(self) -> float:
        """US dollars since this composer was made; 0 where no prices are known."""
        return self.spent.dollars

    def request(self, record: Record) -> dict[str, Any]:
        """The request about a filtered record, as it is sent."""
        prompt = rules.chat_prompt(record, self.prompt_characters)
        request = {
            "model": self.version,
            "messages": [{"role": "user", "content": prompt}],
            self.answer_limit: self.answer_tokens,
        }
        return request if self.temperature is None else {**request, "temperature": self.temperature}

    def compose(self, record: Record) -> str:
        """The description; empty, and nothing asked, where nothing is known.

        Raises:
            ChatFailed: no answer, an empty one, or one that was cut off or filtered.
            BudgetExhausted: it might pass the budget.
        """
        if not (record.captions or record.regions or record.lines or record.original_caption):
            return ""
        response = self._client.ask(self.request(record), self.answer_tokens)
        choice = response["choices"][0]
        reason = choice.get("finish_reason")
        if reason == "length":
            raise ChatFailed(
                f"The answer was cut off after {self.answer_tokens} tokens: allow more answer_tokens."
            )
        text = " ".join((choice["message"]["content"] or "").split())
        if reason == "content_filter" or not text:
            raise ChatFailed(f"The chat model gave no text (it ended with {reason!r}).")
        return text

    def compose_all(self, records: Sequence[Record]) -> list[str | GeneratedCaption | Exception]:
        """The descriptions, up to `concurrency` asked at once, with the exception of each that failed."""

        def one(record: Record) -> str | GeneratedCaption | Exception:
            try:
                return self.compose(record)
            except Exception as error:  # recorded by the pipeline; the others go on
                return error

        pool = ThreadPoolExecutor(self.concurrency)
        try:
            return list(pool.map(one, records))
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupted run asks nothing more


def _numbers(name: str, count: int) -> tuple[float, ...]:
    """The numbers of an environment variable, none where it isn't set."""
    text = os.environ.get(name, "").strip()
    if not text:
        return ()
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count or min(values) < 0:
        wanted = "a number" if count == 1 else f"{count} numbers with commas between them"
        raise ValueError(f"The environment variable {name} has to hold {wanted}, got {text!r}.")
    return values
