"""Client of an OpenAI-compatible endpoint: limited concurrency, retries, a budget, and nothing paid twice.

What the endpoint answers is judged by the caller before it is kept: an answer that is no caption is not the
answer of the next run too.

Retries are implemented here. Those of the package openai are turned off, since each attempt may be billed and
has to be reserved from the budget first, which a retry inside that package can't do. A library of retries
such as tenacity would replace only the counting of attempts: delays are shared by all threads, and an
endpoint may request its own (Retry-After).
"""

import email.utils
import json
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from filelock import FileLock

from monkeylib import resources
from monkeylib.captions.composers.budget import Budget, Reservation
from monkeylib.captions.composers.chat_images import texts_of, without_images
from monkeylib.captions.composers.http_limits import limited_client
from monkeylib.captions.failures import FailureKind, ModelError
from monkeylib.digests import json_digest
from monkeylib.progress import say
from monkeylib.redaction import address_secrets, public_address, redact, redact_values, without_user_info

OVERHEAD = 64  # tokens that an endpoint may add around a message
_RETRYABLE = {408, 409, 425, 429}  # and 5xx
_REFUSED = {401, 403, 404}  # no other request would fare better
_NEVER_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"}
_REPEATED_CHARACTERS = 2000  # of a rejected answer, when the endpoint is asked again
_AGAIN = "Write the description again: plain sentences in English about the picture, and nothing else."
_NAMED_MODELS, _NAMED_CHARACTERS = 5, 200  # of those that an endpoint lists
_CHECK_TIMEOUT = 20.0  # seconds in which an endpoint has to show that it is there


class ChatFailed(ModelError):
    """The endpoint gave no usable answer; the message says why."""

    def __init__(self, message: str, kind: FailureKind = "unavailable") -> None:
        # It may hold what the endpoint said: no control characters for a terminal or a file.
        super().__init__("".join(letter if letter.isprintable() else "?" for letter in message))
        self.kind = kind


class AnswerRejected(ChatFailed):
    """An answer of no use; if asked again with the reason, the endpoint may give a better one.

    Args:
        message: the reason.
        again: what the endpoint is asked to do.
    """

    def __init__(self, message: str, again: str = _AGAIN) -> None:
        super().__init__(message, "rejected")
        self.again = again


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
        attempts: maximum number of times that a request is sent without getting an answer.
        answers: maximum number of answers to a request that are rejected. The endpoint is told the reason
            when it is asked again.
        failed_requests: requests in a row that fail in all their attempts, after which none is sent for a
            while.
        pause: seconds of this while; then one request is sent, and others if it is answered.
        timeout: seconds that one attempt may take, from the connection to the last byte of the answer.
        first_delay: seconds before the second attempt.
        longest_delay: maximum number of seconds between two attempts.
    """

    attempts: int = 6
    answers: int = 2
    failed_requests: int = 3
    pause: float = 300.0
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
            base_url: address of the endpoint. User and password in it are sent, and named nowhere.
            key: its API key.
            cache: folder of the responses.
            budget: budget of all requests together.
            concurrency: maximum number of requests at once.
            retry_policy: delays and number of attempts.

        Raises:
            ValueError: `base_url` is no address.
            ModuleNotFoundError: the package openai isn't installed.
        """
        try:
            import openai
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "Asking a chat model needs the package openai: install it with `pip install -e '.[chat]'`."
            ) from error

        # In messages and as part of keys: the same endpoint with another password gives the same answers.
        self.address = valid_address(base_url)
        self._secrets = [key, *address_secrets(base_url)]
        _redact_logs()

        self.cache, self.budget, self.retry_policy = cache, budget, retry_policy
        self._openai = openai
        address, user_info = without_user_info(base_url)
        self._client = openai.OpenAI(
            base_url=address,
            api_key=key,
            timeout=retry_policy.timeout,
            max_retries=0,
            http_client=limited_client(user_info),
        )

        self._slots = threading.BoundedSemaphore(concurrency)
        self._request_locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._request_locks_guard = threading.Lock()
        self._resume_at = 0.0  # on the monotonic clock: no thread sends a request before
        self._refusal = ""  # why no request is sent
        self._refused_until = 0.0  # on the monotonic clock
        self._failed_requests = 0  # in a row, in all their attempts

    def check(self, model: str) -> None:
        """Ask the endpoint for its models, which costs nothing, to see that it is there and takes the key.

        If it lists models, and not this one, that is said: lists need not be complete.

        Raises:
            ChatFailed: it cannot be reached, or refuses the key. Any other answer shows that it is there.
        """
        try:
            raw = self._client.with_options(timeout=_CHECK_TIMEOUT).models.with_raw_response.list()
        except self._openai.AuthenticationError as error:
            raise ChatFailed(
                self._redact(f"The endpoint {self.address} refuses the key ({_status_reason(error)}).")
            ) from None
        except self._openai.APIConnectionError as error:
            raise ChatFailed(
                self._redact(
                    f"The endpoint {self.address} cannot be reached ({error.__cause__ or error}): check its "
                    "address, and that it is running."
                )
            ) from None
        except self._openai.OpenAIError:
            # Many endpoints have no list of models, or don't show it to every key.
            return

        try:
            models = [str(item["id"]) for item in json.loads(raw.http_response.text)["data"]]
        except (ValueError, LookupError, TypeError, RecursionError):
            return
        if models and model not in models:
            names = self._redact(", ".join(models[:_NAMED_MODELS]))[:_NAMED_CHARACTERS]
            say(str(ChatFailed(f"The endpoint {self.address} does not list the model {model}, but {names}.")))

    def send(
        self,
        request: dict[str, Any],
        answer_tokens: int,
        accept: Callable[[dict[str, Any]], str],
        image_tokens: int = 0,
    ) -> str:
        """Return the answer to a request of the chat API, from the cache if an accepted one came before.

        An answer that `accept` rejects is not kept, and the request is sent again with the reason, up to the
        number of answers of the retry policy. Any other error of `accept` is the outcome of this request; the
        next run sends it again.

        Args:
            request: as sent, without the key.
            answer_tokens: maximum number of tokens of its answer.
            accept: returns the text of a response; raises `AnswerRejected` or another `ChatFailed` if it
                is of no use.
            image_tokens: maximum number of tokens of the images in the request.

        Raises:
            ChatFailed: refused, failed or rejected as often as the retry policy allows.
            BudgetExhausted: the request might exceed the budget.
        """
        path = self.cache_path(request)
        with self._request_locks_guard:
            lock = self._request_locks.setdefault(path.name, threading.Lock())

        # The locks make two threads, and two processes, with the same request send it once.
        with lock, _locked_file(path):
            # Another thread or process, or an earlier run, may have received it.
            response = _read_cached(path)
            if response is not None:
                with suppress(ChatFailed):  # kept by a version that judged less strictly
                    return accept(response)

            # While the lock is held, nobody else writes this file: what is there was left by a killed run.
            for leftover in path.parent.glob(f".{path.stem}.*"):
                leftover.unlink(missing_ok=True)

            response, answer = self._request_until_accepted(request, answer_tokens, accept, image_tokens)
            with resources.atomic_write(path) as temporary:
                content = json.dumps({"request": without_images(request), "response": response})
                temporary.write_text(content, encoding="utf-8")
            return answer

    def cache_path(self, request: dict[str, Any]) -> Path:
        """Return the file of a request's response, named by the digest of the endpoint and the request."""
        digest = json_digest([self.address, without_images(request)])
        return self.cache / digest[:2] / f"{digest}.json"

    def _request_until_accepted(
        self,
        request: dict[str, Any],
        answer_tokens: int,
        accept: Callable[[dict[str, Any]], str],
        image_tokens: int,
    ) -> tuple[dict[str, Any], str]:
        """Return the first response that is accepted, and its answer."""
        count = self.retry_policy.answers
        asked = request
        for number in range(1, count + 1):
            response = self._send_with_retries(asked, answer_tokens, image_tokens)
            try:
                return response, accept(response)
            except AnswerRejected as error:
                if number == count:
                    raise AnswerRejected(f"{count} answers were rejected, the last one: {error}") from None
                asked = _with_objection(request, response, error)

        raise ValueError(f"a request has to be sent at least once, got {count} answers")

    def _send_with_retries(
        self, request: dict[str, Any], answer_tokens: int, image_tokens: int
    ) -> dict[str, Any]:
        # A token is at least a byte, so the prompt has at most as many tokens as bytes.
        prompt_tokens = image_tokens
        for message in request["messages"]:
            prompt_tokens += sum(len(text.encode()) for text in texts_of(message)) + OVERHEAD

        failed_attempts = 0
        while True:
            self._wait_for_endpoint()
            try:
                with self._slots, self.budget.reserve(prompt_tokens, answer_tokens) as reservation:
                    response = self._send_once(request, reservation)
            except _RetryableError as error:
                failed_attempts += 1
                if failed_attempts >= self.retry_policy.attempts or self._refusal:
                    self._count_failed_request(error)
                    raise ChatFailed(f"{failed_attempts} attempts failed, the last one: {error}") from None
                self._delay(error, failed_attempts)
            else:
                self._count_answered_request()
                return response

    def _count_answered_request(self) -> None:
        self._failed_requests = 0
        if self._refusal:
            self._refusal = ""
            say(f"The endpoint {self.address} answers again.")

    def _count_failed_request(self, error: _RetryableError) -> None:
        """Stop sending for a while after several requests in a row that failed in all their attempts."""
        self._failed_requests += 1
        if self._failed_requests < self.retry_policy.failed_requests:
            return

        is_new = not self._refusal
        self._refused_until = time.monotonic() + self.retry_policy.pause
        self._refusal = (
            f"The endpoint {self.address} answered none of {self._failed_requests} requests in a row "
            f"({error}), so none is sent to it for {self.retry_policy.pause:.0f} seconds: run again when it "
            "answers."
        )
        if is_new:
            say(str(ChatFailed(self._refusal)))

    def _wait_for_endpoint(self) -> None:
        """Wait until the endpoint accepts requests again; raise if it refuses all of them."""
        while (remaining := self._resume_at - time.monotonic()) > 0:
            time.sleep(remaining)
        if not self._refusal:
            return

        # After the pause, one thread tries while the others still refuse.
        with self._request_locks_guard:
            if time.monotonic() < self._refused_until:
                raise ChatFailed(self._refusal)
            self._refused_until = time.monotonic() + self.retry_policy.pause

    def _delay(self, error: _RetryableError, failed_attempts: int) -> None:
        """Wait before the next attempt; a delay that the endpoint requests holds for all threads."""
        policy = self.retry_policy
        if error.retry_after is None:
            delay = min(policy.longest_delay, policy.first_delay * 2 ** (failed_attempts - 1))
            # At random, so that threads do not retry all at once.
            time.sleep(delay * (1 - random.random() / 4))
        elif error.retry_after > policy.longest_delay:
            raise ChatFailed(f"{error}, and asks to wait for {error.retry_after:.0f} seconds") from None
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
            raise _RetryableError(self._redact(f"{reason} ({error.__cause__})")) from None

        try:
            # An endpoint may repeat the key even in its answer, escaped or not.
            plain = json.dumps(json.loads(raw.http_response.text), ensure_ascii=False)
            response = json.loads(redact_values(plain, self._secrets))
            text = response["choices"][0]["message"]["content"]
            if not isinstance(text, str | None):
                raise TypeError(f"its content is {text!r}")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            reason = f"a response without an answer ({type(error).__name__}: {error})"
            raise _RetryableError(self._redact(reason)[:400]) from None

        # Without numbers from the endpoint, the full reservation counts as used.
        match response.get("usage"):
            case {"prompt_tokens": int(prompt_tokens), "completion_tokens": int(completion_tokens)}:
                reservation.settle(prompt_tokens, completion_tokens)
        return response

    def _raise_status(self, error: Any) -> None:
        """Raise the error of a status that isn't a success."""
        status = error.status_code
        reason = self._redact(_status_reason(error))

        # A wrong key, model or address, or an empty account: no other request would be answered either.
        if status in _REFUSED or error.code == "insufficient_quota":
            self._refused_until = math.inf
            self._refusal = f"The endpoint {self.address} refuses requests ({reason})."
            raise ChatFailed(self._refusal) from None
        if status in _RETRYABLE or status >= 500:
            raise _RetryableError(reason, _retry_after(error.response.headers)) from None
        raise ChatFailed(f"The endpoint refused the request ({reason}).", "refused") from None

    def _redact(self, text: str) -> str:
        return redact(text, self._secrets)


def _with_objection(
    request: dict[str, Any], response: dict[str, Any], error: AnswerRejected
) -> dict[str, Any]:
    """Return a request that continues the conversation with a rejected answer, and says why it is none."""
    text = response["choices"][0]["message"]["content"] or ""
    # Lone surrogates cannot be sent.
    text = text[:_REPEATED_CHARACTERS].encode("utf-8", "replace").decode()
    objection = f"This answer cannot be used: {error}. {error.again}"
    turns = [{"role": "assistant", "content": text}, {"role": "user", "content": objection}]
    return {**request, "messages": [*request["messages"], *turns]}


def valid_address(base_url: str) -> str:
    """Return the address of an endpoint without its secrets.

    Raises:
        ValueError: it is no address of the web.
    """
    address = public_address(base_url)
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that isn't closed
        valid = False

    if not valid:
        raise ValueError(
            f"The address of a chat endpoint begins with http:// or https:// and names a host, as in "
            f"http://localhost:8000/v1: got {address!r}."
        )
    return address


class _RedactingFilter(logging.Filter):
    """Take secrets out of the messages of a logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True


_REDACTING_FILTER = _RedactingFilter()


def _redact_logs() -> None:
    """Keep secrets out of what the libraries under openai log: the addresses of requests, their headers."""
    # The filter of a logger is not that of the loggers under it.
    names = [
        "openai",
        "openai._base_client",
        "openai._legacy_response",
        "openai._response",
        "httpx",
        "httpx2",
    ]
    for core in ("httpcore", "httpcore2"):
        names += [core, *(f"{core}.{part}" for part in ("connection", "http11", "http2", "proxy", "socks"))]
    for name in names:
        logging.getLogger(name).addFilter(_REDACTING_FILTER)  # the same filter is added once


def _status_reason(error: Any) -> str:
    """Return the status and the endpoint's message."""
    message = str(error.message).removeprefix(f"Error code: {error.status_code} - ")
    return f"status {error.status_code}: {message[:300]}"


@contextmanager
def _locked_file(path: Path) -> Iterator[None]:
    """Hold the lock of a file that several processes may be about to write; the lock's file goes with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire()
    except (OSError, NotImplementedError):  # file systems without locks
        yield
        return

    try:
        yield
    finally:
        # Whoever waits finds the response, so it is harmless that the next process makes a new lock.
        if path.exists():
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


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
