"""Ask a checkpoint about images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import torch
from transformers import BatchFeature, TextIteratorStreamer

from monkeylib.checkpoints.loading import load_checkpoint, load_processor
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import Content, ImageInput, MonkeyProcessor
from monkeylib.profiles import build
from monkeylib.tiling import Grid

Turn = tuple[str, str]  # a question and its answer


@dataclass
class Monkey:
    """A model with its processor, ready to answer."""

    model: MonkeyForConditionalGeneration
    processor: MonkeyProcessor

    def prepare(
        self,
        images: Sequence[Any],
        texts: Sequence[Content],
        prompt: str | None = None,
        grid: Grid | None = None,
    ) -> BatchFeature:
        """Return model inputs of a batch, padded on the left, on the model's device.

        Args:
            images: for each text its image, a list of images, or None.
            texts, prompt, grid: as in `MonkeyProcessor.__call__`.
        """
        inputs = self.processor(images=list(images), text=list(texts), prompt=prompt, grid=grid)
        return inputs.to(self.model.device)

    def answer(
        self,
        image: ImageInput,
        question: str = "",
        prompt: str = "vqa",
        max_new_tokens: int = 128,
        grid: Grid | None = None,
        **generation: Any,
    ) -> str:
        """The answer to a question about an image, greedy unless `generation` says otherwise.

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

    def answer_batch(
        self,
        questions: Sequence[tuple[ImageInput, str]],
        prompt: str = "vqa",
        max_new_tokens: int = 128,
        grid: Grid | None = None,
        **generation: Any,
    ) -> list[str]:
        """Answers to `(image, question)` pairs in one batch; arguments as in `answer`."""
        if not questions:
            return []
        images = [image for image, _ in questions]
        texts = [question for _, question in questions]
        inputs = self.prepare(images, texts, prompt, grid)
        return self.generate(inputs, max_new_tokens, **generation)

    def chat(
        self,
        image: ImageInput,
        question: str,
        earlier: Sequence[Turn] = (),
        prompt: str = "vqa",
        max_new_tokens: int = 128,
        grid: Grid | None = None,
        **generation: Any,
    ) -> str:
        """The answer to a question that follows earlier questions and answers about the same image.

        The release answers one question at a time. Earlier turns stand in the prompt as conversations do in
        training: each answer is followed by the end-of-text token.

        Args:
            earlier: `(question, answer)` pairs, the oldest first.
            image, question, prompt, max_new_tokens, grid, generation: as in `answer`.
        """
        inputs = self.prepare_turns(image, question, earlier, prompt, grid)
        return self.generate(inputs, max_new_tokens, **generation)[0]

    def prepare_turns(
        self,
        image: ImageInput,
        question: str,
        earlier: Sequence[Turn] = (),
        prompt: str = "vqa",
        grid: Grid | None = None,
    ) -> BatchFeature:
        """Model inputs of a conversation: the image, the earlier turns, the question."""
        layout, visual_tokens = self.processor.layout, self.processor.visual_tokens(grid)
        ids = torch.tensor([layout.encode_chat([visual_tokens], question, earlier, prompt)])
        features = self.processor.image_processor(image, grid)
        inputs = BatchFeature({"input_ids": ids, "attention_mask": torch.ones_like(ids), **features})
        return inputs.to(self.model.device)

    def stream(
        self,
        image: ImageInput,
        question: str = "",
        prompt: str = "vqa",
        max_new_tokens: int = 128,
        earlier: Sequence[Turn] = (),
        **generation: Any,
    ) -> Iterator[str]:
        """The answer in pieces, as they are made; `earlier` as in `chat`. Errors of the model are raised
        here."""
        inputs = self.prepare_turns(image, question, earlier, prompt)
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

    @torch.no_grad()
    def generate(self, inputs: Mapping[str, Any], max_new_tokens: int, **generation: Any) -> list[str]:
        """The texts that follow the prompts of prepared `inputs`."""
        ids = self.model.generate(**inputs, **self._options(max_new_tokens, generation))
        new = ids[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _options(self, max_new_tokens: int, generation: dict[str, Any]) -> dict[str, Any]:
        tokenizer = self.processor.tokenizer
        ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        return {"max_new_tokens": max_new_tokens, "do_sample": False, **ends, **generation}


def load_model(
    path: str | Path,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    bits: Literal[4, 8] | None = None,
) -> Monkey:
    """Load a checkpoint folder.

    Args:
        path: a folder written by `save_pretrained` of model and processor, one of trained weights alone, or
            one in the layout of the released Monkey or Qwen-VL.
        device: where to run; a GPU if there is one.
        dtype: of the weights; as saved if not given.
        device_map: spread the model over devices as transformers does ("auto"), instead of `device`.
        bits: quantise the language model to 4 or 8 bits with bitsandbytes; ViT, adapters and resampler stay
            as they are.

    Raises:
        FileNotFoundError: the folder is missing or holds no checkpoint.
        ModuleNotFoundError: `bits` without bitsandbytes.
        ValueError: `bits` is neither 4 nor 8.
    """
    folder = Path(path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if (folder / build.TRAINED).is_file():
        model, processor = build.load_trained(folder)
        quantised = getattr(model, "is_quantized", False)  # such a model is where it has to be
        return Monkey((model if quantised else model.to(device)).eval(), processor)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"there is no checkpoint at {folder}: expected a folder with config.json, model.safetensors, "
            "processor_config.json and a tokenizer"
        )
    options: dict[str, Any] = {}
    if bits is not None:
        options["quantization_config"] = build.quantisation(bits)
    if device_map is not None or bits is not None:
        options["device_map"] = device_map or {"": device}
    processor = load_processor(folder)
    model = load_checkpoint(folder, dtype, **options)
    model = model if "device_map" in options else model.to(device)
    return Monkey(model.eval(), processor)
