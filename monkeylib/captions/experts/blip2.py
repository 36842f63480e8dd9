"""BLIP-2: captions of images and of segments, and image-text matching (the paper's captioner and matcher).

Captions come from BLIP-2 with OPT-2.7b as the language model, matching scores from BLIP-2's own matching head
(ITM). Both run as LAVIS, the library of the released data generation, runs them.
"""

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from monkeylib.captions.annotations import Caption, ExpertOutput
from monkeylib.captions.experts.pretrained import Pretrained, batches
from monkeylib.captions.models import Expert, ImageTextMatcher, RegionCaptioner
from monkeylib.captions.registry import register_expert, register_matcher

MAXIMUM_TOKENS = 30  # released code: max_length, of images and of segments
BEAMS = 5  # LAVIS's default, which the released code uses for images
SEGMENT_BEAMS = 1  # released code, segments


class _Blip2Captioner(Pretrained):
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
        """The weights, the number of beams, and the maximum number of new tokens."""
        return {**super().settings, "beams": self.beams, "maximum_tokens": self.maximum_tokens}

    def caption(self, images: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """Return a caption of each image or crop, and the geometric mean of its tokens' probabilities."""
        captions = []
        for batch in batches(images, self.batch_size):
            captions += self._caption_batch([image.convert("RGB") for image in batch])
        return captions

    def _caption_batch(self, images: Sequence[Image.Image]) -> list[tuple[str, float]]:
        import torch

        network, processor = self.parts
        tokenizer = processor.tokenizer

        # The prompt holds a placeholder for each query of the Q-Former, then OPT's beginning of text.
        placeholders = [network.config.image_token_id] * network.config.num_query_tokens
        prompt = torch.tensor(
            [[*placeholders, tokenizer.bos_token_id]] * len(images), device=network.device
        )  # [B, queries + 1]
        pixels = processor.image_processor(images=list(images), return_tensors="pt").pixel_values

        # A caption ends with its line, or with the text.
        newline = tokenizer("\n", add_special_tokens=False).input_ids
        end_tokens = sorted({*newline, tokenizer.eos_token_id})

        generation = network.generate(
            pixel_values=pixels.to(network.device, network.dtype),
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            num_beams=self.beams,
            max_new_tokens=self.maximum_tokens,
            eos_token_id=end_tokens,
            pad_token_id=tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )

        new_tokens = generation.sequences[:, prompt.shape[1] :]  # [B, T]
        texts = tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
        confidences = self._confidences(generation, new_tokens, end_tokens)
        return [(" ".join(text.split()), score) for text, score in zip(texts, confidences, strict=True)]

    def _confidences(self, generation: Any, new_tokens: Any, end_tokens: Sequence[int]) -> list[float]:
        """Return the geometric mean of token probabilities of each caption, its end token included.

        exp(1/T * sum_t log p(token_t))
        """
        import torch

        if self.beams > 1:
            # Beam search has the mean log probability of each caption already.
            mean_logs = generation.sequences_scores.float()
        else:
            log_probabilities = (
                self.parts[0]
                .language_model.compute_transition_scores(
                    generation.sequences, generation.scores, normalize_logits=True
                )
                .float()
            )  # [B, T]

            # Captions of a batch are padded: leave out what comes after a caption's first end token.
            is_end = torch.isin(new_tokens, torch.tensor(end_tokens, device=new_tokens.device))
            ends_before = is_end.cumsum(dim=1) - is_end.long()
            in_caption = ends_before == 0
            mean_logs = log_probabilities.masked_fill(~in_caption, 0).sum(dim=1) / in_caption.sum(dim=1)

        return [min(1.0, float(value)) for value in mean_logs.exp()]


@register_expert("blip2", sets={"paper": 1})
class Blip2Captions(_Blip2Captioner, Expert):
    """Captions of full images: beam search of width 5, as in the released code."""

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
        """Return the caption of each image; none where BLIP-2 ends at once."""
        annotations = []
        for text, score in self.caption(images):
            captions = (Caption(text=text, expert=self.name, score=score),) if text else ()
            annotations.append(ExpertOutput(captions=captions))
        return annotations


class Blip2Segments(_Blip2Captioner, RegionCaptioner):
    """Captions of segments: greedy decoding, as in the released code."""

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


ITM_MAXIMUM_WORDS = 50  # LAVIS's caption processor
ITM_MAXIMUM_TOKENS = 32  # LAVIS's model


def clean(text: str) -> str:
    """Return a text as LAVIS gives it to BLIP-2's matcher: lower case, without marks, at most fifty words."""
    words = re.sub(r'[.!"()*#:;~]', " ", text.lower()).split()
    return " ".join(words[:ITM_MAXIMUM_WORDS])


@register_matcher("blip2-itm", sets=("paper",))
class Blip2Matcher(Pretrained, ImageTextMatcher):
    """The probability that a text belongs to a crop, by BLIP-2's image-text matching head.

    The released code scores one pair at a time and opens the image again for each. Here pairs are batched,
    and a crop object that comes with several texts is preprocessed once.
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
        """The weights, and the maximum numbers of words and tokens of a text."""
        limits = {"maximum_words": ITM_MAXIMUM_WORDS, "maximum_tokens": ITM_MAXIMUM_TOKENS}
        return {**super().settings, **limits}

    def match(self, crops: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """Return the probability of each pair, 0..1.

        Raises:
            ValueError: there is not one text for each crop.
        """
        if len(crops) != len(texts):
            raise ValueError(f"Matching takes one text for each crop, got {len(texts)} for {len(crops)}.")

        scores = []
        for start in range(0, len(crops), self.batch_size):
            end = start + self.batch_size
            scores += self._match_batch(crops[start:end], texts[start:end])

        return scores

    def _match_batch(self, crops: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        import torch

        network, processor = self.parts

        # Preprocess each crop object once, then repeat its pixels for each of its texts.
        unique_crops = list({id(crop): crop for crop in crops}.values())
        index_of = {id(crop): index for index, crop in enumerate(unique_crops)}
        pixels = processor.image_processor(
            images=[crop.convert("RGB") for crop in unique_crops], return_tensors="pt"
        ).pixel_values
        pixels = pixels[[index_of[id(crop)] for crop in crops]]  # [B, 3, H, W]

        tokens = self._tokenize([clean(text) for text in texts])
        with torch.inference_mode():
            logits = network(
                pixel_values=pixels.to(network.device, network.dtype),
                **{name: value.to(network.device) for name, value in tokens.items()},
                use_image_text_matching_head=True,
            ).logits_per_image  # [B, 2]: no match, match

        return logits.float().softmax(dim=-1)[:, 1].tolist()

    def _tokenize(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return ids and mask `[B, T]`, behind a placeholder for each query if the weights have one."""
        import torch

        network, processor = self.parts
        tokens = processor.tokenizer(
            list(texts), padding=True, truncation=True, max_length=ITM_MAXIMUM_TOKENS, return_tensors="pt"
        )
        ids, mask = tokens.input_ids, tokens.attention_mask

        placeholder = network.config.image_token_id
        if placeholder is not None:
            shape = (len(texts), network.config.num_query_tokens)
            ids = torch.cat([torch.full(shape, placeholder), ids], dim=1)
            mask = torch.cat([torch.ones(shape, dtype=mask.dtype), mask], dim=1)

        return {"input_ids": ids, "attention_mask": mask}
