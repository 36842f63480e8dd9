"""Answering many questions per image with the image encoded once."""

import hashlib
from collections.abc import Sequence

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from monkeylib.evaluation.examples import Example
from monkeylib.inference import Monkey
from monkeylib.processing import open_image
from monkeylib.prompts import build_prompt

_SAMPLED = 1024  # values of each weight that `identity` looks at


class SharedEncoding:
    """Answers examples greedily with a Monkey, each image encoded once for all its questions.

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
        texts = [processor.separator + build_prompt(example.prompt, example.question) for example in examples]
        ids = [[*processor.image_span(), *processor.encode_text(text)] for text in texts]
        inputs = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        tokens = torch.cat([self._encoded[example.key] for example in examples])
        output = self.model.generate(
            **inputs.to(self.model.device),
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=tokens)},
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _encode(self, examples: Sequence[Example]) -> None:
        """Visual tokens `[views, queries, width]` of the batch's images; those of the last batch are kept."""
        first = {example.key: example for example in reversed(examples)}
        self._encoded = {key: tokens for key, tokens in self._encoded.items() if key in first}
        for key, example in first.items():
            if key not in self._encoded:
                image = example.image() if callable(example.image) else example.image
                views = self.processor.image_processor(open_image(image)).to(self.model.device)
                self._encoded[key] = self.model.get_image_features(views["pixel_values"], views["grids"])


def identity(monkey: Monkey, max_new_tokens: int) -> str:
    """Fingerprint of weights (sampled), views and settings, by which predictions of models are told apart."""
    digest = hashlib.sha256()
    image = monkey.processor.image_processor
    settings = [
        image.tile_size,
        image.rows,
        image.cols,
        image.views,
        monkey.processor.separator,
        max_new_tokens,
    ]
    digest.update(repr(settings).encode())
    for name, weight in monkey.model.state_dict().items():
        step = max(1, weight.numel() // _SAMPLED)
        digest.update(name.encode())
        digest.update(weight.flatten()[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
