"""Inference: load a checkpoint and ask it about images: one question, a batch, a chat, or a stream."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import torch
from transformers import BatchFeature, TextIteratorStreamer

from monkeylib.checkpoints.loading import load_checkpoint, load_processor
from monkeylib.images import ImageInput
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import Content, GridInput, MonkeyProcessor
from monkeylib.profiles import build, trainable
from monkeylib.tiling import AutoGrid, Grid, as_grid


@dataclass
class Monkey:
    """Model and processor of a checkpoint, ready to answer."""

    model: MonkeyForConditionalGeneration
    processor: MonkeyProcessor

    def answer(
        self,
        image: ImageInput,
        question: str = "",
        prompt: str = "vqa",
        max_new_tokens: int = 128,
        grid: GridInput | None = None,
        **generation: Any,
    ) -> str:
        """Answer a question about an image, greedily unless `generation` says otherwise.

        Args:
            image: a path, an array or a Pillow image.
            question: may be empty for prompts that take none (captions).
            prompt: a name from `prompts.PROMPTS`.
            max_new_tokens: maximum length of the answer.
            grid: another grid of tiles than the checkpoint's default, such as "2x3"; "auto" chooses one by
                the shape of the image, "auto:6" one of up to six tiles. The checkpoint must have LoRA for it.
            generation: further arguments of `generate`, e.g. `do_sample=True, temperature=0.7` or
                `num_beams=3`.
        """
        return self.answer_batch([(image, question)], prompt, max_new_tokens, grid, **generation)[0]

    def answer_batch(
        self,
        questions: Sequence[tuple[ImageInput, str]],
        prompt: str = "vqa",
        max_new_tokens: int = 128,
        grid: GridInput | None = None,
        **generation: Any,
    ) -> list[str]:
        """Answer pairs of an image and a question in one batch; other arguments as in `answer`."""
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
        history: Sequence[tuple[str, str]] = (),
        prompt: str = "vqa",
        max_new_tokens: int = 128,
        grid: GridInput | None = None,
        **generation: Any,
    ) -> str:
        """Answer a question that follows earlier questions and answers about the same image.

        The released code answers single questions. The history stands in the prompt as conversations do in
        training: each answer is followed by the end-of-text token.

        Args:
            history: pairs of question and answer, the oldest first.
            image, question, prompt, max_new_tokens, grid, generation: as in `answer`.
        """
        inputs = self.prepare_chat(image, question, history, prompt, grid)
        return self.generate(inputs, max_new_tokens, **generation)[0]

    def stream(
        self,
        image: ImageInput,
        question: str = "",
        prompt: str = "vqa",
        max_new_tokens: int = 128,
        history: Sequence[tuple[str, str]] = (),
        grid: GridInput | None = None,
        **generation: Any,
    ) -> Iterator[str]:
        """Yield the answer in pieces as the model generates them; `history` as in `chat`.

        Errors of the model are raised to the caller.
        """
        # Errors in the arguments are raised here, before the thread starts.
        inputs = self.prepare_chat(image, question, history, prompt, grid)
        options = self._generation_options(max_new_tokens, generation)
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

        # `generate` returns at the end only, so it runs in a thread and hands over pieces by the streamer.
        errors: list[BaseException] = []

        def generate() -> None:
            try:
                self.model.generate(**inputs, streamer=streamer, **options)
            except BaseException as error:  # raised below, in the caller's thread
                errors.append(error)
                streamer.end()

        thread = Thread(target=generate, daemon=True)
        thread.start()
        yield from streamer
        thread.join()

        if errors:
            raise errors[0]

    def prepare(
        self,
        images: Sequence[Any],
        texts: Sequence[Content],
        prompt: str | None = None,
        grid: GridInput | None = None,
    ) -> BatchFeature:
        """Return model inputs of a batch, padded on the left, on the model's device.

        Args:
            images: for each text its image, a list of images, or None.
            texts, prompt, grid: as in `MonkeyProcessor.__call__`.

        Raises:
            ValueError: a prompt is longer than the model reads, or as `MonkeyProcessor.__call__`.
        """
        inputs = self.processor(
            images=list(images), text=list(texts), prompt=prompt, grid=self.limit_grid(grid)
        )
        self._check_length(inputs["input_ids"])
        return inputs.to(self.model.device)

    def prepare_chat(
        self,
        image: ImageInput,
        question: str,
        history: Sequence[tuple[str, str]] = (),
        prompt: str = "vqa",
        grid: GridInput | None = None,
    ) -> BatchFeature:
        """Return model inputs of a conversation: the image, the history, the question.

        Raises:
            ValueError: the conversation is longer than the model reads.
        """
        features = self.processor.image_processor(image, self.limit_grid(grid))
        visual_tokens = [self.processor.visual_tokens(Grid(*grid)) for grid in features["grids"].tolist()]

        # [1, T]: one conversation needs no padding.
        ids = self.processor.layout.encode_chat(visual_tokens, question, history, prompt)
        input_ids = torch.tensor([ids])
        self._check_length(input_ids)

        features["input_ids"] = input_ids
        features["attention_mask"] = torch.ones_like(input_ids)
        return features.to(self.model.device)

    def limit_grid(self, grid: GridInput | None) -> Grid | AutoGrid | None:
        """Return a grid as the processor takes it, an automatic one limited to those that the model takes.

        Raises:
            ValueError: it is no grid, or the model has no LoRA for so many tiles.
        """
        if grid is None:
            return None
        grid = as_grid(grid)
        return self.model.config.limit_auto_grid(grid) if isinstance(grid, AutoGrid) else grid

    def _check_length(self, input_ids: torch.Tensor) -> None:
        """Check that prompts fit into the model's context: beyond it, answers are noise.

        Args:
            input_ids: `[B, T]`, padded to the longest prompt.

        Raises:
            ValueError: they do not.
        """
        context = getattr(self.model.config.text_config, "max_position_embeddings", None)
        tokens = input_ids.shape[1]
        if context is not None and tokens > context:
            visual_tokens = (input_ids == self.processor.image_token_id).sum(dim=1)
            raise ValueError(
                f"the prompt has {tokens} tokens, up to {int(visual_tokens.max())} of them visual; the model "
                f"takes {context}: shorten the question or the conversation, or take fewer tiles"
            )

    @torch.no_grad()
    def generate(self, inputs: Mapping[str, Any], max_new_tokens: int, **generation: Any) -> list[str]:
        """Return the texts that complete the prompts of prepared `inputs`."""
        output_ids = self.model.generate(**inputs, **self._generation_options(max_new_tokens, generation))

        # Prompts are padded on the left, so every answer begins at the same position.
        prompt_length = inputs["input_ids"].shape[1]
        texts = self.processor.tokenizer.batch_decode(output_ids[:, prompt_length:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _generation_options(self, max_new_tokens: int, generation: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `generate`: greedy, unless `generation` overrides it."""
        return {
            "max_new_tokens": max_new_tokens,
            "do_sample": False,
            "pad_token_id": self.processor.tokenizer.pad_token_id,
            "eos_token_id": self.processor.tokenizer.eos_token_id,
            **generation,
        }


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
        device_map: spread the model over devices as transformers does ("auto"), instead of `device`. Trained
            weights alone take none, and no `bits`.
        bits: quantise the language model to 4 or 8 bits with bitsandbytes; ViT, LoRA and resampler stay as
            they are.

    Raises:
        FileNotFoundError: the folder is missing or holds no checkpoint.
        ModuleNotFoundError: `bits` without bitsandbytes.
        ValueError: `bits` is neither 4 nor 8, the folder is that of a run or does not take an option, or the
            checkpoint is broken: cut off, incomplete, of another model, not finite. The message names file
            and key.
    """
    folder = Path(path)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"

    if (folder / "checkpoints").is_dir() or folder.suffix == ".ckpt":
        raise ValueError(
            f"{folder} is of a training run and no model: "
            + (f"name {folder / 'model'}" if (folder / "model").is_dir() else _convert_first(folder))
        )

    # Trained weights alone, on the base model that their profile names.
    if (folder / trainable.TRAINED_WEIGHTS).is_file():
        if device_map is not None or bits is not None:
            raise ValueError(
                f"{folder} holds trained weights alone, which load without device_map and bits: "
                + _convert_first(folder)
            )
        model, processor = trainable.load_trained(folder)
        if not getattr(model, "is_quantized", False):  # bitsandbytes has placed a quantised model already
            model = model.to(device, dtype)
        elif dtype is not None:
            raise ValueError(f"{folder} has a quantised language model, whose dtype is fixed: give none")
        return Monkey(model.eval(), processor)

    # A complete model, in monkeylib's or the released layout.
    options: dict[str, Any] = {}
    if bits is not None:
        options["quantization_config"] = build.quantization_config(bits)
    # bitsandbytes quantises while the weights are loaded, so it must know the device then.
    if device_map is not None or bits is not None:
        options["device_map"] = device_map or {"": device}

    processor = load_processor(folder)
    model = load_checkpoint(folder, dtype, **options)
    if "device_map" not in options:
        model = model.to(device)
    return Monkey(model.eval(), processor)


def _convert_first(folder: Path) -> str:
    """Return what makes a complete model of what a training run has saved, to end a sentence."""
    return f"make a complete model of it with `monkeylib convert {folder} NEW_FOLDER`"
