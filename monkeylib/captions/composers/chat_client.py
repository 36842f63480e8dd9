"""Asking an OpenAI-compatible endpoint: few at once, again after failures, within a budget, nothing twice."""

import email.utils
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from monkeylib import resources
from monkeylib.digests import json_digest


class BudgetExhausted(RuntimeError):
    """The next request might pass the limit."""


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens of prompts and of answers."""

    prompt: float
    completion: float

    def dollars(self, prompt: int, completion: int) -> float:
        """What so many tokens cost."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


@dataclass
class Usage:
    """What has been spent: requests sent, tokens, and dollars (0 where no prices are known)."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens


class Reservation:
    """The tokens set aside for one request; they count as spent unless `used` or `free` says otherwise."""

    def __init__(self, prompt: int, completion: int) -> None:
        self.prompt, self.completion = prompt, completion

    def used(self, prompt: int, completion: int) -> None:
        """The endpoint says what it counted."""
        self.prompt, self.completion = prompt, completion

    def free(self) -> None:
        """The endpoint refused the request, or never got it."""
        self.prompt = self.completion = 0


class Budget:
    """Tokens and dollars of requests that may run side by side.

    A request first sets aside the most that it can take. Where that doesn't fit any more but requests are on
    their way, it waits for what they leave over.
    """

    def __init__(
        self, tokens: int | None = None, dollars: float | None = None, prices: Prices | None = None
    ) -> None:
        """A budget with nothing spent.

        Args:
            tokens: the most tokens of prompts and answers together; None for no limit.
            dollars: the most US dollars; None for no limit.
            prices: what tokens cost.

        Raises:
            ValueError: a limit in dollars without prices.
        """
        if dollars is not None and prices is None:
            raise ValueError(
                f"A budget of {dollars} dollars needs the model's prices: give what a million tokens of "
                "prompts and of answers cost."
            )
        self.tokens, self.dollars, self.prices = tokens, dollars, prices
        self.spent = Usage()
        self._held: set[Reservation] = set()
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, prompt: int, completion: int) -> Iterator[Reservation]:
        """Set aside the most tokens that a request can take; afterwards what its `Reservation` says is spent.

        Raises:
            BudgetExhausted: it might pass the limit, and nothing on its way can leave enough.
        """
        hold = Reservation(prompt, completion)
        with self._changed:
            while not self._fits(hold):
                if not self._held:
                    raise BudgetExhausted(self._complaint(hold))
                self._changed.wait()
            self._held.add(hold)
        try:
            yield hold
        finally:
            with self._changed:
                self._held.remove(hold)
                self.spent.requests += 1
                self.spent.prompt_tokens += hold.prompt
                self.spent.completion_tokens += hold.completion
                self.spent.dollars += self._cost(hold)
                self._changed.notify_all()

    def _cost(self, hold: Reservation) -> float:
        return self.prices.dollars(hold.prompt, hold.completion) if self.prices else 0.0

    def _fits(self, hold: Reservation) -> bool:
        waiting = [*self._held, hold]
        tokens = self.spent.tokens + sum(item.prompt + item.completion for item in waiting)
        dollars = self.spent.dollars + sum(map(self._cost, waiting))
        return (self.tokens is None or tokens <= self.tokens) and (
            self.dollars is None or dollars <= self.dollars
        )

    def _complaint(self, hold: Reservation) -> str:
        limits = [] if self.tokens is None else [f"{self.tokens} tokens"]
        limits += [] if self.dollars is None else [f"{self.dollars} dollars"]
        return (
            f"The budget of {' and '.join(limits)} is used up: {self.spent.tokens} tokens "
            f"({self.spent.dollars:.4f} dollars) are spent and the next request may take "
            f"{hold.prompt + hold.completion} more. Allow more and run again: answers that came are kept."
        )


OVERHEAD = 64  # tokens that an endpoint may add around a message
_AGAIN = {408, 409, 425, 429}  # and 5xx
_NEVER_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"}


class ChatFailed(RuntimeError):
    """The endpoint gave no usable answer; the message says why."""


class _Again(Exception):
    """This attempt failed and another may not; `wait` is what the endpoint asks for, in seconds."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True)
class RetryPolicy:
    """How often and after how long a request is sent again; seconds.

    The wait doubles from `first_wait` up to `longest_wait`, with a quarter left to chance. An endpoint that
    asks for a wait of its own (Retry-After) gets it, unless that is longer than `longest_wait`.
    """

    attempts: int = 6
    timeout: float = 120.0
    first_wait: float = 1.0
    longest_wait: float = 120.0


class ChatClient:
    """One endpoint, for threads that ask at the same time."""

    def __init__(
        self, base_url: str, key: str, cache: Path, budget: Budget, concurrency: int, patience: RetryPolicy
    ) -> None:
        try:
            import openai
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "Asking a chat model needs the package openai: install it with `pip install -e '.[chat]'`."
            ) from error
        self.base_url, self.cache, self.budget, self.patience = base_url, cache, budget, patience
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=base_url, api_key=key, timeout=patience.timeout, max_retries=0
        )  # retries are counted here, since each of them may cost
        self._slots = threading.BoundedSemaphore(concurrency)
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._guard = threading.Lock()
        self._resume = 0.0  # nobody asks before this moment
        self._refused = ""  # why nobody needs to ask any more
        self.kept = 0  # answers that were on disk

    def ask(self, request: dict[str, Any], most: int) -> dict[str, Any]:
        """The endpoint's response to a request of the chat API, from disk if it came before.

        Args:
            request: as sent, without the key.
            most: the tokens that its answer can have.

        Raises:
            ChatFailed: refused, or failed as often as patience allows.
            BudgetExhausted: it might pass the budget.
        """
        path = self.path_of(request)
        with self._guard:
            lock = self._locks.setdefault(path.name, threading.Lock())
        with lock:  # the same question twice at once is asked once
            kept = _read(path)
            if kept is not None:
                self.kept += 1
                return kept
            response = self._ask(request, most)
            with resources.atomic_write(path) as temporary:
                temporary.write_text(json.dumps({"request": request, "response": response}), encoding="utf-8")
            return response

    def path_of(self, request: dict[str, Any]) -> Path:
        """Where the response is kept: under the SHA-256 of the endpoint and the whole request."""
        digest = json_digest([self.base_url, request])
        return self.cache / digest[:2] / f"{digest}.json"

    def _ask(self, request: dict[str, Any], most: int) -> dict[str, Any]:
        failures: list[str] = []
        longest = sum(len(message["content"].encode()) + OVERHEAD for message in request["messages"])
        while True:
            self._pause()
            try:
                with self._slots, self.budget.holding(longest, most) as hold:  # a token is at least a byte
                    return self._send(request, hold)
            except _Again as failure:
                failures.append(str(failure))
                if len(failures) >= self.patience.attempts:
                    raise ChatFailed(f"{len(failures)} attempts failed, the last one: {failure}") from failure
                self._wait(failure, len(failures))

    def _pause(self) -> None:
        """Wait until the endpoint may be asked again."""
        while (rest := self._resume - time.monotonic()) > 0:
            time.sleep(rest)
        if self._refused:
            raise ChatFailed(self._refused)

    def _wait(self, failure: _Again, failed: int) -> None:
        """Wait before the next attempt; for a wait that the endpoint asks for, all threads do."""
        if failure.wait is None:
            doubled = self.patience.first_wait * 2 ** (failed - 1)
            time.sleep(min(self.patience.longest_wait, doubled) * (1 - random.random() / 4))
        elif failure.wait > self.patience.longest_wait:
            raise ChatFailed(f"{failure}, and asks to wait for {failure.wait:.0f} seconds") from failure
        else:
            self._resume = max(self._resume, time.monotonic() + failure.wait)

    def _send(self, request: dict[str, Any], hold: Reservation) -> dict[str, Any]:
        """One attempt."""
        try:
            raw = self._client.chat.completions.with_raw_response.create(**request)
        except self._openai.APIStatusError as error:
            hold.free()
            self._judge(error)
        except self._openai.APIConnectionError as error:
            if type(error.__cause__).__name__ in _NEVER_SENT:
                hold.free()
            why = "no answer in time" if isinstance(error, self._openai.APITimeoutError) else str(error)
            raise _Again(f"{why} ({error.__cause__})") from error
        try:
            response = json.loads(raw.http_response.text)
            text = response["choices"][0]["message"]["content"]
            if not isinstance(text, str | None):
                raise TypeError(f"its content is {text!r}")
        except (ValueError, LookupError, TypeError) as error:
            raise _Again(f"a response without an answer ({type(error).__name__}: {error})") from error
        usage = response.get("usage") or {}
        counted = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        if all(isinstance(tokens, int) for tokens in counted):
            hold.used(*counted)
        return response

    def _judge(self, error: Any) -> None:
        """Raise what a status that isn't a success means."""
        status = error.status_code
        why = f"status {status}: {str(error.message)[:300]}"
        if status in (401, 403, 404) or error.code == "insufficient_quota":
            self._refused = f"The endpoint {self.base_url} refuses requests ({why})."
            raise ChatFailed(self._refused) from error
        if status in _AGAIN or status >= 500:
            raise _Again(why, _retry_after(error.response.headers)) from error
        raise ChatFailed(f"The endpoint refused the request ({why}).") from error


def _read(path: Path) -> dict[str, Any] | None:
    """A kept response, or None if there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["response"]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _retry_after(headers: Any) -> float | None:
    """Seconds that the header Retry-After asks for, given as a number or as a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def environment(name: str, what: str) -> str:
    """The value of an environment variable; `ValueError` says what it is for if it isn't set."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise ValueError(f"The environment variable {name} isn't set: {what}.")
    return value
