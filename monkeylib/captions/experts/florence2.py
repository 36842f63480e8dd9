"""Dense region captions by Florence-2: a stand-in for GRIT with weights on the Hugging Face hub."""

import math
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from monkeylib.captions.annotations import ExpertOutput, Region
from monkeylib.captions.experts.pretrained import Pretrained, batches
from monkeylib.captions.models import Expert
from monkeylib.captions.registry import register_expert

TASK = "<DENSE_REGION_CAPTION>"
BEAMS = 3  # as its authors run it
MAXIMUM_TOKENS = 1024  # as its authors run it
_LOCATION = re.compile(r"<loc_\d+>")


@register_expert("florence2")
class Florence2Regions(Pretrained, Expert):
    """Regions with a phrase each, in the order in which Florence-2 generates them.

    Florence-2 reports no scores. The score of a region is here the geometric mean of the probabilities of
    the tokens of its phrase and corners, from one more pass of the decoder over what it generated.
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
        """The weights, the task, the number of beams, and the maximum number of new tokens."""
        generation = {"task": TASK, "beams": self.beams, "maximum_tokens": self.maximum_tokens}
        return {**super().settings, **generation}

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return the regions of each image."""
        annotations = []
        for batch in batches(images, self.batch_size):
            annotations += self._annotate_batch([image.convert("RGB") for image in batch])
        return annotations

    def _annotate_batch(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        import torch

        network, processor = self.parts
        inputs = processor(text=[TASK] * len(images), images=list(images), return_tensors="pt")
        inputs = inputs.to(network.device, network.dtype)

        annotations = []
        with torch.inference_mode():
            generated = network.generate(
                **inputs, do_sample=False, num_beams=self.beams, max_new_tokens=self.maximum_tokens
            )  # [B, T + 1], the first token starts the decoder
            states = network.model(**inputs, decoder_input_ids=generated[:, :-1])[0]  # [B, T, width]

            for image, token_ids, image_states in zip(images, generated[:, 1:], states, strict=True):
                log_probabilities = self._log_probabilities(image_states, token_ids)
                annotations.append(ExpertOutput(regions=self._regions(image, token_ids, log_probabilities)))

        return annotations

    def _log_probabilities(self, states: Any, token_ids: Any) -> list[float]:
        """Return the log probability of each of T tokens, from the decoder states `[T, width]` before it."""
        logits = self.parts[0].lm_head(states).float()  # [T, vocabulary]
        return logits.log_softmax(dim=-1).gather(1, token_ids[:, None])[:, 0].tolist()

    def _regions(
        self, image: Image.Image, token_ids: Any, log_probabilities: Sequence[float]
    ) -> tuple[Region, ...]:
        _, processor = self.parts
        regions = []

        for positions in self._phrases(token_ids.tolist()):
            mean_log = sum(log_probabilities[i] for i in positions) / len(positions)
            score = min(1.0, math.exp(mean_log))

            # transformers turns the location tokens of one phrase into boxes in pixels.
            text = processor.tokenizer.decode(token_ids[positions], skip_special_tokens=False)
            parsed = processor.post_process_generation(text=text, task=TASK, image_size=image.size)[TASK]
            for box, label in zip(parsed["bboxes"], parsed["labels"], strict=True):
                if label and box[0] < box[2] and box[1] < box[3]:
                    regions.append(Region(box=tuple(box), text=label, score=score, expert=self.name))

        return tuple(regions)

    def _phrases(self, token_ids: Sequence[int]) -> list[list[int]]:
        """Return the positions of the tokens of each phrase: its words, then the locations of its boxes."""
        tokenizer = self.parts[1].tokenizer
        special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        tokens = tokenizer.convert_ids_to_tokens(list(token_ids))

        phrases: list[list[int]] = []
        after_location = True
        for position, (token_id, token) in enumerate(zip(token_ids, tokens, strict=True)):
            if token_id in special:
                continue

            # A word after a location begins the next phrase.
            is_location = bool(_LOCATION.fullmatch(token))
            if after_location and not is_location:
                phrases.append([])
            if phrases:
                phrases[-1].append(position)
            after_location = is_location

        return phrases
