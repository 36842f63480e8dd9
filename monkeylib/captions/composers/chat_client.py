"""Client of an OpenAI-compatible endpoint: limited concurrency, retries, a budget, and nothing paid twice.

Retries are implemented here. Those of the package openai are turned off, since each attempt may be billed and
has to be reserved from the budget first, which a retry inside that package can't do. A library of retries
such as tenacity would replace only the counting of attempts: delays are shared by all threads, and an
endpoint may request its own (Retry-After).
"""

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

# --- the budget -------------------------------------------------------------------------------------------


class BudgetExhausted(RuntimeError):
    """The next request might exceed the budget."""


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens of prompts and of answers."""

    prompt: float
    completion: float

    def dollars(self, prompt: int, completion: int) -> float:
        """Return the cost of numbers of tokens in US dollars."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


@dataclass
class Usage:
    """Requests sent, tokens, and dollars (0 where no prices are known)."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens


class Reservation:
    """Tokens set aside for one request. They count as used unless `settle` or `release` says otherwise."""

    def __init__(self, prompt: int, completion: int) -> None:
        self.prompt, self.completion = prompt, completion

    def settle(self, prompt: int, completion: int) -> None:
        """Replace the reserved numbers by those that the endpoint reports."""
        self.prompt, self.completion = prompt, completion

    def release(self) -> None:
        """Use nothing: the endpoint refused the request, or never got it."""
        self.prompt = self.completion = 0


class Budget:
    """Tokens and dollars of requests that may run side by side.

    A request first reserves the most that it can use. If that does not fit but other requests are running, it
    waits for what they leave unused.
    """

    def __init__(
        self, tokens: int | None = None, dollars: float | None = None, prices: Prices | None = None
    ) -> None:
        """Create a budget of which nothing is used.

        Args:
            tokens: maximum number of tokens of prompts and answers together; None for no limit.
            dollars: maximum number of US dollars; None for no limit.
            prices: prices of tokens.

        Raises:
            ValueError: a limit in dollars without prices.
        """
        if dollars is not None and prices is None:
            raise ValueError(
                f"A budget of {dollars} dollars needs the model's prices: give what a million tokens of "
                "prompts and of answers cost."
            )

        self.tokens, self.dollars, self.prices = tokens, dollars, prices
        self.usage = Usage()
        self._reservations: set[Reservation] = set()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, prompt: int, completion: int) -> Iterator[Reservation]:
        """Reserve the most tokens that a request can use; at the end its `Reservation` is counted as used.

        Raises:
            BudgetExhausted: the request might exceed the limit, and no running request can leave enough.
        """
        reservation = Reservation(prompt, completion)

        # Running requests may use less than they reserved: wait for them before giving up.
        with self._changed:
            while not self._fits(reservation):
                if not self._reservations:
                    raise BudgetExhausted(self._exhausted_message(reservation))
                self._changed.wait()
            self._reservations.add(reservation)

        try:
            yield reservation
        finally:
            with self._changed:
                # Only now is the usage known; requests that wait may fit.
                self._reservations.remove(reservation)
                self.usage.requests += 1
                self.usage.prompt_tokens += reservation.prompt
                self.usage.completion_tokens += reservation.completion
                self.usage.dollars += self._cost(reservation)
                self._changed.notify_all()

    def _cost(self, reservation: Reservation) -> float:
        return self.prices.dollars(reservation.prompt, reservation.completion) if self.prices else 0.0

    def _fits(self, reservation: Reservation) -> bool:
        """Return whether the limit holds if all reservations and this one are used up."""
        tokens, dollars = self.usage.tokens, self.usage.dollars
        for item in [*self._reservations, reservation]:
            tokens += item.prompt + item.completion
            dollars += self._cost(item)

        tokens_fit = self.tokens is None or tokens <= self.tokens
        dollars_fit = self.dollars is None or dollars <= self.dollars
        return tokens_fit and dollars_fit

    def _exhausted_message(self, reservation: Reservation) -> str:
        limits = []
        if self.tokens is not None:
            limits.append(f"{self.tokens} tokens")
        if self.dollars is not None:
            limits.append(f"{self.dollars} dollars")
        return (
            f"The budget of {' and '.join(limits)} is used up: {self.usage.tokens} tokens "
            f"({self.usage.dollars:.4f} dollars) are spent and the next request may take "
            f"{reservation.prompt + reservation.completion} more. Allow more and run again: what came "
            "is kept."
        )


# --- requests ---------------------------------------------------------------------------------------------

OVERHEAD = 64  # tokens that an endpoint may add around a message
_RETRYABLE = {408, 409, 425, 429}  # and 5xx
_REFUSED = {401, 403, 404}  # no other request would fare better
_NEVER_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"}


class ChatFailed(RuntimeError):
    """The endpoint gave no usable answer; the message says why."""


class _RetryableError(Exception):
    """This attempt failed, and another may succeed; `retry_after` is the requested delay in seconds."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True)
class RetryPolicy:
    """Number of attempts of a request, and the delays between them.

    The delay doubles from `first_delay` up to `longest_delay`, with up to a quarter taken off at random. An
    endpoint that requests a delay (Retry-After) gets it, unless that is longer than
    `longest_delay`.

    Attributes:
        attempts: maximum number of times that a request is sent.
        timeout: seconds that one attempt may take.
        first_delay: seconds before the second attempt.
        longest_delay: maximum number of seconds between two attempts.
    """

    attempts: int = 6
    timeout: float = 120.0
    first_delay: float = 1.0
    longest_delay: float = 120.0


class ChatClient:
    """Client of one endpoint, shared by threads that send requests at the same time."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        cache: Path,
        budget: Budget,
        concurrency: int,
        retry_policy: RetryPolicy,
    ) -> None:
        """Create the client; no request is sent.

        Args:
            base_url: address of the endpoint.
            key: its API key.
            cache: folder of the responses.
            budget: budget of all requests together.
            concurrency: maximum number of requests at once.
            retry_policy: delays and number of attempts.

        Raises:
            ModuleNotFoundError: the package openai isn't installed.
        """
        try:
            import openai
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "Asking a chat model needs the package openai: install it with `pip install -e '.[chat]'`."
            ) from error

        self.base_url, self.cache = base_url, cache
        self.budget, self.retry_policy = budget, retry_policy
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=base_url, api_key=key, timeout=retry_policy.timeout, max_retries=0
        )

        self._slots = threading.BoundedSemaphore(concurrency)
        self._request_locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._request_locks_guard = threading.Lock()
        self._resume_at = 0.0  # on the monotonic clock: no thread sends a request before
        self._refusal = ""  # why no request needs to be sent any more

    def send(self, request: dict[str, Any], answer_tokens: int) -> dict[str, Any]:
        """Return the endpoint's response to a request of the chat API, from the cache if it came before.

        Args:
            request: as sent, without the key.
            answer_tokens: maximum number of tokens of its answer.

        Raises:
            ChatFailed: refused, or failed as often as the retry policy allows.
            BudgetExhausted: the request might exceed the budget.
        """
        path = self.cache_path(request)
        with self._request_locks_guard:
            lock = self._request_locks.setdefault(path.name, threading.Lock())

        # The lock makes two threads with the same request send it once.
        with lock:
            # Another thread, or an earlier run, may have received it.
            response = _read_cached(path)
            if response is not None:
                return response

            response = self._send_with_retries(request, answer_tokens)
            with resources.atomic_write(path) as temporary:
                temporary.write_text(json.dumps({"request": request, "response": response}), encoding="utf-8")
            return response

    def cache_path(self, request: dict[str, Any]) -> Path:
        """Return the file of a request's response, named by the digest of the endpoint and the request."""
        digest = json_digest([self.base_url, request])
        return self.cache / digest[:2] / f"{digest}.json"

    def _send_with_retries(self, request: dict[str, Any], answer_tokens: int) -> dict[str, Any]:
        # A token is at least a byte, so the prompt has at most as many tokens as bytes.
        prompt_tokens = sum(len(message["content"].encode()) + OVERHEAD for message in request["messages"])

        failed_attempts = 0
        while True:
            self._wait_for_endpoint()
            try:
                with self._slots, self.budget.reserve(prompt_tokens, answer_tokens) as reservation:
                    return self._send_once(request, reservation)
            except _RetryableError as error:
                failed_attempts += 1
                if failed_attempts >= self.retry_policy.attempts:
                    raise ChatFailed(f"{failed_attempts} attempts failed, the last one: {error}") from error
                self._delay(error, failed_attempts)

    def _wait_for_endpoint(self) -> None:
        """Wait until the endpoint accepts requests again; raise if it refuses all of them."""
        while (remaining := self._resume_at - time.monotonic()) > 0:
            time.sleep(remaining)
        if self._refusal:
            raise ChatFailed(self._refusal)

    def _delay(self, error: _RetryableError, failed_attempts: int) -> None:
        """Wait before the next attempt; a delay that the endpoint requests holds for all threads."""
        policy = self.retry_policy
        if error.retry_after is None:
            delay = min(policy.longest_delay, policy.first_delay * 2 ** (failed_attempts - 1))
            # At random, so that threads do not retry all at once.
            time.sleep(delay * (1 - random.random() / 4))
        elif error.retry_after > policy.longest_delay:
            raise ChatFailed(f"{error}, and asks to wait for {error.retry_after:.0f} seconds") from error
        else:
            self._resume_at = max(self._resume_at, time.monotonic() + error.retry_after)

    def _send_once(self, request: dict[str, Any], reservation: Reservation) -> dict[str, Any]:
        try:
            raw = self._client.chat.completions.with_raw_response.create(**request)
        except self._openai.APIStatusError as error:
            reservation.release()
            self._raise_status(error)
        except self._openai.APIConnectionError as error:
            # Where the request may have arrived, it may be billed: its reservation counts as used.
            if type(error.__cause__).__name__ in _NEVER_SENT:
                reservation.release()
            reason = "no answer in time" if isinstance(error, self._openai.APITimeoutError) else str(error)
            raise _RetryableError(f"{reason} ({error.__cause__})") from error

        try:
            response = json.loads(raw.http_response.text)
            text = response["choices"][0]["message"]["content"]
            if not isinstance(text, str | None):
                raise TypeError(f"its content is {text!r}")
        except (ValueError, LookupError, TypeError) as error:
            raise _RetryableError(
                f"a response without an answer ({type(error).__name__}: {error})"
            ) from error

        # Without numbers from the endpoint, the full reservation counts as used.
        usage = response.get("usage") or {}
        prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt_tokens, int) and isinstance(completion_tokens, int):
            reservation.settle(prompt_tokens, completion_tokens)
        return response

    def _raise_status(self, error: Any) -> None:
        """Raise the error of a status that isn't a success."""
        status = error.status_code
        reason = f"status {status}: {str(error.message)[:300]}"

        # A wrong key, model or address, or an empty account: no other request would be answered either.
        if status in _REFUSED or error.code == "insufficient_quota":
            self._refusal = f"The endpoint {self.base_url} refuses requests ({reason})."
            raise ChatFailed(self._refusal) from error
        if status in _RETRYABLE or status >= 500:
            raise _RetryableError(reason, _retry_after(error.response.headers)) from error
        raise ChatFailed(f"The endpoint refused the request ({reason}).") from error


def _read_cached(path: Path) -> dict[str, Any] | None:
    """Return a cached response, or None if there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["response"]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _retry_after(headers: Any) -> float | None:
    """Return the delay of the header Retry-After in seconds, given there as a number or as a date."""
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


def environment(name: str, purpose: str) -> str:
    """Return the value of an environment variable.

    Raises:
        ValueError: it isn't set; the message says what it is for.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise ValueError(f"The environment variable {name} isn't set: {purpose}.")
    return value
