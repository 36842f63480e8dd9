"""Captions by BLIP-2 with OPT-2.7b, of images and of segments (the paper's captioner)."""

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from monkeylib.captions.annotations import Caption, ExpertOutput
from monkeylib.captions.experts.base import Expert, ImageTextMatcher, RegionCaptioner
from monkeylib.captions.experts.pretrained import Pretrained, chunks

MAXIMUM_TOKENS = 30  # release: max_length, of images and of segments
BEAMS = 5  # LAVIS's default, which the release uses for images
SEGMENT_BEAMS = 1  # release, segments


class _Blip2(Pretrained):
    """BLIP-2 that continues an empty prompt until a line ends, as LAVIS runs its `pretrain_opt2.7b`."""

    # All sizes of OPT have this licence, not only the largest (facebookresearch/metaseq, issues 587 and 611).
    licence = "MIT, its language model OPT-2.7b: the OPT licence (research, not commercial)"
    hub = "Salesforce/blip2-opt-2.7b"
    revision = "59a1ef6c1e5117b3f65523d1c6066825bcf315e3"
    network = "Blip2ForConditionalGeneration"
    processor = "Blip2Processor"
    precision = "float16"
    gpu_share = 0.5

    def __init__(
        self, beams: int, maximum_tokens: int, device: str = "auto", dtype: str = "auto", batch_size: int = 8
    ) -> None:
        super().__init__(device, dtype, batch_size)
        self.beams, self.maximum_tokens = beams, maximum_tokens

    @property
    def settings(self) -> dict[str, Any]:
        """The weights, the beams of the search, and the most new tokens."""
        return {**super().settings, "beams": self.beams, "maximum_tokens": self.maximum_tokens}

    def caption(self, images: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """A caption of each RGB image, and the geometric mean of its tokens' probabilities."""
        return [said for batch in chunks(images, self.batch_size) for said in self._caption(batch)]

    def _caption(self, images: Sequence[Image.Image]) -> list[tuple[str, float]]:
        import torch

        network, processor = self.parts
        tokenizer = processor.tokenizer
        prompt = [network.config.image_token_id] * network.config.num_query_tokens
        prompt = torch.tensor([[*prompt, tokenizer.bos_token_id]] * len(images), device=network.device)
        pixels = processor.image_processor(images=list(images), return_tensors="pt").pixel_values
        ends = sorted({*tokenizer("\n", add_special_tokens=False).input_ids, tokenizer.eos_token_id})
        written = network.generate(
            pixel_values=pixels.to(network.device, network.dtype),
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            num_beams=self.beams,
            max_new_tokens=self.maximum_tokens,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        new = written.sequences[:, prompt.shape[1] :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        confidence = self._confidence(written, new, ends)
        return [(" ".join(text.split()), sure) for text, sure in zip(texts, confidence, strict=True)]

    def _confidence(self, written: Any, new: Any, ends: Sequence[int]) -> list[float]:
        """Means over each caption's tokens `[B, T]`, its end included; beams come with theirs."""
        import torch

        if self.beams > 1:
            means = written.sequences_scores.float()
        else:
            network = self.parts[0].language_model
            steps = network.compute_transition_scores(
                written.sequences, written.scores, normalize_logits=True
            ).float()
            ended = torch.isin(new, torch.tensor(ends, device=new.device)).cumsum(dim=1)
            ended = ended - torch.isin(new, torch.tensor(ends, device=new.device)).long()  # after the end
            own = ended == 0
            means = steps.masked_fill(~own, 0).sum(dim=1) / own.sum(dim=1)
        return [min(1.0, float(value)) for value in means.exp()]


class Blip2Captions(_Blip2, Expert):
    """A caption of the whole image: beam search of width 5, as in the release."""

    name = "blip2"

    def __init__(
        self,
        beams: int = BEAMS,
        maximum_tokens: int = MAXIMUM_TOKENS,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 8,
    ) -> None:
        super().__init__(beams, maximum_tokens, device, dtype, batch_size)

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """The caption of each image; none where BLIP-2 ends at once."""
        return [
            ExpertOutput(captions=(Caption(text=text, expert=self.name, score=sure),) if text else ())
            for text, sure in self.caption([image.convert("RGB") for image in images])
        ]


class Blip2Segments(_Blip2, RegionCaptioner):
    """Captions of segments: greedy, as in the release."""

    name = "blip2"

    def __init__(
        self,
        beams: int = SEGMENT_BEAMS,
        maximum_tokens: int = MAXIMUM_TOKENS,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 32,
    ) -> None:
        super().__init__(beams, maximum_tokens, device, dtype, batch_size)

    def describe(self, crops: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """A caption and its confidence for each crop."""
        return self.caption([crop.convert("RGB") for crop in crops])


MAXIMUM_WORDS = 50  # LAVIS's caption processor
ITM_MAXIMUM_TOKENS = 32  # LAVIS's model


def clean(text: str) -> str:
    """A text as LAVIS gives it to BLIP-2: lower case, no marks, single blanks, at most fifty words."""
    return " ".join(re.sub(r'[.!"()*#:;~]', " ", text.lower()).split()[:MAXIMUM_WORDS])


class Blip2Matcher(Pretrained, ImageTextMatcher):
    """The probability that a text belongs to a crop, by the matching head.

    The release asks about one pair at a time and opens the image anew for each; here pairs are batched,
    and a crop object that comes with several texts is prepared once.
    """

    name = "blip2-itm"
    licence = "MIT"
    hub = "Salesforce/blip2-itm-vit-g"
    revision = "520bf73fd0ef6ccce791cd3f06908040aef2d8cc"
    network = "Blip2ForImageTextRetrieval"
    processor = "Blip2Processor"
    precision = "float16"
    gpu_share = 0.25

    def __init__(self, device: str = "auto", dtype: str = "auto", batch_size: int = 64) -> None:
        super().__init__(device, dtype, batch_size)

    @property
    def settings(self) -> dict[str, Any]:
        """The weights, and the most words and tokens of a text."""
        return {**super().settings, "maximum_words": MAXIMUM_WORDS, "maximum_tokens": ITM_MAXIMUM_TOKENS}

    def match(self, crops: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """The probability of each pair, 0..1.

        Raises:
            ValueError: not one text for each crop.
        """
        if len(crops) != len(texts):
            raise ValueError(f"Matching takes one text for each crop, got {len(texts)} for {len(crops)}.")
        pairs = list(zip(crops, texts, strict=True))
        return [value for batch in chunks(pairs, self.batch_size) for value in self._match(*zip(*batch))]  # noqa: B905

    def _match(self, crops: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        import torch

        network, processor = self.parts
        unique = list({id(crop): crop for crop in crops}.values())
        place = {id(crop): index for index, crop in enumerate(unique)}
        pixels = processor.image_processor(
            images=[crop.convert("RGB") for crop in unique], return_tensors="pt"
        ).pixel_values[[place[id(crop)] for crop in crops]]
        words = self._words([clean(text) for text in texts])
        with torch.inference_mode():
            logits = network(
                pixel_values=pixels.to(network.device, network.dtype),
                **{name: value.to(network.device) for name, value in words.items()},
                use_image_text_matching_head=True,
            ).logits_per_image
        return logits.float().softmax(dim=-1)[:, 1].tolist()

    def _words(self, texts: Sequence[str]) -> dict[str, Any]:
        """Token ids and mask `[B, T]`, after a placeholder for each query if the weights have one."""
        import torch

        network, processor = self.parts
        words = processor.tokenizer(
            list(texts), padding=True, truncation=True, max_length=ITM_MAXIMUM_TOKENS, return_tensors="pt"
        )
        ids, mask = words.input_ids, words.attention_mask
        if (placeholder := network.config.image_token_id) is not None:
            shape = (len(texts), network.config.num_query_tokens)
            ids = torch.cat([torch.full(shape, placeholder), ids], dim=1)
            mask = torch.cat([torch.ones(shape, dtype=mask.dtype), mask], dim=1)
        return {"input_ids": ids, "attention_mask": mask}
