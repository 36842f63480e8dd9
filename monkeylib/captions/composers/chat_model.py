"""What composer, expert and judge have in common if they are a model behind an OpenAI-compatible endpoint.

The endpoint, the model and the key come from the environment only: OPENAI_BASE_URL (OpenAI's own if not
set), MONKEYLIB_CHAT_MODEL and OPENAI_API_KEY. The key is read when the first request is sent; it is stored
in no file and no record. `from_environment` also takes limits from there: MONKEYLIB_CHAT_TOKENS,
MONKEYLIB_CHAT_DOLLARS with MONKEYLIB_CHAT_PRICES, MONKEYLIB_CHAT_CONCURRENCY,
MONKEYLIB_CHAT_ANSWER_TOKENS and MONKEYLIB_CHAT_IMAGE.
"""

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from PIL import Image

from monkeylib import resources
from monkeylib.captions.composers.budget import Budget, Prices, Usage
from monkeylib.captions.composers.chat_client import (
    ChatClient,
    ChatFailed,
    RetryPolicy,
    environment,
    valid_address,
)
from monkeylib.captions.composers.chat_images import image_part, image_tokens
from monkeylib.captions.models import Model

MODEL, BASE_URL, KEY = "MONKEYLIB_CHAT_MODEL", "OPENAI_BASE_URL", "OPENAI_API_KEY"
TOKENS, DOLLARS, PRICES = "MONKEYLIB_CHAT_TOKENS", "MONKEYLIB_CHAT_DOLLARS", "MONKEYLIB_CHAT_PRICES"
CONCURRENCY, ANSWER_TOKENS = "MONKEYLIB_CHAT_CONCURRENCY", "MONKEYLIB_CHAT_ANSWER_TOKENS"
IMAGE = "MONKEYLIB_CHAT_IMAGE"
OPENAI = "https://api.openai.com/v1"

_MODEL_PURPOSE = "name a chat model (the released code used gpt-3.5-turbo)"
_CHARACTERS_OF_A_TOKEN = 4  # in English, about

Result = TypeVar("Result")


class ChatModel(Model):
    """A model behind an endpoint: who it is, what it may cost, and the client of its requests.

    A budget is that of all runs into one folder and of all models of a run: what was spent stands in the
    `account`, before a request is sent. A model with a budget runs as one copy.

    Args:
        cache: folder of the responses; `chat` in the library's cache if not given.
        concurrency: maximum number of requests of this process at once.
        maximum_tokens: budget, prompts and answers together; none if not given.
        maximum_dollars: budget in US dollars; none if not given.
        prices: US dollars for a million tokens of prompts and of answers.
        answer_tokens: maximum length of an answer; one that is cut off there fails.
        answer_limit: name of `answer_tokens` in requests: OpenAI's newer models take the longer one.
        temperature: the endpoint's default if not given, as in the released code.
        image_side: longest side in pixels of the image that the model is shown; 0 for none.
        retry_policy: delays and number of attempts.

    Raises:
        ValueError: the endpoint's address is none, fewer than one request at once, or a limit in dollars
            without prices.
    """

    licence = "terms of the endpoint"
    is_paid = True

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
        image_side: int = 0,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"At least one request has to be on its way at once, got {concurrency}.")

        # The model's name is the version in records; where it runs is part of the settings.
        self.version = os.environ.get(MODEL, "").strip() or "no model"
        self.base_url = os.environ.get(BASE_URL, "").strip() or OPENAI
        self.address = valid_address(self.base_url)
        self.cache = Path(cache).absolute() if cache else resources.cache() / "chat"
        self.concurrency = concurrency
        self.retry_policy = retry_policy or RetryPolicy()

        if isinstance(prices, tuple):
            prices = Prices(*prices)
        self._limits = {"tokens": maximum_tokens, "dollars": maximum_dollars, "prices": prices}
        Budget(**self._limits)  # raises if they make no sense

        self.answer_tokens, self.answer_limit = answer_tokens, answer_limit
        self.temperature = temperature
        self.image_side = image_side

    @classmethod
    def from_environment(cls, cache: Path | str | None = None) -> Self:
        """Return a model whose limits are environment variables too, where they are set.

        MONKEYLIB_CHAT_TOKENS is the budget in tokens, MONKEYLIB_CHAT_DOLLARS that in US dollars,
        MONKEYLIB_CHAT_PRICES the prices of a million tokens of prompts and of answers ("0.5,1.5"),
        MONKEYLIB_CHAT_CONCURRENCY the maximum number of requests at once, MONKEYLIB_CHAT_ANSWER_TOKENS the
        maximum length of an answer, MONKEYLIB_CHAT_IMAGE the longest side of the image that is sent.

        Raises:
            ValueError: one of them is no number, or an option that the model refuses.
        """
        # Variables that are not set leave the model's defaults.
        options: dict[str, Any] = {}
        if tokens := _environment_numbers(TOKENS, 1):
            options["maximum_tokens"] = int(tokens[0])
        if dollars := _environment_numbers(DOLLARS, 1):
            options["maximum_dollars"] = dollars[0]
        if prices := _environment_numbers(PRICES, 2):
            options["prices"] = prices
        if concurrency := _environment_numbers(CONCURRENCY, 1):
            options["concurrency"] = int(concurrency[0])
        if answer_tokens := _environment_numbers(ANSWER_TOKENS, 1):
            options["answer_tokens"] = int(answer_tokens[0])
        if image_side := _environment_numbers(IMAGE, 1):
            options["image_side"] = int(image_side[0])
        return cls(cache, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the connection, its locks and the key: another process creates its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_client"}

    @property
    def alone(self) -> bool:  # type: ignore[override]
        """Whether there is a budget, which several copies could not share."""
        return self._limits["tokens"] is not None or self._limits["dollars"] is not None

    @property
    def settings(self) -> dict[str, Any]:
        """The endpoint (without secrets in its address), and the settings of its answers."""
        settings = {
            "base_url": self.address,
            "answer_tokens": self.answer_tokens,
            "temperature": self.temperature,
        }
        # Settings are keys of the cache: those of a model that sees nothing stay as they were.
        return {**settings, "image_side": self.image_side} if self.image_side else settings

    @cached_property
    def _client(self) -> ChatClient:
        environment(MODEL, _MODEL_PURPOSE)
        key = environment(KEY, f"put the key of {self.address} there (any word if it has none)")
        return ChatClient(
            self.base_url,
            key,
            cache=self.cache,
            budget=Budget(**self._limits, account=self.account if self.alone else None),
            concurrency=self.concurrency,
            retry_policy=self.retry_policy,
        )

    def prepare(self) -> None:
        """Create the client; no request is sent.

        Raises:
            ValueError: the environment names no model, or holds no key.
            ModuleNotFoundError: the package openai isn't installed.
        """
        _ = self._client

    def check(self) -> None:
        """Check that the key is there, and that the endpoint can be reached and takes it; costs nothing.

        Raises:
            ValueError: the environment names no model, or holds no key.
            ChatFailed: the endpoint cannot be reached, or refuses the key.
            ModuleNotFoundError: the package openai isn't installed.
        """
        self._client.check(self.version)

    @property
    def usage(self) -> Usage:
        """Requests, tokens and dollars since this model was created."""
        return self._client.budget.usage if "_client" in self.__dict__ else Usage()

    @property
    def cost(self) -> float:
        """US dollars since this model was created; 0 where no prices are known."""
        return self.usage.dollars

    def require_model(self) -> None:
        """Check that the environment names a model.

        Raises:
            ValueError: it doesn't.
        """
        environment(MODEL, _MODEL_PURPOSE)

    def build_request(self, prompt: str, image: Image.Image | None = None) -> dict[str, Any]:
        """Return a request as it is sent: one message of the user, with the image if there is one."""
        content: Any = prompt
        if image is not None:
            content = [{"type": "text", "text": prompt}, image_part(image, self.image_side)]

        request = {
            "model": self.version,
            "messages": [{"role": "user", "content": content}],
            self.answer_limit: self.answer_tokens,
        }
        if self.temperature is not None:
            request["temperature"] = self.temperature
        return request

    def send(self, request: dict[str, Any], accept: Callable[[str], str]) -> str:
        """Return the answer to a request as `accept` returns it.

        Args:
            request: as of `build_request`.
            accept: takes the text of an answer; raises `AnswerRejected` if it is of no use.

        Raises:
            ChatFailed: no answer, an empty one, one that was cut off or filtered, or none that is accepted.
            BudgetExhausted: the request might exceed the budget.
        """

        def accept_response(response: dict[str, Any]) -> str:
            return accept(self._text(response))

        return self._client.send(request, self.answer_tokens, accept_response, image_tokens(self.image_side))

    def _text(self, response: dict[str, Any]) -> str:
        """Return the text of a response.

        Raises:
            ChatFailed: there is none, or it was cut off.
        """
        choice = response["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        text = message["content"] or ""

        if reason == "length":
            raise ChatFailed(
                f"The answer was cut off after {self.answer_tokens} tokens: allow more in {ANSWER_TOKENS}.",
                "no-answer",
            )
        if reason == "content_filter" or message.get("refusal") or not text.strip():
            refusal = f", and refused: {message['refusal']}" if message.get("refusal") else ""
            raise ChatFailed(f"The chat model gave no text (it ended with {reason!r}{refusal}).", "no-answer")
        return text

    def send_each(self, send: Callable[..., Result], *inputs: Iterable[Any]) -> list[Result | Exception]:
        """Return what `send` returns for each input, up to `concurrency` at once, in their order.

        An exception stands for an input that failed.
        """

        def send_or_error(*arguments: Any) -> Result | Exception:
            try:
                return send(*arguments)
            except Exception as error:  # recorded by the pipeline; the others go on
                return error

        # Threads wait for the endpoint most of the time.
        threads = ThreadPoolExecutor(self.concurrency)
        try:
            return list(threads.map(send_or_error, *inputs))
        finally:
            threads.shutdown(cancel_futures=True)  # an interrupted run sends nothing more

    def describe_estimate(self, count: int, prompt_characters: float, details: str) -> str:
        """Return how many requests, tokens and dollars the requests about images need.

        A token is taken for four characters, as in English; answers are as long as they may be. Answers that
        are asked for again are not counted, nor are those that come from the cache.

        Args:
            count: number of requests.
            prompt_characters: characters of a prompt.
            details: says where this length is from.
        """
        each = math.ceil(prompt_characters / _CHARACTERS_OF_A_TOKEN) + image_tokens(self.image_side)
        prompt, answer = count * each, count * self.answer_tokens

        text = f"{count} requests to {self.version}, {prompt} tokens of prompts{details}"
        text += f" and {answer} of answers at most"
        prices = self._limits["prices"]
        if prices is None:
            return f"{text}; {PRICES} would say what they cost."

        text += f": US$ {prices.dollars(prompt, answer):.2f}"
        budget = self._limits["dollars"]
        return f"{text}, and the budget is US$ {budget:.2f}." if budget is not None else f"{text}."


def excerpt(text: str, characters: int = 80) -> str:
    """Return the beginning of a text in quotation marks."""
    return repr(text) if len(text) <= characters else f"{text[:characters]!r}..."


def _environment_numbers(name: str, count: int) -> tuple[float, ...]:
    """Return the numbers of an environment variable, none where it isn't set."""
    text = os.environ.get(name, "").strip()
    if not text:
        return ()

    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()

    if len(values) != count or min(values) < 0:
        expected = "a number" if count == 1 else f"{count} numbers with commas between them"
        raise ValueError(f"The environment variable {name} has to hold {expected}, got {text!r}.")

    return values
