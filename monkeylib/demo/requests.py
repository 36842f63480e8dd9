"""Bodies of the page's requests, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monkeylib.errors import shorten
from monkeylib.image_sources import is_data_uri
from monkeylib.messages import Message
from monkeylib.serving.chat_requests import check_images, read_conversation
from monkeylib.serving.limits import Limits, RequestError

MAX_NEW_TOKENS = 128


def read_image(body: Any) -> str:
    """Return the image of a request, as a data URL.

    Raises:
        RequestError: there is none, or something else in its place.
    """
    image = _fields(body).get("image")
    if not isinstance(image, str) or not is_data_uri(image):
        raise RequestError(f"the image is {shorten(image)}: expected a data URL", parameter="image")
    return image


def read_messages(body: Any, limits: Limits) -> tuple[Message, ...]:
    """Return the conversation of a request, as the chat API has it.

    Raises:
        RequestError: it is none, or an image is no data URL.
    """
    messages = read_conversation(_fields(body).get("messages"))
    check_images([image for message in messages for image in message.images], limits)
    return messages


def read_text(body: Any, name: str, otherwise: str = "") -> str:
    """Return a text of a request.

    Raises:
        RequestError: it is none.
    """
    text = _fields(body).get(name, otherwise)
    if not isinstance(text, str):
        raise RequestError(f"{name} is {shorten(text)}: expected a text", parameter=name)
    return text


def read_names(body: Any, name: str) -> list[str]:
    """Return a list of names in a request.

    Raises:
        RequestError: it is none.
    """
    names = _fields(body).get(name, [])
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise RequestError(f"{name} is {shorten(names)}: expected a list of names", parameter=name)
    return names


def read_thresholds(body: Any) -> dict[str, float]:
    """Return the thresholds of a request, by name.

    Raises:
        RequestError: one is no number from 0 to 1.
    """
    values = _fields(body).get("thresholds", {})
    if not isinstance(values, dict):
        raise RequestError(
            f"thresholds are {shorten(values)}: expected a number for each name", parameter="thresholds"
        )
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise RequestError(f"{name} is {shorten(value)}: expected 0 to 1", parameter="thresholds")
    return {name: float(value) for name, value in values.items()}


def _fields(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise RequestError(f"the body is {shorten(body)}: expected a JSON object")
    return body
