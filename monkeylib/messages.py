"""Messages of a conversation with images, and how they are laid out, the same in training and inference.

A message has a role and parts, texts and images in their order, so an image may stand in any turn and in the
middle of a sentence:

    system text | <img> ... </img> | prompt | answer <end of text> | prompt | <img> ... </img> | prompt | ...

A system message is plain text in front of everything, with the separator of prompts behind it (a line break
where there is none): neither Qwen-VL nor Monkey was trained with a form for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from monkeylib.errors import shorten
from monkeylib.images import ImageInput
from monkeylib.prompts import get_template, wrap_content

Role = Literal["system", "user", "assistant"]

# An image, or a function that fetches it.
ImageSource = ImageInput | Callable[[], ImageInput]

# Stands for an image where a message is written as one text.
IMAGE_PLACEHOLDER = "<image>"

# What formats call the roles, and the types of a message's parts.
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
TEXT_TYPES = ("text", "input_text", "output_text")
IMAGE_TYPES = ("image", "image_url", "input_image")


@dataclass(frozen=True)
class ImagePart:
    """An image at its place in a message. It is opened only when it is needed."""

    source: ImageSource


Part = str | ImagePart


@dataclass(frozen=True)
class Message:
    """A message of a conversation.

    Attributes:
        role: system, user or assistant. Those of system and assistant are one text.
        parts: texts and images in their order.
    """

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The texts without the images."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """The images."""
        return tuple(part.source for part in self.parts if isinstance(part, ImagePart))


class Turns(NamedTuple):
    """A conversation as it is tokenised.

    Attributes:
        answered: for each answer the texts and images before it, and the answer.
        last: the texts and images behind the last answer; none if the conversation ends with an answer.
    """

    answered: list[tuple[tuple[Part, ...], str]]
    last: tuple[Part, ...]


def lay_out(messages: Sequence[Message], prompt: str | None = None, separator: str = "") -> Turns:
    """Lay out the messages of a conversation.

    Args:
        messages: perhaps a system message, then a user's and an assistant's in turns.
        prompt: name of the prompt around each text of the user; without one, texts stand as they are.
        separator: stands between an image, or an earlier answer, and the text that follows, unless the prompt
            takes none. Only used with a prompt.

    Raises:
        ValueError: no such prompt, or it needs a question and a message has no text.
    """
    answered: list[tuple[tuple[Part, ...], str]] = []
    parts: list[Part] = []
    for message in messages:
        if message.role == "system":
            parts.append(message.text + (separator or "\n"))
        elif message.role == "user":
            parts += _wrap(message, prompt, separator, opens=not answered)
        else:
            answered.append((tuple(parts), message.text))
            parts = []

    return Turns(answered, tuple(parts))


def replace_images(parts: Sequence[Part], visual_tokens: Iterator[int]) -> list[str | int]:
    """Return parts as `PromptLayout` takes them, with the next number of visual tokens for each image."""
    return [part if isinstance(part, str) else next(visual_tokens) for part in parts]


def _wrap(message: Message, prompt: str | None, separator: str, opens: bool) -> list[Part]:
    """Return a user's parts in a prompt, with a separator in front of the texts."""
    if prompt is None:
        return list(message.parts)

    parts: list[Part] = wrap_content(message.parts, prompt)
    if not separator or not get_template(prompt).takes_separator:
        return parts

    # A text that opens a conversation and stands before an image has nothing to be separated from, as in
    # `PromptLayout.encode`.
    is_separated = not (opens and message.images)
    separated: list[Part] = []
    for part in parts:
        if isinstance(part, str) and is_separated:
            part = separator + part
        separated.append(part)
        is_separated = not isinstance(part, str)

    return separated


# --- messages of a caller


def read_messages(
    messages: Sequence[Message | Mapping[str, Any]],
    *,
    accepts_answer: bool = False,
    accepts_missing_images: bool = False,
) -> list[Message]:
    """Read the messages of a conversation whose last question is to be answered.

    Args:
        messages: as OpenAI and transformers write them. A content is a text, or a list of parts: texts,
            images, `{"type": "text", "text": ...}`, `{"type": "image", "image": ...}` and
            `{"type": "image_url", "image_url": {"url": "data:..."}}`. `<image>` in a text, which stands for
            an image in training data, is refused, as no image belongs to it here; in a part of type text, it
            is a text like any other.
        accepts_answer: the conversation may end with an answer.
        accepts_missing_images: a part of type image may be without one, where only its place counts.

    Raises:
        ValueError: a message or a part that is none; roles out of order, or no question at the end. The
            sentence names the place.
    """
    if isinstance(messages, str | Mapping | Message) or not isinstance(messages, Sequence) or not messages:
        raise ValueError(
            f"messages are {shorten(messages)}: expected a list of objects with role and content, such as "
            '[{"role": "user", "content": [image, "a question"]}]'
        )

    read = [
        _read_message(message, f"messages[{number}]", accepts_missing_images)
        for number, message in enumerate(messages)
    ]
    start = 1 if read[0].role == "system" else 0
    for number, message in enumerate(read[start:]):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            raise ValueError(
                f"messages[{start + number}].role is {message.role}: expected {expected} (after a system "
                "message, if there is one, user and assistant take turns)"
            )

    if read[-1].role != "user" and not (accepts_answer and read[-1].role == "assistant"):
        raise ValueError(f"the last message is of {read[-1].role}: expected a question of the user")
    return read


def _read_message(message: Any, place: str, accepts_missing_images: bool) -> Message:
    # A caller's own may hold images as they are, or images in an answer.
    is_read = isinstance(message, Message)
    if is_read:
        message = {"role": message.role, "content": message.parts}
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise ValueError(f"{place} is {shorten(message)}: expected an object with role and content")

    role = ROLES.get(message["role"]) if isinstance(message["role"], str) else None
    if role is None:
        raise ValueError(f"{place}.role is {shorten(message['role'])}: expected system, user or assistant")

    if role == "user" and not is_read:
        _refuse_placeholder(message["content"], f"{place}.content")
    parts = tuple(_read_parts(message["content"], f"{place}.content", accepts_missing_images))
    if role == "user":
        return Message(role, parts)

    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        raise ValueError(f"{place}.content holds an image: a message of {role} is text")
    return Message(role, ("".join(texts),))


def _refuse_placeholder(content: Any, place: str) -> None:
    """Check that no text of a caller stands for an image that isn't there.

    Raises:
        ValueError: one does.
    """
    texts = content if isinstance(content, list | tuple) else [content]
    if any(isinstance(text, str) and IMAGE_PLACEHOLDER in text for text in texts):
        raise ValueError(
            f"{place} holds {IMAGE_PLACEHOLDER} in a text, but no image belongs to it: put the image itself "
            'in its place, as in [image, "a question"], or, if the text is meant, pass it as '
            '{"type": "text", "text": ...}'
        )


def _read_parts(content: Any, place: str, accepts_missing_images: bool) -> Iterator[Part]:
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, list | tuple):
        raise ValueError(f"{place} is {shorten(content)}: expected a text, or a list of texts and images")

    for number, part in enumerate(content):
        yield _read_part(part, f"{place}[{number}]", accepts_missing_images)


def _read_part(part: Any, place: str, accepts_missing_images: bool) -> Part:
    if isinstance(part, str | ImagePart):
        return part
    if not isinstance(part, Mapping):
        # Anything else has to be an image; what is none is refused when it is opened.
        return ImagePart(part)

    kind = part.get("type")
    if kind in TEXT_TYPES:
        text = part.get("text")
        if not isinstance(text, str):
            raise ValueError(f"{place}.text is {shorten(text)}: expected a text")
        return text

    if kind in IMAGE_TYPES:
        image = part.get(image_field(part))
        # OpenAI's `{"url": ...}`
        image = image.get("url") if isinstance(image, Mapping) else image
        if image is None and not accepts_missing_images:
            raise ValueError(f"{place} has no image: expected it in the field image or image_url")
        return ImagePart(image)

    raise ValueError(f"{place}.type is {shorten(kind)}: expected text or image")


def image_field(part: Mapping[str, Any]) -> str | None:
    """Return the field in which a part of type image holds it, None if there is none."""
    fields = ("image_url", "image", "url", "path")
    return next((name for name in fields if part.get(name) is not None), None)
