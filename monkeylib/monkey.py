"""Monkey: a model with its processor, asked about images: one question, a batch, a chat, or a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import BatchFeature
from transformers.modeling_outputs import BaseModelOutputWithPooling

from monkeylib import resources
from monkeylib.checkpoints import hub
from monkeylib.checkpoints.model_card import write_card
from monkeylib.encodings import IdentifiedImage, ImageMemory, Prompts, identify_images
from monkeylib.errors import shorten
from monkeylib.images import ImageError, ImageInput
from monkeylib.messages import ImagePart, Message, Part, read_messages
from monkeylib.model import MonkeyForConditionalGeneration, generation
from monkeylib.model.answers import Answer
from monkeylib.model.context import check_context, check_prompts, count_visual_tokens
from monkeylib.model.streaming import AnswerStream, check_one_answer, stream
from monkeylib.model.tile_lora import check_grid, limit_auto_grid
from monkeylib.processing import Content, GridInput, MonkeyProcessor
from monkeylib.session import EncodedImage, Session
from monkeylib.tiling import AutoGrid, Grid, as_grid


@dataclass(repr=False)
class Monkey:
    """Model and processor of a checkpoint, ready to answer.

    Fields:
        model, processor: of one checkpoint.
        grid: another grid of tiles than the processor's, see `with_grid`.
        cached_images: encoded images that stay in memory, so that an image is encoded once in all calls: the
            last ones, of which each has 10 MB of visual tokens in the released Monkey. With them stay the
            keys and values of the last conversation, and of no other: a language model of 7B has 0.5 MB of
            them a token. They serve whatever call comes next, as long as the weights are the same. 0 keeps
            nothing; `forget_images` frees what there is. A raised model keeps nothing.

    Raises:
        ValueError: as `MonkeyImageProcessor.check_normalisation`.
    """

    model: MonkeyForConditionalGeneration
    processor: MonkeyProcessor
    grid: Grid | AutoGrid | None = None
    cached_images: int = 16

    _memory: ImageMemory = field(default_factory=ImageMemory, init=False, repr=False, compare=False)

    # Whether questions about one image share a session.
    has_sessions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        room = self.cached_images
        if isinstance(room, bool) or not isinstance(room, int) or room < 0:
            raise ValueError(f"cached_images is {shorten(room)}: expected a whole number from 0")
        vision = self.model.config.vision_config
        self.processor.image_processor.check_normalisation(vision.model_type)

    def __repr__(self) -> str:
        model = self.model
        parameters = sum(parameter.numel() for parameter in model.parameters())
        dtype = str(model.dtype).removeprefix("torch.")
        return (
            f"<{type(self).__name__}: {type(model).__name__}, {parameters:,} parameters, {dtype} on "
            f"{model.device}>"
        )

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
            check_grid(self.model.config, *limited)
        other = replace(self, grid=limited)
        # Another grid is another image to the memory.
        other._memory = self._memory
        return other

    def forget_images(self) -> None:
        """Free the encoded images and the keys and values that are kept; see `cached_images`."""
        self._memory.clear()

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
        return self._answer_pairs(images, texts, prompt or self.default_prompt, max_new_tokens, grid, options)

    def _answer_pairs(
        self,
        images: Sequence[Any],
        texts: Sequence[str],
        prompt: str,
        max_new_tokens: int,
        grid: GridInput | None,
        options: Mapping[str, Any],
    ) -> list[Answer]:
        """Answer questions as `answer_batch` does; none of the images is missing."""
        prompts = self._read(images, texts, prompt, grid)
        check_prompts(self.model, prompts.ids, self.processor.image_token_id, max_new_tokens, options)
        answers: dict[int, Answer] = {}

        # Questions about one image share it. Samples of a batch are drawn together.
        for numbers in prompts.rows_of_images().values():
            if len(numbers) > 1 and not options.get("do_sample"):
                with self._lend_session(prompts.images[numbers[0]]) as session:
                    shared = [texts[number] for number in numbers]
                    of_image = session.answer_batch(shared, prompt, max_new_tokens, **options)
                answers.update(zip(numbers, of_image, strict=True))

        others = [number for number in range(len(texts)) if number not in answers]
        generated = self._complete(prompts.select(others), max_new_tokens, options)
        answers.update(zip(others, generated, strict=True))
        return [answers[number] for number in range(len(texts))]

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
        prompts = self._read_messages(messages, prompt, grid)
        check_prompts(self.model, prompts.ids, self.processor.image_token_id, max_new_tokens, options)
        return self._complete(prompts, max_new_tokens, options)[0]

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
        """Answer as `answer_messages` does, part by part as in `stream`; images are encoded at once."""
        prompts = self._read_messages(messages, prompt, grid)
        on_end = options.pop("on_end", None)
        check_prompts(self.model, prompts.ids, self.processor.image_token_id, max_new_tokens, options)
        check_one_answer(options)
        if not prompts.images[0]:
            return self._stream(self._encode_prompts(prompts), max_new_tokens, {**options, "on_end": on_end})

        def end(answer: Answer) -> None:
            with _without_contexts(self.model):
                self._memory.keep_session(session, key, is_late=True)
            if on_end is not None:
                on_end(answer)

        with _without_contexts(self.model):
            session, key = self._memory.take_session(
                self.model, self.processor, prompts.images[0], self.cached_images
            )
            is_repeatable = _is_repeatable(prompts, options)
            return session.stream_ids(prompts.ids[0], max_new_tokens, options, is_repeatable, on_end=end)

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
        images = image if isinstance(image, list | tuple) else [image]
        return Session(self.model, self.processor, self.encode(images, grid))

    def encode(
        self, images: Sequence[ImageInput], grid: GridInput | None = None, use_lora: bool = True
    ) -> list[EncodedImage]:
        """Open and encode images, of which none is encoded again as long as it is kept (`cached_images`).

        Args:
            images: anything that `images.open_image` reads.
            grid: as in `answer`.
            use_lora: as in `MonkeyForConditionalGeneration.get_image_features`.

        Raises:
            ValueError: as `session`.
        """
        of_images = self.processor.image_processor
        opened = [of_images.open(image) for image in images]
        limited = self.limit_grid(grid)
        grids = [of_images.select_grid(image.size, limited) for image in opened]
        identified = identify_images(self.processor, opened, grids)
        return self._memory.encode(self.model, self.processor, identified, self.cached_images, use_lora)

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

    def prepare_encoded(
        self,
        images: Sequence[Any],
        texts: Sequence[Content],
        prompt: str | None = None,
        grid: GridInput | None = None,
    ) -> Mapping[str, Any]:
        """Return model inputs as `prepare` does, with visual tokens in place of views.

        No image is encoded again as long as it is kept (`cached_images`).
        """
        prompts = self._read(images, texts, prompt, grid)
        visual_tokens = [ids.count(self.processor.image_token_id) for ids in prompts.ids]
        check_context(self.model, [len(ids) for ids in prompts.ids], visual_tokens)
        return self._encode_prompts(prompts)

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
        inputs = self._tokenize(messages, prompt, grid, prepares_images=True)
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
        return limit_auto_grid(self.model.config, grid) if isinstance(grid, AutoGrid) else grid

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
        visual_tokens = count_visual_tokens(self.model, inputs["input_ids"])
        check_context(self.model, prompt_tokens, visual_tokens)

    # Prompts whose images may be encoded already

    def _read(
        self, images: Sequence[Any], texts: Sequence[Content], prompt: str | None, grid: GridInput | None
    ) -> Prompts:
        """Return prompts with opened images; arguments and errors as of `prepare`."""
        inputs = self.processor(
            images=list(images),
            text=list(texts),
            prompt=prompt,
            grid=self.limit_grid(grid),
            prepares_images=False,
        )
        return self._identify(inputs)

    def _read_messages(
        self, messages: Sequence[Message | Mapping[str, Any]], prompt: str | None, grid: GridInput | None
    ) -> Prompts:
        """Return a conversation with opened images; arguments and errors as of `prepare_messages`."""
        messages = read_messages(messages)
        prompts = self._identify(self._tokenize(messages, prompt, grid, prepares_images=False))
        return prompts._replace(has_history=any(message.role == "assistant" for message in messages))

    def _tokenize(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        prompt: str | None,
        grid: GridInput | None,
        prepares_images: bool,
    ) -> BatchFeature:
        return self.processor.apply_chat_template(
            [list(read_messages(messages))],
            prompt=prompt or self.default_prompt,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"grid": self.limit_grid(grid), "prepares_images": prepares_images},
        )

    def _identify(self, inputs: Mapping[str, Any]) -> Prompts:
        rows = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].sum(dim=1).tolist(), strict=True)
        images = [
            identify_images(self.processor, of_prompt, grids)
            for of_prompt, grids in zip(inputs["images"], inputs["grids"], strict=True)
        ]
        # Padding stands on the left.
        return Prompts([ids[len(ids) - length :] for ids, length in rows], images)

    def _complete(self, prompts: Prompts, max_new_tokens: int, options: Mapping[str, Any]) -> list[Answer]:
        """Return the answers that complete prompts; a single one goes on from what was read last."""
        if len(prompts.ids) == 1 and prompts.images[0]:
            with self._lend_session(prompts.images[0]) as session:
                is_repeatable = _is_repeatable(prompts, options)
                return [session.complete(prompts.ids[0], max_new_tokens, options, is_repeatable)]
        if not prompts.ids:
            return []
        return self.generate(self._encode_prompts(prompts), max_new_tokens, **options)

    def _lend_session(self, images: Sequence[IdentifiedImage]) -> contextlib.AbstractContextManager[Session]:
        return self._memory.session(self.model, self.processor, images, self.cached_images)

    def _encode_prompts(self, prompts: Prompts) -> dict[str, Any]:
        """Return the inputs of prompts, padded on the left, with the visual tokens of their images."""
        padded = self.processor.tokenizer.pad(
            {"input_ids": prompts.ids}, padding_side="left", return_tensors="pt"
        )
        inputs = dict(padded.to(self.model.device))

        images = [image for of_prompt in prompts.images for image in of_prompt]
        if images:
            encoded = self._memory.encode(self.model, self.processor, images, self.cached_images)
            visual_tokens = torch.cat([image.visual_tokens for image in encoded])
            features = BaseModelOutputWithPooling(pooler_output=visual_tokens)
            inputs["mm_encoder_outputs"] = {"image": features}
        return inputs

    def generate(self, inputs: Mapping[str, Any], max_new_tokens: int, **options: Any) -> list[Answer]:
        """Return the answers that complete the prompts of prepared `inputs`; options as in `answer`."""
        return generation.generate(
            self.model, self.processor.tokenizer, inputs, max_new_tokens, end_ids=self.end_ids, **options
        )

    def _stream(
        self, inputs: Mapping[str, Any], max_new_tokens: int, options: Mapping[str, Any]
    ) -> AnswerStream:
        return stream(
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
        folder = resources.to_path(folder)
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
        return hub.push_folder(
            lambda folder: self.save(folder, repo_id), repo_id, "Monkey of monkeylib", private, token
        )


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


def _is_repeatable(prompts: Prompts, options: Mapping[str, Any]) -> bool:
    """Return whether answers must not depend, to the last bit, on what was answered before.

    Those of a conversation may: it goes on from its earlier answers as they were generated.
    """
    return not prompts.has_history or options.get("seed") is not None


@contextlib.contextmanager
def _without_contexts(model: torch.nn.Module) -> Iterator[None]:
    """Leave the caller's inference mode and autocast: a stream is computed in a thread that has neither."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(model.device.type, enabled=False):
        yield


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
