"""Prefix sharing: an image with many questions is encoded once and read once by the language model.

Prompts about the same image share a prefix (`PromptLayout.prefix_ids`). Its keys and values are computed once
per image, and shared by the questions (`model.shared_prefix`).
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from monkeylib.digests import weights_digest
from monkeylib.evaluation.examples import Example
from monkeylib.images import ImageInput
from monkeylib.model.answers import Answer
from monkeylib.model.context import check_context
from monkeylib.model.generation import generate
from monkeylib.model.shared_prefix import share_prefixes
from monkeylib.monkey import Monkey
from monkeylib.prompts import PROMPTS


class PrefixSharingMonkey:
    """A Monkey that answers batches of examples greedily, each image encoded once for all its questions.

    Where a batch has two questions per image or more on average, the language model also reads each image
    once, and the questions continue from its keys and values. Answers equal those to one question at a time.

    The model is put in evaluation mode.

    Attributes:
        templates: the text that follows the image in each prompt, by its name; `{question}` in it stands for
            the question.
    """

    def __init__(self, monkey: Monkey, max_new_tokens: int = 64) -> None:
        self.monkey = monkey
        self.model = monkey.model.eval()
        self.processor = monkey.processor
        self.grid = monkey.grid
        self.max_new_tokens = max_new_tokens

        self.layout = self.processor.layout

        self.templates: dict[str, str] = {}
        for name, template in PROMPTS.items():
            separator = self.processor.separator if template.takes_separator else ""
            self.templates[name] = separator + template.text

        # Visual tokens `[views, queries, width]` of the last batch's images, by `Example.image_key`.
        self._visual_tokens: dict[str, Tensor] = {}

    @cached_property
    def name(self) -> str:
        """The Monkey's fingerprint, which is stored with its predictions."""
        return monkey_fingerprint(self.monkey, self.max_new_tokens)

    @torch.no_grad()
    def __call__(self, examples: Sequence[Example]) -> list[Answer]:
        """Return one answer for each example of a batch.

        Raises:
            ValueError: a question that does not fit into the model's context beside its image and answer.
        """
        image_keys = [example.image_key for example in examples]
        new_images = self._select_new_images(examples)
        questions = [self.layout.question_ids(example.question, example.prompt) for example in examples]

        # Views that `prepare_image` has made already, and images that the Monkey may have encoded before.
        views_of_images, opened = {}, {}
        for key, image in new_images.items():
            if isinstance(image, BatchFeature):
                views_of_images[key] = image
            else:
                opened[key] = self.processor.image_processor.open(image)

        # Of an automatic grid, the number of visual tokens depends on the image.
        num_tokens = {key: tokens.shape[:2].numel() for key, tokens in self._visual_tokens.items()}
        for key, views in views_of_images.items():
            num_tokens[key] = len(views["pixel_values"]) * self.processor.queries
        for key, image in opened.items():
            num_tokens[key] = self.processor.visual_tokens(self.monkey.select_grid(image.size, self.grid))
        prefixes = {key: self.layout.prefix_ids([count]) for key, count in num_tokens.items()}

        # Before images are encoded, which takes longer.
        lengths = [
            len(prefixes[key]) + len(question) for key, question in zip(image_keys, questions, strict=True)
        ]
        check_context(self.model, lengths, [num_tokens[key] for key in image_keys], self.max_new_tokens)

        # Image by image, so that visual tokens don't depend on the other images of the batch.
        for key, views in views_of_images.items():
            views = views.to(self.model.device)
            self._visual_tokens[key] = self.model.get_image_features(views["pixel_values"], views["grids"])
        if opened:
            encoded = self.monkey.encode(list(opened.values()), self.grid)
            tokens = [image.visual_tokens for image in encoded]
            self._visual_tokens |= dict(zip(opened, tokens, strict=True))

        layers = None
        if self._shares_prefix(len(examples), prefixes, max(lengths)):
            layers = self._prefill(prefixes)

        if layers is None:
            # Full prompts, with the visual tokens of each example's image [views, queries, width].
            rows = [prefixes[key] + question for key, question in zip(image_keys, questions, strict=True)]
            input_ids, mask = self._pad(rows)
            visual_tokens = torch.cat([self._visual_tokens[key] for key in image_keys])
            return self._generate(input_ids, mask, visual_inputs(visual_tokens))

        # The prefix is in the cache already, so the padding stands between it and the question.
        question_ids, question_mask = self._pad(questions)
        prefix_ids = torch.tensor([prefixes[key] for key in image_keys], device=self.model.device)
        input_ids = torch.cat([prefix_ids, question_ids], dim=1)
        mask = torch.cat([torch.ones_like(prefix_ids), question_mask], dim=1)

        images = list(prefixes)
        image_of_row = [images.index(key) for key in image_keys]
        with share_prefixes(self.model.language_model, layers, image_of_row) as cache:
            return self._generate(input_ids, mask, {"past_key_values": cache})

    def _generate(self, input_ids: Tensor, mask: Tensor, state: Mapping[str, Any]) -> list[Answer]:
        inputs = {"input_ids": input_ids, "attention_mask": mask, **state}
        return generate(self.model, self.processor.tokenizer, inputs, self.max_new_tokens)

    def prepare_image(self, image: ImageInput) -> BatchFeature:
        """Open an image and return its views; safe beside a call that answers.

        Raises:
            ImageError: it cannot be read.
            ValueError: it can have no such grid.
        """
        return self.processor.image_processor(image, self.grid)

    def _select_new_images(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the batch's images that have no visual tokens yet, and drop the tokens of all others."""
        by_key: dict[str, Example] = {}
        for example in examples:
            by_key.setdefault(example.image_key, example)

        # Batches keep the questions of an image together, so at most the last batch shares an image.
        self._visual_tokens = {key: tokens for key, tokens in self._visual_tokens.items() if key in by_key}
        new = [key for key in by_key if key not in self._visual_tokens]
        return {key: by_key[key].rendered_image for key in new}

    def _shares_prefix(self, questions: int, prefixes: Mapping[str, list[int]], max_length: int) -> bool:
        """Return whether the language model should read each image once.

        It is not worth the memory for fewer than two questions per image, and prefixes of different lengths
        make no cache. And a language model that rescales positions beyond its trained length reads an image
        differently before a long question.
        """
        trained_length = getattr(self.model.config.text_config, "trained_length", math.inf)
        has_one_length = len({len(prefix) for prefix in prefixes.values()}) == 1
        return has_one_length and 2 * len(prefixes) <= questions and max_length <= trained_length

    def _prefill(self, prefixes: Mapping[str, list[int]]) -> list[tuple[Tensor, Tensor]] | None:
        """Return the keys and values `[images, heads, T, head_dim]` of the prefixes in each layer.

        Args:
            prefixes: the prefix of each image, all of one length.

        Returns:
            None if a layer caches something else, such as a sliding window, which cannot be shared like this.
        """
        caches = []
        for key, prefix in prefixes.items():
            input_ids = torch.tensor([prefix], device=self.model.device)
            output = self.model(
                input_ids, **visual_inputs(self._visual_tokens[key]), use_cache=True, logits_to_keep=1
            )
            caches.append(output.past_key_values)

        # Every image has the same layers, so the first cache decides.
        if any(type(layer) is not DynamicLayer for layer in caches[0].layers):
            return None

        return [
            (torch.cat([layer.keys for layer in layers]), torch.cat([layer.values for layer in layers]))
            for layers in zip(*(cache.layers for cache in caches), strict=True)
        ]

    def _pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return ids and attention mask `[B, T]`, padded on the left."""
        padded = self.processor.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        device = self.model.device
        return padded["input_ids"].to(device), padded["attention_mask"].to(device)


def visual_inputs(visual_tokens: Tensor) -> dict[str, Any]:
    """Return visual tokens `[views, queries, width]` as the model's `generate` and `forward` take them."""
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=visual_tokens)}}


def monkey_fingerprint(monkey: Monkey, max_new_tokens: int) -> str:
    """Return a fingerprint of weights, views and settings, which is stored with a model's predictions."""
    # Everything besides the weights that changes an answer.
    images = monkey.processor.image_processor
    settings = [
        images.tile_size,
        images.rows,
        images.cols,
        images.views,
        images.global_from,
        images.resize_mode,
        monkey.processor.prompt_prefix,
        monkey.processor.separator,
        max_new_tokens,
    ]
    # Fingerprints of earlier versions, which had fixed grids alone, stay valid.
    if images.max_tiles is not None:
        settings.append(images.max_tiles)
    if images.tile_overlap:
        settings.append(f"overlap {images.tile_overlap}")
    if not images.exact:
        settings.append("bytes")
    # Averaging visual tokens shows in no weight.
    if monkey.model.config.resampler_config.pooling != 1:
        settings.append(f"pooling {monkey.model.config.resampler_config.pooling}")
    if monkey.grid is not None:
        settings.append(repr(monkey.grid))
    return model_fingerprint(monkey.model, settings)


def model_fingerprint(model: torch.nn.Module, settings: Sequence[object]) -> str:
    """Return a fingerprint of 16 hexadecimal digits of weights and settings."""
    return weights_digest(model.state_dict(), settings)[:16]
