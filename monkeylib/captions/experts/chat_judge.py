"""Image-text matching by a vision model behind an OpenAI-compatible endpoint: a judge of what experts say.

It takes the place of BLIP-2's matching head. A crop is sent with everything that is said about it, and the
model answers yes or no to each. The environment says which model, as for the composer
(`composers.chat_model`).
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from monkeylib.captions.annotations import Record
from monkeylib.captions.composers.chat_client import AnswerRejected
from monkeylib.captions.composers.chat_model import ChatModel, excerpt
from monkeylib.captions.experts.chat_vision import IMAGE_SIDE
from monkeylib.captions.models import ImageTextMatcher
from monkeylib.captions.registry import register_matcher

STATEMENTS = 20  # of a request, at most
_REGIONS = 10  # of an image, for estimates
_LONGEST = 300  # characters of a statement

# Responses are cached by the full request: not a byte of the prompt may change without a reason.
_TASK = (
    "Here is a part of a picture, and what somebody says that it shows. For each line, answer whether it is "
    'right. Write one line for each, its number and yes or no, as in "1: yes", and nothing else. If you '
    "can't tell, the answer is no."
)
_AGAIN = "Write the lines again: each number once, with yes or no, and nothing else."
_ANSWER = re.compile(r"\W*(\d+)\W+(yes|no)\b\W*", re.IGNORECASE)


class ChatJudge(ChatModel, ImageTextMatcher):
    """Says of texts whether crops show what they say: 1 for yes, 0 for no.

    Args:
        cache: folder of the responses; `chat` in the library's cache if not given.
        image_side: longest side in pixels of the crop that is sent.
        options: see `ChatModel`.

    Raises:
        ValueError: as of `ChatModel`, or no image is to be sent.
    """

    name = "chat-judge"

    def __init__(
        self, cache: Path | str | None = None, *, image_side: int = IMAGE_SIDE, **options: Any
    ) -> None:
        if image_side < 1:
            raise ValueError(f"A judge has to see an image: got a longest side of {image_side} pixels.")
        super().__init__(cache, image_side=image_side, **options)

    def match(self, crops: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """Return 1 for each text that its crop shows, else 0.

        Raises:
            ChatFailed: a request failed.
            BudgetExhausted: a request might exceed the budget.
        """
        # One request for all texts of a crop object.
        rows_of_crop: dict[int, list[int]] = {}
        for row, crop in enumerate(crops):
            rows_of_crop.setdefault(id(crop), []).append(row)
        parts = [
            rows[start : start + STATEMENTS]
            for rows in rows_of_crop.values()
            for start in range(0, len(rows), STATEMENTS)
        ]

        verdicts = self.send_each(
            self._judge, [crops[rows[0]] for rows in parts], [[texts[row] for row in rows] for rows in parts]
        )
        scores = [0.0] * len(texts)
        for rows, of_part in zip(parts, verdicts, strict=True):
            if isinstance(of_part, Exception):
                raise of_part
            for row, score in zip(rows, of_part, strict=True):
                scores[row] = score
        return scores

    def _judge(self, crop: Image.Image, texts: Sequence[str]) -> list[float]:
        lines = [f"{number}: {_statement(text)}" for number, text in enumerate(texts, 1)]
        request = self.build_request("\n".join([_TASK, *lines]), crop)
        return json.loads(self.send(request, lambda text: json.dumps(_verdicts(text, len(texts)))))

    def estimate(self, count: int, records: Sequence[Record] = ()) -> str:
        """Return how many requests, tokens and dollars the matching of images needs.

        Images have as many regions as the records, else ten.
        """
        regions = sum(len(record.regions) + len(record.dropped) for record in records)
        each = regions / len(records) if records else _REGIONS
        return self.describe_estimate(
            round(count * each), len(_TASK) + 40, f" for {each:.1f} regions an image"
        )


def _statement(text: str) -> str:
    """Return a text on one line, so that it can't be taken for another part of the prompt."""
    return " ".join(text.split())[:_LONGEST]


def _verdicts(text: str, count: int) -> list[float]:
    """Return 1 for each yes and 0 for each no of an answer.

    Raises:
        AnswerRejected: it isn't one line for each statement.
    """
    verdicts: dict[int, float] = {}
    lines = [line for line in text.splitlines() if line.strip()]
    for line in lines:
        if match := _ANSWER.fullmatch(line.strip()):
            verdicts[int(match[1])] = float(match[2].lower() == "yes")

    if len(lines) != count or sorted(verdicts) != list(range(1, count + 1)):
        raise AnswerRejected(
            f"there must be {count} lines, each a number and yes or no ({excerpt(text)})", _AGAIN
        )
    return [verdicts[number] for number in range(1, count + 1)]


@register_matcher("chat-judge", sets=("vision",))
def chat_judge() -> ChatJudge:
    """Return a judge configured by the environment."""
    return ChatJudge.from_environment()
