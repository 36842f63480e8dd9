"""Answering many questions per image with the image encoded once."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from monkeylib.digests import weights_digest
from monkeylib.evaluation.examples import Example
from monkeylib.inference import Monkey
from monkeylib.processing import open_image


class SharedEncoding:
    """Answers examples greedily with a Monkey, each image encoded once for all its questions.

    Where a batch asks at least two questions of each image, as a rule, the language model reads the image
    once for them too, and the questions go on from its keys and values.

    The model is put in evaluation mode. Answers equal those of asking one question at a time.
    """

    def __init__(self, monkey: Monkey, max_new_tokens: int = 64) -> None:
        self.model, self.processor = monkey.model.eval(), monkey.processor
        self.max_new_tokens = max_new_tokens
        self._encoded: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """One answer for each example of a batch."""
        processor, tokenizer = self.processor, self.processor.tokenizer
        self._encode(examples)
        layout = processor.layout
        asked = [layout.question_ids(example.question, example.prompt) for example in examples]
        cache = self._read(examples, max(map(len, asked)))
        ids, mask, visual = self._inputs(examples, asked, padded_first=cache is None)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            **(visual if cache is None else {"past_key_values": cache}),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        new = output[:, ids.shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _inputs(
        self, examples: Sequence[Example], asked: Sequence[list[int]], padded_first: bool
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Ids and mask `[B, T]` of image and question, and the visual tokens of the whole batch.

        The padding comes before the image, or between image and question where the image has been read.
        """
        span = self.processor.layout.prefix_ids([self.processor.visual_tokens()])
        rows = [[*span, *ids] for ids in asked] if padded_first else asked
        padded = self.processor.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        ids, mask = padded["input_ids"], padded["attention_mask"]
        if not padded_first:
            images = torch.tensor(span).expand(len(ids), -1)
            ids, mask = torch.cat([images, ids], 1), torch.cat([torch.ones_like(images), mask], 1)
        tokens = torch.cat([self._encoded[example.key] for example in examples])
        return ids.to(self.model.device), mask.to(self.model.device), _visual(tokens)

    def _read(self, examples: Sequence[Example], longest: int) -> DynamicCache | None:
        """Keys and values of each row's image, read once for all of its questions; None where that isn't
        worth the memory, or where a language model reads the image differently before a long question."""
        keys = list(dict.fromkeys(example.key for example in examples))
        span = self.processor.layout.prefix_ids([self.processor.visual_tokens()])
        limit = getattr(self.model.config.text_config, "trained_length", math.inf)
        if 2 * len(keys) > len(examples) or len(span) + longest > limit:
            return None
        ids = torch.tensor([span], device=self.model.device)
        read = [
            self.model(ids, **_visual(self._encoded[key]), use_cache=True, logits_to_keep=1) for key in keys
        ]
        layers = [output.past_key_values.layers for output in read]
        if any(type(layer) is not DynamicLayer for layer in layers[0]):
            return None  # sliding windows and states of other kinds can't be put together like this
        places = torch.tensor([keys.index(example.key) for example in examples], device=self.model.device)
        return DynamicCache(
            (torch.cat([one.keys for one in each])[places], torch.cat([one.values for one in each])[places])
            for each in zip(*layers, strict=True)
        )

    def _encode(self, examples: Sequence[Example]) -> None:
        """Visual tokens `[views, queries, width]` of the batch's images; those of the last batch are kept."""
        first = {example.key: example for example in reversed(examples)}
        self._encoded = {key: tokens for key, tokens in self._encoded.items() if key in first}
        for key, example in first.items():
            if key not in self._encoded:
                views = self.processor.image_processor(open_image(example.rendered_image)).to(
                    self.model.device
                )
                self._encoded[key] = self.model.get_image_features(views["pixel_values"], views["grids"])


def _visual(tokens: torch.Tensor) -> dict[str, Any]:
    """Visual tokens `[views, queries, width]` as the model's `generate` and `forward` take them."""
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=tokens)}}


def identity(monkey: Monkey, max_new_tokens: int) -> str:
    """Fingerprint of weights, views and settings, by which predictions of models are told apart."""
    image = monkey.processor.image_processor
    views = [image.tile_size, image.rows, image.cols, image.views, image.global_from, image.resize_mode]
    settings = [*views, monkey.processor.opening, monkey.processor.separator, max_new_tokens]
    return fingerprint(monkey.model, settings)


def fingerprint(model: torch.nn.Module, settings: Sequence[object]) -> str:
    """Return sixteen letters that differ where settings or weights do."""
    return weights_digest(model.state_dict(), settings)[:16]
