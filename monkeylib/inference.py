"""Ask a checkpoint about pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from transformers import BatchFeature, TextIteratorStreamer

from monkeylib.checkpoints import released
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyProcessor, Picture
from monkeylib.prompts import build_prompt
from monkeylib.tiling import Grid


@dataclass
class Monkey:
    """A model with its processor, ready to answer."""

    model: MonkeyForConditionalGeneration
    processor: MonkeyProcessor

    def prepare(
        self, images: Sequence[Picture], texts: Sequence[str], grid: Grid | None = None
    ) -> BatchFeature:
        """Model inputs of one picture and one text per row, padded on the left, on the model's device."""
        inputs = self.processor(images=list(images), text=list(texts), grid=grid)
        return inputs.to(self.model.device)

    def answer(
        self,
        image: Picture,
        question: str = "",
        prompt: str = "vqa",
        max_new_tokens: int = 128,
        grid: Grid | None = None,
        **generation: Any,
    ) -> str:
        """The answer to a question about a picture, greedy unless `generation` says otherwise.

        Args:
            image: a path, an array or a Pillow image.
            question: may be empty for prompts that take none (captions).
            prompt: a name from `prompts.PROMPTS`.
            max_new_tokens: the answer's length at most.
            grid: another grid of tiles than the checkpoint's own, which it must have been made for too.
            generation: further arguments of `generate`, e.g. `do_sample=True, temperature=0.7` or
                `num_beams=3`.
        """
        return self.answer_batch([(image, question)], prompt, max_new_tokens, grid, **generation)[0]

    @torch.no_grad()
    def answer_batch(
        self,
        questions: Sequence[tuple[Picture, str]],
        prompt: str = "vqa",
        max_new_tokens: int = 128,
        grid: Grid | None = None,
        **generation: Any,
    ) -> list[str]:
        """Answers to `(image, question)` pairs in one batch; arguments as in `answer`."""
        if not questions:
            return []
        images, texts = zip(
            *((image, build_prompt(prompt, question)) for image, question in questions), strict=True
        )
        inputs = self.prepare(images, texts, grid)
        ids = self.model.generate(**inputs, **self._options(max_new_tokens, generation))
        new = ids[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def stream(
        self,
        image: Picture,
        question: str = "",
        prompt: str = "vqa",
        max_new_tokens: int = 128,
        **generation: Any,
    ) -> Iterator[str]:
        """The answer in pieces, as they are made. Errors of the model are raised here."""
        inputs = self.prepare([image], [build_prompt(prompt, question)])
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failures: list[BaseException] = []

        def generate() -> None:
            try:
                self.model.generate(**inputs, streamer=streamer, **self._options(max_new_tokens, generation))
            except BaseException as error:  # handed to the reader below
                failures.append(error)
                streamer.end()

        worker = Thread(target=generate, daemon=True)
        worker.start()
        yield from streamer
        worker.join()
        if failures:
            raise failures[0]

    def _options(self, max_new_tokens: int, generation: dict[str, Any]) -> dict[str, Any]:
        tokenizer = self.processor.tokenizer
        ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        return {"max_new_tokens": max_new_tokens, "do_sample": False, **ends, **generation}


def load(path: str | Path, device: str | None = None, dtype: torch.dtype | None = None) -> Monkey:
    """Load a checkpoint folder.

    Args:
        path: a folder written by `save_pretrained` of model and processor, or one in the layout of the
            released Monkey or Qwen-VL.
        device: where to run; a GPU if there is one.
        dtype: of the weights; as saved if not given.

    Raises:
        FileNotFoundError: the folder is missing or holds no checkpoint.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"there is no checkpoint at {folder}: expected a folder with config.json, model.safetensors, "
            "processor_config.json and a tokenizer"
        )
    if released.is_released(folder):
        processor = released.load_processor(released.open_checkpoint(folder))
    else:
        processor = MonkeyProcessor.from_pretrained(folder)
    model = MonkeyForConditionalGeneration.from_pretrained(folder, dtype=dtype or "auto")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Monkey(model.to(device).eval(), processor)
