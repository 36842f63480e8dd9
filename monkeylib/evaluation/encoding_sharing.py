"""Encoding sharing: a raised model encodes an image with many questions once.

Unlike Monkey in `prefix_sharing`, its language model reads the image with each question: where an image
stands in a prompt is up to the base's chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from transformers import BatchFeature

from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import model_fingerprint
from monkeylib.images import open_image
from monkeylib.messages import ImagePart, Message
from monkeylib.model.answers import Answer
from monkeylib.model.context import check_context, count_visual_tokens
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.raising.encodings import EncodedViews, can_share, encode_views, join_encodings


class EncodingSharingRaised:
    """A raised model that answers batches of examples greedily, each image encoded once for its questions.

    Families whose encoding depends on the question (InstructBLIP), or that generate in a way of their own
    (BLIP-2, Janus, Kosmos-2), encode it with each question.

    Attributes:
        templates: the text of each prompt by its name, with `{question}` for the question.
    """

    def __init__(self, monkey: RaisedMonkey, max_new_tokens: int = 64) -> None:
        self.monkey = monkey
        self.model = monkey.model.eval()
        self.conversations = monkey.conversations
        self.max_new_tokens = max_new_tokens
        self.templates = self.conversations.templates

        self.shares = can_share(self.model)

        # Grid and encoding of the last batch's images, by `Example.image_key`.
        self._encoded: dict[str, EncodedViews] = {}

    @cached_property
    def name(self) -> str:
        """Fingerprint of weights, grid, prompts and settings, stored with the model's predictions."""
        settings = [
            self.model.raising_settings.to_json(),
            self.monkey.grid,
            getattr(self.monkey.processor, "chat_template", None),
            self.templates,
            self.max_new_tokens,
        ]
        return model_fingerprint(self.model, [repr(setting) for setting in settings])

    @torch.no_grad()
    def __call__(self, examples: Sequence[Example]) -> list[Answer]:
        """Return one answer for each example of a batch.

        Raises:
            ValueError: a question that does not fit into the model's context beside its image and answer.
        """
        if not self.shares:
            inputs = self.monkey.prepare_conversations([self._messages(example) for example in examples])
            return self.monkey.generate(inputs, self.max_new_tokens)

        self._encode_new_images(examples)
        encoded = [self._encoded[example.image_key] for example in examples]
        conversations = [self._messages(example, with_image=False) for example in examples]
        inputs = self.conversations.prepare_texts(conversations, [[grid] for grid, _ in encoded])
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        visual_tokens = count_visual_tokens(self.model, inputs["input_ids"])
        check_context(self.model, lengths, visual_tokens, self.max_new_tokens)

        inputs = BatchFeature(inputs).to(self.model.device, self.model.dtype)
        inputs["mm_encoder_outputs"] = {"image": join_encodings([output for _, output in encoded])}
        return self.monkey.generate(inputs, self.max_new_tokens)

    def _messages(self, example: Example, with_image: bool = True) -> list[Message]:
        """Return the conversation of an example; without its image, nothing is opened."""
        image = ImagePart(example.rendered_image if with_image else None)
        return self.conversations.wrap([Message("user", (image, example.question))], example.prompt)

    def _encode_new_images(self, examples: Sequence[Example]) -> None:
        """Encode the images that the last batch had not, and drop the others."""
        # Batches keep the questions of an image together, so at most the last batch shares an image.
        keys = {example.image_key for example in examples}
        self._encoded = {key: encoded for key, encoded in self._encoded.items() if key in keys}
        for example in examples:
            if example.image_key in self._encoded:
                continue
            image = open_image(example.rendered_image)
            grid = self.monkey.select_grid(image.size)
            self._encoded[example.image_key] = encode_views(self.model, self.conversations, image, grid)
