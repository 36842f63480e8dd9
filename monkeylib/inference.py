"""Inference: load a checkpoint and ask it about images: one question, a batch, a chat, or a stream."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from monkeylib import resources
from monkeylib.checkpoints.hub import fetch_model
from monkeylib.checkpoints.loading import load_checkpoint, load_processor
from monkeylib.checkpoints.model_card import write_card
from monkeylib.errors import first_line, shorten
from monkeylib.images import ImageError, ImageInput
from monkeylib.messages import ImagePart, Message, Part, read_messages
from monkeylib.model import MonkeyForConditionalGeneration, cpu, generation
from monkeylib.model.generation import Answer
from monkeylib.model.streaming import AnswerStream, stream
from monkeylib.processing import Content, GridInput, MonkeyProcessor
from monkeylib.profiles import build, trainable
from monkeylib.progress import say
from monkeylib.raising import loading
from monkeylib.raising.conversations import Conversations
from monkeylib.session import Session
from monkeylib.tiling import AutoGrid, Grid, as_grid


@dataclass
class Monkey:
    """Model and processor of a checkpoint, ready to answer.

    Fields:
        model, processor: of one checkpoint.
        grid: another grid of tiles than the processor's, see `with_grid`.
    """

    model: MonkeyForConditionalGeneration
    processor: MonkeyProcessor
    grid: Grid | AutoGrid | None = None

    @property
    def default_prompt(self) -> str:
        """Name of the prompt where none is requested."""
        return "vqa"

    @property
    def end_ids(self) -> list[int] | None:
        """Tokens that end an answer, None for the tokenizer's end of text."""
        return None

    def with_grid(self, grid: GridInput) -> Monkey:
        """Return the same model with another grid for images where none is named.

        Raises:
            ValueError: it is no grid, or the model has no LoRA for its tiles.
        """
        limited = self.limit_grid(grid)
        if isinstance(limited, Grid):
            self.model.config.check_grid(*limited)
        return replace(self, grid=limited)

    def answer(
        self,
        image: ImageInput | Sequence[ImageInput],
        question: str = "",
        prompt: str | None = None,
        max_new_tokens: int = 128,
        grid: GridInput | None = None,
        **options: Any,
    ) -> Answer:
        """Answer a question about an image, greedily unless the options say otherwise.

        Args:
            image: anything that `images.open_image` reads, or a list of images, which stand before the
                question in their order.
            question: may be empty for prompts that take none (captions).
            prompt: a name from `prompts.PROMPTS`, by default `default_prompt`.
            max_new_tokens: maximum length of the answer.
            grid: another grid of tiles than the checkpoint's default, such as "2x3"; "auto" chooses one by
                the shape of the image, "auto:6" one of up to six tiles. The checkpoint must have LoRA for it.
            options: arguments of transformers' `generate`, such as `do_sample=True, temperature=0.7`,
                `num_beams=3`, `num_return_sequences=3` (with sampling or beams), `stop_strings=["\n"]` or
                `output_scores=True`; and `seed=1`, from which samples are drawn whatever the state of torch's
                generator, which is left as it was.

        Returns:
            The answer; of several (`num_return_sequences`), the first one, which holds all as `samples`.

        Raises:
            ValueError: prompt and answer do not fit into the model's context, an unknown or useless option, a
                prompt without the question that it needs, or an image that cannot be read.
        """
        return self.answer_batch([(image, question)], prompt, max_new_tokens, grid, **options)[0]

    def answer_batch(
        self,
        questions: Sequence[tuple[ImageInput | Sequence[ImageInput], str]],
        prompt: str | None = None,
        max_new_tokens: int = 128,
        grid: GridInput | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer pairs of an image and a question: one answer each; arguments as in `answer`.

        An image with several questions is opened, encoded and read once; other questions are one batch. The
        answers are those of single questions, except where they are sampled.
        """
        _check_pairs("questions", questions, "an image and a question")
        if not questions:
            return []

        images = [_require_image(image) for image, _ in questions]
        texts = [question for _, question in questions]
        prompt = prompt or self.default_prompt
        answers: dict[int, Answer] = {}

        # Questions about one image share it. Samples of a batch are drawn together.
        rows = {} if options.get("do_sample") else _rows_of_images(images)
        for numbers in rows.values():
            if len(numbers) > 1:
                session = self.session(images[numbers[0]], grid)
                shared = [texts[number] for number in numbers]
                of_image = session.answer_batch(shared, prompt, max_new_tokens, **options)
                answers.update(zip(numbers, of_image, strict=True))

        others = [number for number in range(len(questions)) if number not in answers]
        if others:
            inputs = self.prepare(
                [images[number] for number in others],
                [texts[number] for number in others],
                prompt,
                grid,
            )
            generated = generation.generate(
                self.model, self.processor.tokenizer, inputs, max_new_tokens, **options
            )
            answers.update(zip(others, generated, strict=True))
        return [answers[number] for number in range(len(questions))]

    def chat(
        self,
        image: ImageInput | Sequence[ImageInput],
        question: str,
        history: Sequence[tuple[str, str | Answer]] = (),
        prompt: str | None = None,
        max_new_tokens: int = 128,
        grid: GridInput | None = None,
        **options: Any,
    ) -> Answer:
        """Answer a question that follows earlier questions and answers about the same image.

        The released code answers single questions. The history stands in the prompt as conversations do in
        training: each answer is followed by the end-of-text token.

        Args:
            history: pairs of question and answer, the oldest first.
            image, question, prompt, max_new_tokens, grid, options: as in `answer`.
        """
        messages = _write_messages(image, question, history)
        return self.answer_messages(messages, prompt, max_new_tokens, grid, **options)

    def answer_messages(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        prompt: str | None = None,
        max_new_tokens: int = 128,
        grid: GridInput | None = None,
        **options: Any,
    ) -> Answer:
        """Answer the last question of a conversation, with images at their places in any message.

            monkey.answer_messages([
                {"role": "system", "content": "Answer in one word."},
                {"role": "user", "content": ["Which is cheaper,", first_image, "or", second_image, "?"]},
            ])

        Token ids are those of the same conversation in training. A system message stands as plain text in
        front of everything: Monkey was trained without.

        Args:
            messages: as OpenAI and transformers write them (`messages.read_messages`). A string in a part of
                type image is the path of a file, or a `data:` URI. A text with `<image>`, as in training
                data, is refused: the image itself stands in its place here.
            prompt: name of the prompt around the texts of each of the user's messages.
            max_new_tokens, grid, options: as in `answer`.
        """
        inputs = self.prepare_messages(messages, prompt, grid)
        return self.generate(inputs, max_new_tokens, **options)[0]

    def stream(
        self,
        image: ImageInput | Sequence[ImageInput],
        question: str = "",
        prompt: str | None = None,
        max_new_tokens: int = 128,
        history: Sequence[tuple[str, str | Answer]] = (),
        grid: GridInput | None = None,
        **options: Any,
    ) -> AnswerStream:
        """Return an iterator over parts of the answer as the model generates them; `history` as in `chat`.

        After its end, `stream.answer` is the `Answer`:

            with monkey.stream(image, question) as stream:
                for part in stream:
                    print(part, end="", flush=True)
            print(stream.answer.ended_by)

        Errors in the arguments are raised at once, those of the model while the parts are read.
        """
        messages = _write_messages(image, question, history)
        return self.stream_messages(messages, prompt, max_new_tokens, grid, **options)

    def stream_messages(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        prompt: str | None = None,
        max_new_tokens: int = 128,
        grid: GridInput | None = None,
        **options: Any,
    ) -> AnswerStream:
        """Answer as `answer_messages` does, part by part as in `stream`."""
        inputs = self.prepare_messages(messages, prompt, grid)
        return stream(
            self.model, self.processor.tokenizer, inputs, max_new_tokens, end_ids=self.end_ids, **options
        )

    def session(self, image: ImageInput | Sequence[ImageInput], grid: GridInput | None = None) -> Session:
        """Return a session about an image, or about several that stand in front of each question.

        The image is opened, encoded and read once, however many questions follow:

            session = monkey.session("receipt.png")
            session.answer("What is the total?")
            session.answer_batch(["Which shop is it?", "On which day?"])

        Raises:
            ValueError: an image that cannot be read, or as `limit_grid`.
        """
        image = _require_image(image)
        images = list(image) if isinstance(image, list | tuple) else [image]
        return Session(self.model, self.processor, images, self.limit_grid(grid))

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
        self._check_context(inputs)
        return inputs.to(self.model.device)

    def prepare_messages(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        prompt: str | None = None,
        grid: GridInput | None = None,
    ) -> BatchFeature:
        """Return model inputs of a conversation; arguments as in `answer_messages`.

        Raises:
            ValueError: the conversation is longer than the model reads, or as `messages.read_messages`.
        """
        inputs = self.processor.apply_chat_template(
            [list(read_messages(messages))],
            prompt=prompt or self.default_prompt,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"grid": self.limit_grid(grid)},
        )
        self._check_context(inputs)
        return inputs.to(self.model.device)

    def limit_grid(self, grid: GridInput | None) -> Grid | AutoGrid | None:
        """Return a grid as the processor takes it, an automatic one limited to those that the model takes.

        None stands for this Monkey's own.

        Raises:
            ValueError: it is no grid, or the model has no LoRA for so many tiles.
        """
        if grid is None:
            return self.grid
        grid = as_grid(grid)
        return self.model.config.limit_auto_grid(grid) if isinstance(grid, AutoGrid) else grid

    def text_ids(self, text: str) -> list[int]:
        """Return the tokens of a text that continues a prompt."""
        return self.processor.layout.text_ids(text)

    def append_ids(self, inputs: Mapping[str, Any], ids: torch.Tensor) -> dict[str, Any]:
        """Return prepared `inputs` of one prompt with more tokens `[1, T]` behind it."""
        input_ids = torch.cat([inputs["input_ids"], ids], dim=1)
        return {**inputs, "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def select_grid(self, size: tuple[int, int], grid: GridInput | None = None) -> Grid:
        """Return the grid of an image of this width and height in pixels."""
        return self.processor.image_processor.select_grid(size, self.limit_grid(grid))

    @property
    def resize_mode(self) -> str:
        """How images are brought to the shape of their grid (`tiling.resize`)."""
        return self.processor.image_processor.resize_mode

    def _check_context(self, inputs: Mapping[str, Any]) -> None:
        """Check that prompts fit into the model's context.

        Raises:
            ValueError: they do not.
        """
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        visual_tokens = generation.count_visual_tokens(self.model, inputs["input_ids"])
        generation.check_context(self.model, prompt_tokens, visual_tokens)

    def generate(self, inputs: Mapping[str, Any], max_new_tokens: int, **options: Any) -> list[Answer]:
        """Return the answers that complete the prompts of prepared `inputs`; options as in `answer`."""
        return generation.generate(
            self.model, self.processor.tokenizer, inputs, max_new_tokens, end_ids=self.end_ids, **options
        )

    def save(self, folder: str | Path, name: str | None = None) -> None:
        """Write model, processor and a model card into a new folder, which `load_model` reads.

        Args:
            folder: to be made.
            name: of the model in its card, by default that of the folder.

        Raises:
            FileExistsError: there is something already.
        """
        folder = Path(folder)
        resources.require_new(folder)
        with resources.create_folder(folder) as new_folder:
            self.model.save_pretrained(new_folder)
            self.processor.save_pretrained(new_folder)
            card = write_card(name or folder.name, self.model, self.processor)
            (new_folder / "README.md").write_text(card, encoding="utf-8")

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
        """Put on the hub what `save` writes, and return its address.

        Args:
            repo_id: "owner/name"; created where there is none.
            private: whether only its owner sees it.
            token: of the owner, by default the one that is logged in.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "model"
            self.save(folder, repo_id)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Monkey of monkeylib")
        return str(address)


@dataclass
class RaisedMonkey(Monkey):
    """A raised model of transformers (`raising.raise_resolution`), ready to answer as a Monkey does.

    Prompts stand in the base's chat template, or as plain text where it has none.

    Fields:
        model, processor: what `raise_resolution` or `load_raised` returned.
    """

    model: PreTrainedModel
    processor: ProcessorMixin

    def __post_init__(self) -> None:
        self.conversations = Conversations(self.model, self.processor)

    @property
    def default_prompt(self) -> str:
        """Name of the prompt where none is requested: a chat model reads the question as it is."""
        return self.conversations.default_prompt

    @property
    def end_ids(self) -> list[int]:
        """Tokens that end an answer."""
        return self.conversations.end_ids

    def with_grid(self, grid: GridInput) -> RaisedMonkey:
        """Return the same model with another grid for images where none is named.

        Raises:
            ValueError: it is no grid, or the model has no adapters for its tiles.
        """
        requested = as_grid(grid)
        if isinstance(requested, Grid):
            self.conversations.views.grids.tile_numbers(requested)
        return replace(self, grid=requested)

    def limit_grid(self, grid: GridInput | None) -> Grid | AutoGrid | None:
        """Return a grid as the processor takes it; None stands for this model's own."""
        return self.grid if grid is None else as_grid(grid)

    def text_ids(self, text: str) -> list[int]:
        """Return the tokens of a text that continues a prompt."""
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def append_ids(self, inputs: Mapping[str, Any], ids: torch.Tensor) -> dict[str, Any]:
        """Return prepared `inputs` of one prompt with more tokens `[1, T]` behind it.

        Raises:
            ValueError: the model has an encoder and a decoder.
        """
        return self.conversations.append_ids(inputs, ids)

    def select_grid(self, size: tuple[int, int], grid: GridInput | None = None) -> Grid:
        """Return the grid of an image of this width and height in pixels."""
        views = self.conversations.views
        return views.grids.select(size, views.tile_size, self.limit_grid(grid))

    @property
    def resize_mode(self) -> str:
        """How images are brought to the shape of their grid (`tiling.resize`)."""
        return self.conversations.views.resize_mode

    def answer_batch(
        self,
        questions: Sequence[tuple[ImageInput | Sequence[ImageInput], str]],
        prompt: str | None = None,
        max_new_tokens: int = 128,
        grid: GridInput | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answer pairs of an image and a question in one batch, as `Monkey.answer_batch`."""
        _check_pairs("questions", questions, "an image and a question")
        if not questions:
            return []
        images = [_require_image(image) for image, _ in questions]
        texts = [question for _, question in questions]
        inputs = self.prepare(images, texts, prompt or self.default_prompt, grid)
        return self.generate(inputs, max_new_tokens, **options)

    def session(self, image: ImageInput | Sequence[ImageInput], grid: GridInput | None = None) -> Session:
        """Refuse a session: where an image stands in a prompt is up to the base's chat template.

        Raises:
            ValueError: always.
        """
        raise ValueError("a raised model has no sessions: ask it by `answer_batch`, or in one evaluation")

    def prepare(
        self,
        images: Sequence[Any],
        texts: Sequence[Content],
        prompt: str | None = None,
        grid: GridInput | None = None,
    ) -> BatchFeature:
        """Return model inputs of a batch, padded on the left, on the model's device; as `Monkey.prepare`."""
        conversations = [
            [Message("user", (*_as_parts(image), *_as_content(text)))]
            for image, text in zip(images, texts, strict=True)
        ]
        return self.prepare_conversations(
            [self.conversations.wrap(messages, prompt) for messages in conversations], grid
        )

    def prepare_messages(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        prompt: str | None = None,
        grid: GridInput | None = None,
    ) -> BatchFeature:
        """Return model inputs of a conversation; arguments as in `answer_messages`."""
        wrapped = self.conversations.wrap(read_messages(messages), prompt or self.default_prompt)
        return self.prepare_conversations([wrapped], grid)

    def prepare_conversations(
        self, conversations: Sequence[Sequence[Message]], grid: GridInput | None = None
    ) -> BatchFeature:
        """Return model inputs of conversations whose prompts are wrapped already (`Conversations.wrap`)."""
        inputs = self.conversations.prepare(conversations, self.limit_grid(grid))
        self._check_context(inputs)
        return inputs.to(self.model.device, self.model.dtype)


def _as_parts(image: Any) -> list[ImagePart]:
    """Return an image, a list of images, or None as parts of a message."""
    if image is None:
        return []
    images = image if isinstance(image, list | tuple) else [image]
    return [ImagePart(one) for one in images]


def _as_content(content: Content) -> list[Part]:
    """Return a text, or texts and images in their order, as parts of a message."""
    parts = [content] if isinstance(content, str) else content
    return [part if isinstance(part, str) else ImagePart(part) for part in parts]


def _check_pairs(name: str, pairs: Any, content: str) -> None:
    """Check that an argument is a list of pairs.

    Raises:
        ValueError: it is none; `name` and `content` stand in the message.
    """
    if not isinstance(pairs, list | tuple):
        raise ValueError(f"{name} is {shorten(pairs)}: expected a list of pairs, each {content}")
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"{name}[{number}] is {shorten(pair)}: expected a pair, {content}")


def _require_image(image: Any) -> Any:
    """Return an image, or a list of images, that must not be missing.

    Raises:
        ImageError: it is None, or a list of none.
    """
    if image is None or (isinstance(image, list | tuple) and not image):
        raise ImageError(
            "unsupported", f"there is no image, got {image}: ask without one by `answer_messages`"
        )
    return image


def _rows_of_images(images: Sequence[Any]) -> dict[Any, list[int]]:
    """Return for each image, or list of images, the numbers of its rows.

    A file is the same by its path, anything else if it is the same object.
    """
    rows: dict[Any, list[int]] = {}
    for number, image in enumerate(images):
        parts = image if isinstance(image, list | tuple) else [image]
        key = tuple(str(part) if isinstance(part, str | Path) else id(part) for part in parts)
        rows.setdefault(key, []).append(number)
    return rows


def _write_messages(
    image: ImageInput | Sequence[ImageInput], question: str, history: Sequence[tuple[str, str | Answer]]
) -> list[Message]:
    """Return a conversation about an image, or several, that open it.

    Raises:
        ValueError: no image, a history of something else than pairs, or a text that is none.
    """
    _check_pairs("history", history, "a question and its answer")
    for text in (question, *(text for pair in history for text in pair)):
        if not isinstance(text, str | Answer):
            raise ValueError(f"a question or an answer is {shorten(text)}: expected a text")

    image = _require_image(image)
    images = image if isinstance(image, list | tuple) else [image]
    leading: tuple[Part, ...] = tuple(ImagePart(image) for image in images)

    messages = []
    for earlier_question, answer in history:
        messages += [Message("user", (*leading, earlier_question)), Message("assistant", (str(answer),))]
        leading = ()
    return [*messages, Message("user", (*leading, question))]


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    bits: Literal[4, 8] | None = None,
    grid: GridInput | None = None,
) -> Monkey:
    """Load a checkpoint: a folder, or a model of a hub.

    Args:
        path: a folder written by `save_pretrained` of model and processor, one of trained weights alone, or
            one in the layout of the released Monkey or Qwen-VL; or, where there is no such folder, the name
            of one on a hub, such as "owner/name". Also a raised model (`raising.load_raised`), and with a
            `grid` any model of transformers that can be raised.
        device: where to run; a GPU if there is one.
        dtype: of the weights, also as a text such as "bfloat16". If not given, as saved; on a CPU that
            multiplies the saved one more slowly than float32, weights become float32 where they fit.
        device_map: spread the model over devices as transformers does ("auto"), instead of `device`. Trained
            weights alone take none, and no `bits`.
        bits: quantise the language model to 4 or 8 bits with bitsandbytes; ViT, LoRA and resampler stay as
            they are.
        grid: another grid for images where none is named (`Monkey.with_grid`). A model of transformers is
            raised to it, with adapters that are not trained.

    Raises:
        FileNotFoundError: the folder is missing or holds no checkpoint.
        ModuleNotFoundError: `bits` without bitsandbytes.
        ValueError: `bits` is neither 4 nor 8, there is no such device or dtype, the folder is that of a run
            or does not take an option, or the checkpoint is broken: cut off, incomplete, of another model,
            not finite. The message names file and key.
    """
    if device is not None and device_map is not None:
        raise ValueError(
            f"device={str(device)!r} puts the model on one device and device_map={device_map!r} spreads it: "
            "give one of them"
        )
    device = _find_device(device)
    dtype = None if dtype is None else _find_dtype(dtype)

    is_base = loading.may_be_raised(path)
    if is_base and grid is None and not loading.is_raised(path):
        raise ValueError(
            f"{path} is a model of transformers that is not raised: give it a grid, such as 2x2, to raise it"
        )
    if is_base or loading.is_raised(path):
        model, processor = loading.load(path, grid, device, dtype, device_map, bits)
        return RaisedMonkey(model.eval(), processor, None if grid is None else as_grid(grid))

    monkey = _load_checkpoint(fetch_model(path), device, dtype, device_map, bits)
    return monkey if grid is None else monkey.with_grid(grid)


def _load_checkpoint(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    device_map: str | dict[str, Any] | None,
    bits: Literal[4, 8] | None,
) -> Monkey:
    """Load a checkpoint of Monkey; arguments as in `load_model`."""
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
        if device.type == "cpu" and dtype is None:
            model = _to_fastest_dtype(model)
    return Monkey(model.eval(), processor)


def _to_fastest_dtype(model: MonkeyForConditionalGeneration) -> MonkeyForConditionalGeneration:
    """Turn a model on a CPU to the precision that the CPU multiplies fastest, and say so."""
    if model.dtype == torch.float32 or cpu.relative_speed(model.dtype) >= 1:
        return model

    own = _dtype_name(model.dtype)
    times = f"{1 / cpu.relative_speed(model.dtype):.0f} times as"
    if cpu.choose_dtype(model) == model.dtype:
        say(f"this CPU multiplies {own} {times} slowly as float32, for which there is no memory")
        return model

    say(
        f"weights in {own} are computed in float32, which this CPU multiplies {times} fast: dtype={own!r} "
        "keeps them"
    )
    return model.float()


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _find_device(device: str | torch.device | None) -> torch.device:
    """Return a device by its name, by default a GPU if there is one.

    Raises:
        ValueError: there is none of that name.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    try:
        existing = torch.device(device)
        torch.empty(1, device=existing)
    # torch raises an AssertionError where it was built without a kind of device.
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"the device {device!r} is not there ({first_line(error)}): expected a name such as cpu, cuda or "
            "cuda:1"
        ) from error
    return existing


def _find_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a floating-point dtype that may be given by its name.

    Raises:
        ValueError: it is none.
    """
    named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ValueError(f"weights have no dtype {dtype!r}: expected float32, bfloat16 or float16")
    return named


def _convert_first(folder: Path) -> str:
    """Return what makes a complete model of what a training run has saved, to end a sentence."""
    return f"make a complete model of it with `monkeylib convert {folder} NEW_FOLDER`"
