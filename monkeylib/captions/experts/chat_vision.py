"""Captions by a vision model behind an OpenAI-compatible endpoint, such as vLLM or SGLang.

The environment says which, as for the composer (`composers.chat_model`); the image is sent, scaled down to
a longest side of `MONKEYLIB_CHAT_IMAGE` pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from monkeylib.captions import answers
from monkeylib.captions.annotations import Caption, ExpertOutput, Record
from monkeylib.captions.composers.chat_client import AnswerRejected
from monkeylib.captions.composers.chat_model import ChatModel, excerpt
from monkeylib.captions.models import Expert
from monkeylib.captions.registry import register_expert

IMAGE_SIDE = 768  # pixels

# Responses are cached by the full request: not a byte of the prompt may change without a reason.
_PROMPT = (
    "Describe this picture in fewer than six sentences of plain English: the main objects with their place, "
    "colour and shape, what happens, and the texts that can be read. Say only what can be seen, without "
    "coordinates."
)


class ChatVision(ChatModel, Expert):
    """Captions of full images by a vision model. What it answers is judged before it is kept.

    Args:
        cache: folder of the responses; `chat` in the library's cache if not given.
        image_side: longest side in pixels of the image that is sent.
        options: see `ChatModel`.

    Raises:
        ValueError: as of `ChatModel`, or no image is to be sent.
    """

    name = "chat-vision"

    def __init__(
        self, cache: Path | str | None = None, *, image_side: int = IMAGE_SIDE, **options: Any
    ) -> None:
        if image_side < 1:
            raise ValueError(
                f"A vision model has to see an image: got a longest side of {image_side} pixels."
            )
        super().__init__(cache, image_side=image_side, **options)

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return the caption of each image, an exception in the place of one that failed."""
        outputs: list[Any] = []
        for caption in self.send_each(self._caption, images):
            if isinstance(caption, str):
                caption = ExpertOutput(captions=(Caption(text=caption, expert=self.name),))
            outputs.append(caption)
        return outputs

    def _caption(self, image: Image.Image) -> str:
        def accept(text: str) -> str:
            record = Record(name="", width=image.width, height=image.height, detailed_caption=text)
            if problems := answers.rejections(record, minimum_grounding=None):
                raise AnswerRejected(f"{'; '.join(problems)} ({excerpt(text)})")
            return " ".join(text.split())

        return self.send(self.build_request(_PROMPT, image), accept)

    def estimate(self, count: int, records: Sequence[Record] = ()) -> str:
        """Return how many requests, tokens and dollars the captions of images need."""
        return self.describe_estimate(count, len(_PROMPT), "")


@register_expert("chat-vision", sets={"vision": 1}, weights_from="none: an endpoint answers")
def chat_vision() -> ChatVision:
    """Return an expert configured by the environment."""
    return ChatVision.from_environment()
