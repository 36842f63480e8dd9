"""Captions by a chat model (the paper's composer), from any OpenAI-compatible endpoint; see `chat_model`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from monkeylib import boxes
from monkeylib.boxes import Box
from monkeylib.captions import answers
from monkeylib.captions.annotations import GeneratedCaption, OcrLine, Record, Region
from monkeylib.captions.composers.chat_client import AnswerRejected
from monkeylib.captions.composers.chat_model import ChatModel, excerpt
from monkeylib.captions.filtering import confidence
from monkeylib.captions.models import Composer
from monkeylib.captions.registry import register_composer

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


class ChatComposer(ChatModel, Composer):
    """Composer that sends the paper's prompt to a chat model, as one user message.

    Every response with a usable caption is stored in `cache`, so that an interrupted run requests only what
    is missing. An answer that is no caption (`answers.rejections`) is asked for again, with the reason, as
    often as the retry policy says, and then a failure. One that is empty, cut off or filtered is a failure
    that the next run tries again.

    Args:
        cache: folder of the responses; `chat` in the library's cache if not given.
        prompt_characters: maximum length of a prompt, see `chat_prompt`.
        options: see `ChatModel`.

    Raises:
        ValueError: no model is named in the environment, or as of `ChatModel`.
    """

    name = "chat"
    batch_size = 64  # responses are stored one by one: a kill loses none

    def __init__(
        self, cache: Path | str | None = None, *, prompt_characters: int = 6000, **options: Any
    ) -> None:
        self.require_model()
        super().__init__(cache, **options)
        self.prompt_characters = prompt_characters
        self.reads_images = self.image_side > 0

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the model, and the maximum length of a prompt."""
        return {**super().settings, "prompt_characters": self.prompt_characters}

    def estimate(self, count: int, records: Sequence[Record] = ()) -> str:
        """Return how many requests, tokens and dollars the captions of images need.

        Prompts are as long as those of the records, else as long as they may be.
        """
        lengths = [len(chat_prompt(record, self.prompt_characters)) for record in records]
        if not lengths:
            return self.describe_estimate(count, self.prompt_characters, " at most")
        return self.describe_estimate(
            count, sum(lengths) / len(lengths), f" (as those of {len(lengths)} records)"
        )

    def request(self, record: Record, image: Image.Image | None = None) -> dict[str, Any]:
        """Return the request about a filtered record, as it is sent, with the image if the model sees it."""
        prompt = chat_prompt(record, self.prompt_characters)
        return self.build_request(prompt if image is None else f"{prompt}\n{_SEEN}", image)

    def compose(self, record: Record, image: Image.Image | None = None) -> str:
        """Return the caption; empty, without a request, for a record without annotations.

        Raises:
            ChatFailed: no answer, an empty one, one that was cut off or filtered, or none that is a caption.
            BudgetExhausted: the request might exceed the budget.
        """
        if not (record.captions or record.regions or record.lines or record.original_caption):
            return ""
        return self.send(self.request(record, image), lambda text: self._caption(record, text))

    def _caption(self, record: Record, text: str) -> str:
        """Return the caption in an answer.

        Raises:
            AnswerRejected: it is no caption, or breaks the rules of the prompt.
        """
        minimum = _SEEN_GROUNDING if self.reads_images else answers.MINIMUM_GROUNDING
        if problems := answers.rejections(record.model_copy(update={"detailed_caption": text}), minimum):
            raise AnswerRejected(f"{'; '.join(problems)} ({excerpt(text)})")
        return " ".join(text.split())

    def compose_all(self, records: Sequence[Record]) -> list[str | GeneratedCaption | Exception]:
        """Return the captions, up to `concurrency` requested at once, an exception for each that failed."""
        return [*self.send_each(self.compose, records)]

    def compose_with_images(
        self, records: Sequence[Record], images: Sequence[Image.Image]
    ) -> list[str | GeneratedCaption | Exception]:
        """Return the captions, as `compose_all`, by a model that is shown the images."""
        return [*self.send_each(self.compose, records, images)]


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
