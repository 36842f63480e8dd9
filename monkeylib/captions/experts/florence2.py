"""Dense region captions by Florence-2: the maintained stand-in for GRIT, which needs detectron2."""

import math
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from monkeylib.captions.annotations import ExpertOutput, Region
from monkeylib.captions.experts.base import Expert
from monkeylib.captions.experts.pretrained import Pretrained, chunks

TASK = "<DENSE_REGION_CAPTION>"
BEAMS = 3  # as its authors run it, like the next
MAXIMUM_TOKENS = 1024
_LOCATION = re.compile(r"<loc_\d+>")


class Florence2Regions(Pretrained, Expert):
    """Regions with a phrase each, in the order that Florence-2 writes them.

    Florence-2 states no scores; here a region's is the geometric mean of the probabilities of the tokens of
    its phrase and corners, from one more pass of the decoder over what it wrote.
    """

    name = "florence2"
    licence = "MIT"
    hub = "florence-community/Florence-2-large-ft"
    revision = "26b734a54fdfbf9c398351eedfabb7f27fc470b7"
    network = "Florence2ForConditionalGeneration"
    processor = "Florence2Processor"
    precision = "float16"
    gpu_share = 0.25

    def __init__(
        self,
        beams: int = BEAMS,
        maximum_tokens: int = MAXIMUM_TOKENS,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 4,
    ) -> None:
        super().__init__(device, dtype, batch_size)
        self.beams, self.maximum_tokens = beams, maximum_tokens

    @property
    def settings(self) -> dict[str, Any]:
        """The weights, the task, the beams of the search, and the most new tokens."""
        own = {"task": TASK, "beams": self.beams, "maximum_tokens": self.maximum_tokens}
        return {**super().settings, **own}

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """The regions of each image."""
        rgb = [image.convert("RGB") for image in images]
        return [found for batch in chunks(rgb, self.batch_size) for found in self._annotate(batch)]

    def _annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        import torch

        network, processor = self.parts
        inputs = processor(text=[TASK] * len(images), images=list(images), return_tensors="pt")
        inputs = inputs.to(network.device, network.dtype)
        with torch.inference_mode():
            written = network.generate(
                **inputs, do_sample=False, num_beams=self.beams, max_new_tokens=self.maximum_tokens
            )
            hidden = network.model(**inputs, decoder_input_ids=written[:, :-1])[0]
            return [
                ExpertOutput(regions=self._regions(image, tokens[1:], self._sure(states, tokens[1:])))
                for image, tokens, states in zip(images, written, hidden, strict=True)
            ]

    def _sure(self, states: Any, tokens: Any) -> list[float]:
        """Log probability of each of T tokens, from the decoder's states `[T, width]` before it."""
        logits = self.parts[0].lm_head(states).float()
        return logits.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0].tolist()

    def _regions(self, image: Image.Image, tokens: Any, sure: Sequence[float]) -> tuple[Region, ...]:
        _, processor = self.parts
        regions = []
        for phrase in self._phrases(tokens.tolist()):
            text = processor.tokenizer.decode(tokens[phrase], skip_special_tokens=False)
            found = processor.post_process_generation(text=text, task=TASK, image_size=image.size)[TASK]
            score = min(1.0, math.exp(sum(sure[i] for i in phrase) / len(phrase)))
            for box, label in zip(found["bboxes"], found["labels"], strict=True):
                if label and box[0] < box[2] and box[1] < box[3]:
                    regions.append(Region(box=tuple(box), text=label, score=score, expert=self.name))
        return tuple(regions)

    def _phrases(self, tokens: Sequence[int]) -> list[list[int]]:
        """Places of the tokens of each phrase with its corners: words, then locations."""
        tokenizer = self.parts[1].tokenizer
        silent = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        phrases: list[list[int]] = []
        located = True
        for place, (token, name) in enumerate(
            zip(tokens, tokenizer.convert_ids_to_tokens(list(tokens)), strict=True)
        ):
            if token in silent:
                continue
            location = bool(_LOCATION.fullmatch(name))
            if located and not location:
                phrases.append([])
            if phrases:
                phrases[-1].append(place)
            located = location
        return phrases
