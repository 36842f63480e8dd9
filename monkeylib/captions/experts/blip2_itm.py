"""How well texts fit crops: BLIP-2's image-text matching head (the paper's matcher)."""

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from monkeylib.captions.experts.base import Matcher
from monkeylib.captions.experts.pretrained import Pretrained, chunks

MAXIMUM_WORDS = 50  # LAVIS's caption processor
MAXIMUM_TOKENS = 32  # LAVIS's model


def clean(text: str) -> str:
    """A text as LAVIS gives it to BLIP-2: lower case, no marks, single blanks, at most fifty words."""
    return " ".join(re.sub(r'[.!"()*#:;~]', " ", text.lower()).split()[:MAXIMUM_WORDS])


class Blip2Matcher(Pretrained, Matcher):
    """The probability that a text belongs to a crop, by the matching head.

    The release asks about one pair at a time and opens the picture anew for each; here pairs are batched,
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
        return {**super().settings, "maximum_words": MAXIMUM_WORDS, "maximum_tokens": MAXIMUM_TOKENS}

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
            list(texts), padding=True, truncation=True, max_length=MAXIMUM_TOKENS, return_tensors="pt"
        )
        ids, mask = words.input_ids, words.attention_mask
        if (placeholder := network.config.image_token_id) is not None:
            shape = (len(texts), network.config.num_query_tokens)
            ids = torch.cat([torch.full(shape, placeholder), ids], dim=1)
            mask = torch.cat([torch.ones(shape, dtype=mask.dtype), mask], dim=1)
        return {"input_ids": ids, "attention_mask": mask}
