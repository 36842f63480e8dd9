"""The body of a request to `/v1/chat/completions`, checked.

    {"model": "nano-monkey", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}},
        {"type": "text", "text": "What is the total?"}]}]}

Images are data URLs. A path is never opened; an http address only where the server's owner allows it.

Beside OpenAI's fields there are `prompt`, the name of a prompt template, and `grid`, such as "2x3". A field
that would have no effect is refused, unless it asks for nothing (`frequency_penalty: 0`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monkeylib.errors import nearest, shorten
from monkeylib.image_sources import is_address, is_data_uri
from monkeylib.messages import Message, read_messages
from monkeylib.model.generation_options import check_options
from monkeylib.prompts import get_template
from monkeylib.serving.limits import Limits, RequestError
from monkeylib.tiling import AutoGrid, Grid, parse_grid

# Fields of OpenAI's that say nothing about the answer.
_WITHOUT_EFFECT = frozenset(
    "user store metadata service_tier safety_identifier prompt_cache_key parallel_tool_calls".split()
)
# Fields that Monkey cannot follow, and the values by which a client asks for nothing.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "reasoning_effort": ("none",),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
_SUPPORTED = (
    "model messages stream stream_options max_tokens max_completion_tokens temperature top_p seed stop "
    "prompt grid"
).split()


@dataclass(frozen=True)
class ChatRequest:
    """What a client asks for.

    Attributes:
        messages: the conversation, its images not opened yet.
        max_new_tokens: maximum length of the answer.
        length_field: name of the field that says so; empty where the client leaves it to the server.
        prompt: name of the prompt around the user's texts; None for the model's own.
        grid: another grid of tiles than the model's.
        streams: whether the answer is sent part by part.
        includes_usage: whether a stream ends with the numbers of tokens.
        options: of the generation, as `Monkey.answer` takes them.
    """

    messages: tuple[Message, ...]
    max_new_tokens: int
    length_field: str = ""
    prompt: str | None = None
    grid: Grid | AutoGrid | None = None
    streams: bool = False
    includes_usage: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> list[Any]:
        """The images of all messages in their order, as data URLs or addresses."""
        return [image for message in self.messages for image in message.images]


def read_request(body: Any, model: str, limits: Limits, allow_address: bool = False) -> ChatRequest:
    """Check the body of a request.

    Args:
        body: as it was parsed from JSON.
        model: name of the model that answers.
        limits: of the server.
        allow_address: whether images may be named by http and https addresses.

    Raises:
        RequestError: it is no request that this server answers; the sentence says why.
    """
    if not isinstance(body, dict):
        raise RequestError(f"the body is {shorten(body)}: expected a JSON object with model and messages")

    # A client sends null for what it leaves out.
    fields = {name: value for name, value in body.items() if value is not None}
    _refuse_unsupported(fields)
    _check_model(fields.get("model"), model)

    streams = _flag(fields, "stream")
    stream_options = fields.get("stream_options", {})
    if not isinstance(stream_options, dict) or stream_options.keys() - {"include_usage"}:
        raise _misfit("stream_options", stream_options, "an object with include_usage")

    messages = read_conversation(fields.get("messages"))
    max_new_tokens, length_field = _read_length(fields, limits)
    options = _read_options(fields, max_new_tokens)
    request = ChatRequest(
        messages=messages,
        max_new_tokens=max_new_tokens,
        length_field=length_field,
        prompt=_read_prompt(fields.get("prompt")),
        grid=_read_grid(fields.get("grid")),
        streams=streams,
        includes_usage=_flag(stream_options, "include_usage"),
        options=options,
    )
    check_images(request.images, limits, allow_address)
    return request


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name in _WITHOUT_EFFECT or name in _SUPPORTED:
            continue
        if name not in _UNSUPPORTED:
            hint = nearest(name, [*_SUPPORTED, *_UNSUPPORTED]) or f"expected {', '.join(_SUPPORTED)}"
            raise RequestError(
                f"there is no field called {name!r}: {hint}", code="unknown_parameter", parameter=name
            )

        # True is 1 to Python, and False 0.
        accepted = _UNSUPPORTED[name]
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in accepted):
            raise RequestError(
                f"{name} is {shorten(value)}, which this server cannot follow: leave {name} out",
                code="unsupported_parameter",
                parameter=name,
            )


def _check_model(requested: Any, model: str) -> None:
    if requested != model:
        given = "the request names no model" if requested is None else f"there is no model {requested!r} here"
        raise RequestError(
            f"{given}: this server answers with {model!r}",
            status=404,
            code="model_not_found",
            parameter="model",
        )


def read_conversation(messages: Any) -> tuple[Message, ...]:
    """Return the messages of a request, their images not opened yet.

    Raises:
        RequestError: they are no conversation that ends with a question.
    """
    if messages is None:
        raise RequestError("there are no messages: expected a list of them", parameter="messages")
    try:
        return tuple(read_messages(messages))
    except ValueError as error:
        raise RequestError(str(error), parameter="messages") from error


def check_images(images: Sequence[Any], limits: Limits, allow_address: bool = False) -> None:
    """Check that images are data URLs, and how many there are.

    Args:
        images: of a conversation.
        limits: of the server.
        allow_address: whether http and https addresses will do.

    Raises:
        RequestError: too many, or one that is something else.
    """
    if len(images) > limits.max_images:
        raise RequestError(
            f"the messages hold {len(images)} images: this server takes at most {limits.max_images}",
            parameter="messages",
        )
    for image in images:
        if isinstance(image, str) and (is_data_uri(image) or (allow_address and is_address(image))):
            continue
        accepted = "a data URL (data:image/png;base64,...)" + (" or an http address" * allow_address)
        raise RequestError(
            f"an image is {shorten(image)}: this server takes {accepted} and opens nothing else",
            code="invalid_image_url",
            parameter="messages",
        )


def _read_length(fields: Mapping[str, Any], limits: Limits) -> tuple[int, str]:
    """Return the maximum length of the answer, and the field that says so."""
    name = next((name for name in ("max_completion_tokens", "max_tokens") if name in fields), "")
    length = fields[name] if name else limits.max_new_tokens
    if type(length) is not int or not 1 <= length <= limits.max_new_tokens:
        raise _misfit(name, length, f"a whole number from 1 to {limits.max_new_tokens}")
    return length, name


def _read_options(fields: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """Return how the answer is generated: greedily, without a temperature above 0 or a top_p below 1."""
    temperature, top_p = fields.get("temperature", 0), fields.get("top_p", 1)
    for name, value, most in (("temperature", temperature, 2), ("top_p", top_p, 1)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise _misfit(name, value, f"a number from 0 to {most}")

    seed, stop = fields.get("seed", 0), fields.get("stop") or []
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise _misfit("seed", seed, "a whole number from 0 to 2**63 - 1")
    stop_strings = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop_strings, list) or not all(isinstance(one, str) and one for one in stop_strings):
        raise _misfit("stop", stop, "a text that is not empty, or a list of such texts")

    options: dict[str, Any] = {"stop_strings": stop_strings or None}
    # A top_p of 0 leaves the most probable token alone.
    if top_p > 0 and (temperature > 0 or ("temperature" not in fields and top_p < 1)):
        options |= {"do_sample": True, "temperature": float(temperature or 1), "top_p": float(top_p)}
        options["seed"] = fields.get("seed")
    try:
        check_options(max_new_tokens, options)
    except ValueError as error:
        raise RequestError(str(error)) from error
    return options


def _read_prompt(name: Any) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise _misfit("prompt", name, "the name of a prompt template")
    try:
        get_template(name)
    except ValueError as error:
        raise RequestError(str(error), parameter="prompt") from error
    return name


def _read_grid(text: Any) -> Grid | AutoGrid | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise _misfit("grid", text, 'a text such as "2x3"')
    try:
        return parse_grid(text)
    except ValueError as error:
        raise RequestError(str(error), parameter="grid") from error


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name) or False
    if not isinstance(value, bool):
        raise _misfit(name, value, "true or false")
    return value


def _misfit(name: str, value: Any, expected: str) -> RequestError:
    return RequestError(f"{name} is {shorten(value)}: expected {expected}", parameter=name)
