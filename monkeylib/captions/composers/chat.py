"""Captions by a chat model (the paper's composer), from any OpenAI-compatible endpoint.

The endpoint, the model and the key come from the environment only: OPENAI_BASE_URL (OpenAI's own if not
set), MONKEYLIB_CHAT_MODEL and OPENAI_API_KEY. The key is read when the first request is sent; it is stored
in no file and no record. `from_environment` also takes limits from there: MONKEYLIB_CHAT_TOKENS,
MONKEYLIB_CHAT_DOLLARS with MONKEYLIB_CHAT_PRICES, MONKEYLIB_CHAT_CONCURRENCY and
MONKEYLIB_CHAT_ANSWER_TOKENS.
"""

import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from monkeylib import boxes, resources
from monkeylib.boxes import Box
from monkeylib.captions import answers
from monkeylib.captions.annotations import GeneratedCaption, OcrLine, Record, Region
from monkeylib.captions.composers.budget import Budget, Prices, Usage
from monkeylib.captions.composers.chat_client import (
    AnswerRejected,
    ChatClient,
    ChatFailed,
    RetryPolicy,
    environment,
    valid_address,
)
from monkeylib.captions.composers.chat_images import image_part, image_tokens
from monkeylib.captions.filtering import confidence
from monkeylib.captions.models import Composer
from monkeylib.captions.registry import register_composer

MODEL, BASE_URL, KEY = "MONKEYLIB_CHAT_MODEL", "OPENAI_BASE_URL", "OPENAI_API_KEY"
TOKENS, DOLLARS, PRICES = "MONKEYLIB_CHAT_TOKENS", "MONKEYLIB_CHAT_DOLLARS", "MONKEYLIB_CHAT_PRICES"
CONCURRENCY, ANSWER_TOKENS = "MONKEYLIB_CHAT_CONCURRENCY", "MONKEYLIB_CHAT_ANSWER_TOKENS"
IMAGE = "MONKEYLIB_CHAT_IMAGE"
OPENAI = "https://api.openai.com/v1"

_CHARACTERS_OF_A_TOKEN = 4  # in English, about

# Responses are cached by the full request: not a byte of the prompt may change without a reason.
_TASK = (
    "You write captions. Several people described the same picture, in whole and in part. Write one "
    "description from what they say that is coherent, logical and full of detail. Places are given by their "
    "top left and bottom right corner, from (0, 0) to (1, 1)."
)
_RULES = (
    "Put things in context. Descriptions of one object at one place belong together, and so do texts that "
    "form one sentence. Name the main objects with their place, colour and shape, and how they lie to each "
    "other. Write fewer than six sentences. Give no coordinates, and don't describe single letters."
)
_SEEN = "The picture is attached. Where it shows that somebody is wrong, follow the picture."
_SEEN_GROUNDING = 0.1  # of the answers of a model that sees what the experts have not said


class ChatComposer(Composer):
    """Composer that sends the paper's prompt to a chat model, as one user message.

    Every response with a usable caption is stored in `cache`, so that an interrupted run requests only what
    is missing. An answer that is no caption (`answers.rejections`) is asked for again, with the reason, as
    often as the retry policy says, and then a failure. One that is empty, cut off or filtered is a failure
    that the next run tries again.

    A budget is that of all runs into one folder: what was spent stands in the `account`, before a request is
    sent. A composer with a budget runs as one copy, so that the budget holds on many machines too.
    """

    name = "chat"
    licence = "terms of the endpoint"
    batch_size = 64  # responses are stored one by one: a kill loses none

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
        image_side: int = 0,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """Create the composer; no request is sent yet.

        Args:
            cache: folder of the responses; `chat` in the library's cache if not given.
            concurrency: maximum number of requests of this process at once.
            maximum_tokens: budget, prompts and answers together; none if not given.
            maximum_dollars: budget in US dollars; none if not given.
            prices: US dollars for a million tokens of prompts and of answers.
            answer_tokens: maximum length of an answer; one that is cut off there fails.
            answer_limit: name of `answer_tokens` in requests: OpenAI's newer models take the longer one.
            temperature: the endpoint's default if not given, as in the released code.
            prompt_characters: maximum length of a prompt, see `chat_prompt`.
            image_side: longest side in pixels of the image that the model is shown; 0 for none.
            retry_policy: delays and number of attempts.

        Raises:
            ValueError: no model is named in the environment, the endpoint's address is none, fewer than one
                request at once, or a limit in dollars without prices.
        """
        if concurrency < 1:
            raise ValueError(f"At least one request has to be on its way at once, got {concurrency}.")

        # The model's name is the version in records; where it runs is part of the settings.
        self.version = environment(MODEL, "name a chat model (the released code used gpt-3.5-turbo)")
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
        self.prompt_characters = prompt_characters
        self.image_side = image_side
        self.reads_images = image_side > 0

    @classmethod
    def from_environment(cls, cache: Path | str | None = None) -> "ChatComposer":
        """Return a composer whose limits are environment variables too, where they are set.

        MONKEYLIB_CHAT_TOKENS is the budget in tokens, MONKEYLIB_CHAT_DOLLARS that in US dollars,
        MONKEYLIB_CHAT_PRICES the prices of a million tokens of prompts and of answers ("0.5,1.5"),
        MONKEYLIB_CHAT_CONCURRENCY the maximum number of requests at once, MONKEYLIB_CHAT_ANSWER_TOKENS the
        maximum length of an answer, MONKEYLIB_CHAT_IMAGE the longest side of the image that is sent.

        Raises:
            ValueError: one of them is no number, or an option that the composer refuses.
        """
        # Variables that are not set leave the composer's defaults.
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
        """The endpoint (without secrets in its address), and the settings of prompt and answer."""
        settings = {
            "base_url": self.address,
            "answer_tokens": self.answer_tokens,
            "temperature": self.temperature,
            "prompt_characters": self.prompt_characters,
        }
        # Settings are keys of the cache: those of a model that sees nothing stay as they were.
        return {**settings, "image_side": self.image_side} if self.image_side else settings

    @cached_property
    def _client(self) -> ChatClient:
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
            ValueError: the environment holds no key.
            ModuleNotFoundError: the package openai isn't installed.
        """
        _ = self._client

    def check(self) -> None:
        """Check that the key is there, and that the endpoint can be reached and takes it; costs nothing.

        Raises:
            ValueError: the environment holds no key.
            ChatFailed: the endpoint cannot be reached, or refuses the key.
            ModuleNotFoundError: the package openai isn't installed.
        """
        self._client.check(self.version)

    @property
    def usage(self) -> Usage:
        """Requests, tokens and dollars since this composer was created."""
        return self._client.budget.usage if "_client" in self.__dict__ else Usage()

    @property
    def cost(self) -> float:
        """US dollars since this composer was created; 0 where no prices are known."""
        return self.usage.dollars

    def estimate(self, count: int, records: Sequence[Record] = ()) -> str:
        """Return how many requests, tokens and dollars the captions of images need.

        A token is taken for four characters, as in English. Prompts are as long as those of the records,
        else as long as they may be; so are answers always. Answers that are asked for again are not counted,
        nor are those that come from the cache.
        """
        lengths = [len(chat_prompt(record, self.prompt_characters)) for record in records]
        length = sum(lengths) / len(lengths) if lengths else self.prompt_characters
        prompt = count * (math.ceil(length / _CHARACTERS_OF_A_TOKEN) + image_tokens(self.image_side))
        answer = count * self.answer_tokens

        text = f"{count} requests to {self.version}, {prompt} tokens of prompts"
        text += f" (as those of {len(lengths)} records)" if lengths else " at most"
        text += f" and {answer} of answers at most"
        prices = self._limits["prices"]
        if prices is None:
            return f"{text}; {PRICES} would say what they cost."

        text += f": US$ {prices.dollars(prompt, answer):.2f}"
        budget = self._limits["dollars"]
        return f"{text}, and the budget is US$ {budget:.2f}." if budget is not None else f"{text}."

    def request(self, record: Record, image: Image.Image | None = None) -> dict[str, Any]:
        """Return the request about a filtered record, as it is sent, with the image if the model sees it."""
        prompt: Any = chat_prompt(record, self.prompt_characters)
        if image is not None:
            text = {"type": "text", "text": f"{prompt}\n{_SEEN}"}
            prompt = [text, image_part(image, self.image_side)]

        request = {
            "model": self.version,
            "messages": [{"role": "user", "content": prompt}],
            self.answer_limit: self.answer_tokens,
        }
        if self.temperature is not None:
            request["temperature"] = self.temperature
        return request

    def compose(self, record: Record, image: Image.Image | None = None) -> str:
        """Return the caption; empty, without a request, for a record without annotations.

        Raises:
            ChatFailed: no answer, an empty one, one that was cut off or filtered, or none that is a caption.
            BudgetExhausted: the request might exceed the budget.
        """
        if not (record.captions or record.regions or record.lines or record.original_caption):
            return ""

        def accept(response: dict[str, Any]) -> str:
            return self._caption(record, response)

        request = self.request(record, image)
        return self._client.send(request, self.answer_tokens, accept, image_tokens(self.image_side))

    def _caption(self, record: Record, response: dict[str, Any]) -> str:
        """Return the caption in a response.

        Raises:
            AnswerRejected: it is no caption, or breaks the rules of the prompt.
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

        minimum = _SEEN_GROUNDING if self.reads_images else answers.MINIMUM_GROUNDING
        if problems := answers.rejections(record.model_copy(update={"detailed_caption": text}), minimum):
            raise AnswerRejected(f"{'; '.join(problems)} ({_excerpt(text)})")
        return " ".join(text.split())

    def compose_all(self, records: Sequence[Record]) -> list[str | GeneratedCaption | Exception]:
        """Return the captions, up to `concurrency` requested at once, an exception for each that failed."""
        return self._compose_each(records, [None] * len(records))

    def compose_with_images(
        self, records: Sequence[Record], images: Sequence[Image.Image]
    ) -> list[str | GeneratedCaption | Exception]:
        """Return the captions, as `compose_all`, by a model that is shown the images."""
        return self._compose_each(records, images)

    def _compose_each(
        self, records: Sequence[Record], images: Sequence[Image.Image | None]
    ) -> list[str | GeneratedCaption | Exception]:
        def compose_or_error(record: Record, image: Image.Image | None) -> str | GeneratedCaption | Exception:
            try:
                return self.compose(record, image)
            except Exception as error:  # recorded by the pipeline; the others go on
                return error

        # Threads wait for the endpoint most of the time; results come in the order of the records.
        threads = ThreadPoolExecutor(self.concurrency)
        try:
            return list(threads.map(compose_or_error, records, images))
        finally:
            threads.shutdown(cancel_futures=True)  # an interrupted run sends nothing more


@register_composer("chat")
def chat_composer() -> ChatComposer:
    """Return a chat composer configured by the environment."""
    return ChatComposer.from_environment()


def chat_prompt(record: Record, maximum_characters: int = 6000) -> str:
    """Return the message that asks a chat model for the caption of a filtered record.

    In the order of the paper: the task, captions of the full image (including the original one, as in the
    paper but not in the released code), regions, segments, texts if there are any, the rules. If the message
    would be longer than `maximum_characters`, the captions of the full image are cut to a third of the room
    for annotations, and the least certain regions and texts are dropped.

    Raises:
        ValueError: the task and the rules alone are longer than that.
    """
    # Characters of the task and the rules.
    frame = len(_message(record, [], [], []))
    if frame > maximum_characters:
        raise ValueError(f"The chat prompt needs {frame} characters: allow more than {maximum_characters}.")

    captions = [_one_line(caption.text) for caption in record.captions]
    captions.append(_one_line(record.original_caption))
    captions = [text for text in captions if text]

    # The most certain first, so that the last one is dropped first.
    regions = sorted(record.regions, key=lambda region: -confidence(region))
    lines = list(record.lines)

    if len(_message(record, captions, regions, lines)) > maximum_characters:
        captions = _cut_to_shares(captions, (maximum_characters - frame) // 3)

    # Drop the least certain region or line, whichever are more, until the message fits.
    while len(message := _message(record, captions, regions, lines)) > maximum_characters:
        if regions and len(regions) >= len(lines):
            regions.pop()
        elif lines:
            lines.remove(min(reversed(lines), key=lambda line: line.confidence))
        else:
            captions = captions[:-1]

    return message


def _cut_to_shares(texts: Sequence[str], characters: int) -> list[str]:
    """Cut texts after a word, so that together they have at most `characters` characters, in equal shares."""
    share = characters // max(1, len(texts))
    return [text if len(text) <= share else text[:share].rpartition(" ")[0] for text in texts]


def _excerpt(text: str, characters: int = 80) -> str:
    """Return the beginning of a text in quotation marks."""
    return repr(text) if len(text) <= characters else f"{text[:characters]!r}..."


def _one_line(text: str) -> str:
    """Return a text on one line, so that it can't be taken for another part of the prompt."""
    return " ".join(text.split())


def _message(
    record: Record, captions: Sequence[str], regions: Sequence[Region], lines: Sequence[OcrLine]
) -> str:
    """Return the prompt with the given annotations, one part per line, without empty parts."""

    def with_places(items: Iterable[Region | OcrLine]) -> str:
        return " ".join(f"{_one_line(item.text)}: {_corners(record, item.box)};" for item in items)

    parts = [_TASK]
    if any(captions):
        parts.append("Whole picture: " + " ".join(f"{text.rstrip('.')}." for text in captions if text))

    dense = [region for region in regions if region.kind == "region"]
    if dense:
        parts.append(f"Regions (description: place): {with_places(dense)}")
    segments = [region for region in regions if region.kind == "segment"]
    if segments:
        parts.append(f"Segments (description: place): {with_places(segments)}")
    if lines:
        parts.append(f"Texts in the picture (text: place): {with_places(lines)}")

    parts.append(_RULES)
    return "\n".join(parts)


def _corners(record: Record, box: Box) -> str:
    """Return a box as fractions of the image: "[0.10, 0.20, 0.35, 0.90]"."""
    fractions = boxes.normalise(box, (record.width, record.height))
    return "[" + ", ".join(f"{side:.2f}" for side in fractions) + "]"


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
