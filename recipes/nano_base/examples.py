"""Examples of nano-base's training: views with dense labels, conversations, and attention targets."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from monkeylib.boxes import contains
from monkeylib.data.synthetic import make_sample
from monkeylib.data.synthetic.samples import LEGIBLE, TILE, Question, Sample
from monkeylib.data.synthetic.tasks import Turn, training_turns
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.processing import CLIP_MEAN, CLIP_STD, MonkeyProcessor
from monkeylib.prompts import SEPARATOR, build_prompt
from monkeylib.training.batches import EncodedExample, pad
from recipes.nano_base.answer_locations import visual_token_targets
from recipes.nano_base.dense_labels import dense_labels

# Share of scenes whose signs are asked for by their colour, which is harder to learn than by their place.
BY_COLOUR = 0.7

# The largest shift of positions: what four more views take.
MAX_POSITION_SHIFT = 280

# Dense label points along a side: one every 4 pixels.
POINTS = 24

# Left, top, right and bottom in pixels of the full image.
View = tuple[int, int, int, int]
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))


class BaseExample(NamedTuple):
    """An image with its dense labels and its conversation.

    Fields:
        number: the example's number.
        family: family of the synthetic image.
        images: `[1 + details, 96, 96, 3]` uint8, its view and then details of the same image.
        dense: `[1 + details, 3, 24, 24]` dense labels.
        conversation: None while the language model does not take part.
        targets: `[T]` attention targets of the conversation, as `BaseExamples.locate_targets`.
        shifts: shifts of the positions of the image and of the text after it.
        has_other_images: whether other images may stand in its prompt.
        prompts: prompts of its conversation.
        answerable_prompts: all prompts that its image answers.
    """

    number: int
    family: str
    images: Tensor
    dense: Tensor
    conversation: EncodedExample | None
    targets: Tensor | None
    shifts: tuple[int, int]
    has_other_images: bool
    prompts: frozenset[str]
    answerable_prompts: frozenset[str]


class BaseExamples:
    """Examples of a phase by number: a view of 96 x 96 pixels with dense labels and, mostly, a conversation.

    A view is an image rendered at that size, a 192-pixel image resized to it, or a crop of one. A crop cuts
    through texts and objects as a tile does: anywhere while the model learns to read, later around an answer.

    The image and the text after it mostly stand at later positions than their own, as if other images came
    before and between. So the language model learns to read at the distances that prompts of several views
    have.

    Args:
        processor: of the model.
        split: of the synthetic data.
        answers: give examples conversations.
        several: share of length buckets whose prompts hold other images too, of which none shows the answer.
            These phases also crop documents.
        details: how many of the other images, at most, are details of the image itself that do not show the
            answer, or only a part of it. These phases crop more images, signs among them.
        signs: share of images that show signs; 0 draws them as often as the other families.
        independent: no transcript before questions, and each sign is asked for once, mostly by its colour.
        bucket_size: examples in a length bucket.
    """

    def __init__(
        self,
        processor: MonkeyProcessor,
        split: str,
        answers: bool,
        several: float = 0.0,
        details: int = 0,
        signs: float = 0.0,
        independent: bool = False,
        bucket_size: int = 1,
    ):
        self.processor, self.split, self.answers = processor, split, answers
        self.several, self.details, self.signs = several, details, signs
        self.independent, self.bucket_size = independent, bucket_size

        # Shares of images rendered at the view's size, resized to it, and cropped.
        if details:
            self.shares = (0.3, 0.4, 0.3)
        elif several:
            self.shares = (0.55, 0.25, 0.2)
        elif answers:
            self.shares = (0.75, 0.25, 0.0)
        else:
            self.shares = (0.5, 0.1, 0.4)

    def __call__(self, number: int) -> BaseExample:
        """Return the example of that number, the same each time."""
        rng = np.random.default_rng([11, number])
        sample, view = self._sample_and_view(number, rng)
        views = [_render_view(sample, view)]
        turns: list[Turn] = []
        has_other_images, conversation, targets = False, None, None

        if self.answers:
            # All examples of a bucket decide alike, since they are the other images of each other's prompts.
            bucket_rng = np.random.default_rng([17, number // self.bucket_size])
            has_other_images = bucket_rng.random() < self.several

            turns, has_other_images = self._turns(sample, view, rng, has_other_images)
            images = [self.processor.visual_tokens()]
            tokenized = self.processor.layout.encode_conversation(images, turns, max_length=512)
            conversation = EncodedExample.from_conversation(tokenized)
            targets = self.locate_targets(sample, view, turns, conversation)

            if has_other_images and self.details:
                questions_in_turns = [q for q in sample.questions if (_prompt(q), q.answer) in turns]
                crop_rng = np.random.default_rng([29, number])
                crops = _crops_without_answers(questions_in_turns, sample, view, crop_rng)
                views += [_render_view(sample, crop) for crop in crops[: self.details]]

        images, dense = map(torch.stack, zip(*views, strict=True))
        return BaseExample(
            number,
            sample.family,
            images,
            dense,
            conversation,
            targets,
            shifts=_draw_shifts(rng, has_other_images),
            has_other_images=has_other_images,
            prompts=frozenset(prompt for prompt, _ in turns),
            answerable_prompts=frozenset(_prompt(question) for question in sample.questions),
        )

    def _sample_and_view(self, number: int, rng: np.random.Generator) -> tuple[Sample, View]:
        """Return an image, and the part of it that the view shows."""
        kind = rng.choice(["native", "resized", "crop"], p=self.shares)

        # Crops around an answer are those of documents, later also of signs.
        family = None
        if self.answers and kind == "crop":
            family = "scene_text" if self.details and rng.random() < (self.signs or 0.5) else "document"
        elif self.signs and rng.random() < self.signs:
            family = "scene_text"

        if not self.answers:
            family = str(rng.choice(["document", "scene_text", "general"], p=(0.7, 0.2, 0.1)))

        size = TILE if kind == "native" else 2 * TILE
        sample = make_sample(number, self.split, (size, size), family)
        full_image = (0, 0, size, size)
        if kind != "crop":
            return sample, full_image
        if self.answers:
            return sample, _crop_around_question(sample, rng) or full_image

        x, y = (int(start) for start in rng.integers(0, size - TILE + 1, 2))
        return sample, (x, y, x + TILE, y + TILE)

    def _turns(
        self, sample: Sample, view: View, rng: np.random.Generator, has_other_images: bool
    ) -> tuple[list[Turn], bool]:
        """Return prompts with their answers, and whether other images may stand in the prompt.

        They may not where only a caption can be asked for: the prompt does not say of which image.
        """
        draw_turns = partial(
            training_turns,
            rng=rng,
            scale=TILE / (view[2] - view[0]),
            budget=130,
            independent=self.independent,
            by_colour=BY_COLOUR,
        )

        # A crop: only questions whose answer lies inside, and that name no place in the full image.
        if view[2] - view[0] < sample.image.width:
            inside = tuple(
                question
                for question in sample.questions
                if contains(view, question.answer_box) and not _names_a_place(question)
            )
            turns = draw_turns(replace(sample, questions=inside), detailed=0.0, captions=False)
            return turns, has_other_images

        detailed = 0.3 if self.independent else 0.7
        turns = draw_turns(sample, detailed=detailed, captions=not has_other_images)
        if turns:
            return turns, has_other_images
        return draw_turns(sample, detailed=detailed), False

    def locate_targets(
        self, sample: Sample, view: View, turns: list[Turn], conversation: EncodedExample
    ) -> Tensor:
        """Return `[T]`: the position in the prompt of the visual token that shows each label, else -1."""
        side = math.isqrt(self.processor.queries)
        targets = torch.full_like(conversation.turns, -1)

        for number, (_, answer) in enumerate(turns):
            positions = (conversation.turns == number).nonzero()[:-1, 0]  # without the end of text
            queries = torch.tensor(visual_token_targets(sample, answer, self.processor.tokenizer, side, view))
            # Turns that were cut off have no labels. Query 0 stands after the opening `<img>`.
            if len(positions):
                targets[positions] = torch.where(queries >= 0, queries + 1, -1)

        return targets

    def collate(self, examples: list[BaseExample]) -> dict[str, Tensor]:
        """Return a batch.

        Returns:
            `pixel_values [V, 3, 96, 96]`, normalised, and `dense [V, 3, 24, 24]` of all images: first the
            view of each example, then all details. With conversations also the padded conversations,
            `position_ids` and `attention_targets` `[B, T]`, and in `views` the indices of the images of all
            prompts, in their order.
        """
        images = [example.images for example in examples]
        dense = [example.dense for example in examples]
        pixels = torch.cat(
            [*(of_example[:1] for of_example in images), *(of_example[1:] for of_example in images)]
        )
        labels = torch.cat(
            [*(of_example[:1] for of_example in dense), *(of_example[1:] for of_example in dense)]
        )
        batch = {"pixel_values": (pixels.permute(0, 3, 1, 2) / 255 - MEAN) / STD, "dense": labels}
        if not self.answers:
            return batch

        # Put the spans of the other images into each prompt.
        views = self._images_of_prompts(examples)
        conversations, targets = [], []
        for number, (example, prompt_images) in enumerate(zip(examples, views, strict=True)):
            conversation, prompt_targets = self._insert_images(
                example, len(prompt_images), prompt_images.index(number)
            )
            conversations.append(conversation)
            targets.append(prompt_targets)

        batch |= pad(conversations, self.processor.tokenizer.pad_token_id)

        # Positions count from the shift of the image, from the end of its span on from that of the text.
        positions = torch.arange(batch["input_ids"].shape[1]).repeat(len(examples), 1)
        is_text = positions >= len(self.processor.image_ids())
        image_shift, text_shift = torch.tensor([example.shifts for example in examples]).T[..., None]

        return batch | {
            "position_ids": positions + torch.where(is_text, text_shift, image_shift),
            "attention_targets": nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-1),
            "views": torch.tensor([image for prompt_images in views for image in prompt_images]),
        }

    def _images_of_prompts(self, examples: list[BaseExample]) -> list[list[int]]:
        """Return the indices of the images of each prompt, in their order.

        A prompt has its own image and, where others may stand there, one to four that do not answer its
        questions. Details of its own image are taken before images of other examples.
        """
        rng = np.random.default_rng([19, examples[0].number])
        images_of_prompts = []
        next_detail = len(examples)  # details follow the views of all examples

        for number, example in enumerate(examples):
            details = list(range(next_detail, next_detail + len(example.images) - 1))
            next_detail += len(details)

            candidates = [index for index, other in enumerate(examples) if _can_share_prompt(example, other)]
            candidates = [*details, *rng.permutation(candidates).tolist()]
            selected = candidates[: rng.integers(1, 5)] if example.has_other_images else []
            if details:
                rng.shuffle(selected)

            selected.insert(int(rng.integers(0, len(selected) + 1)), number)
            images_of_prompts.append(selected)

        return images_of_prompts

    def _insert_images(
        self, example: BaseExample, num_images: int, index: int
    ) -> tuple[EncodedExample, Tensor]:
        """Return an example's conversation and targets with more images in its prompt.

        Args:
            example: with one image in its prompt.
            num_images: images in the new prompt.
            index: which of them is the example's own.
        """
        span = torch.tensor(self.processor.image_ids())
        added = (num_images - 1) * len(span)

        # All spans hold the same ids, so the new ones can come first.
        ids = torch.cat([*[span] * (num_images - 1), example.conversation.input_ids])
        labels = nn.functional.pad(example.conversation.labels, (added, 0), value=IGNORE_INDEX)
        turns = nn.functional.pad(example.conversation.turns, (added, 0), value=-1)

        targets = torch.where(example.targets >= 0, example.targets + index * len(span), -1)
        return EncodedExample(ids, labels, turns), nn.functional.pad(targets, (added, 0), value=-1)


def _draw_shifts(rng: np.random.Generator, has_other_images: bool) -> tuple[int, int]:
    """Draw the shifts of the positions of the image and of the text; none beside other images."""
    shift = 0
    draws_shift = rng.random() < 0.75
    if draws_shift and not has_other_images:
        shift = int(rng.integers(0, MAX_POSITION_SHIFT))
    if not shift:
        return 0, 0
    return shift, int(rng.integers(shift, MAX_POSITION_SHIFT))


def _render_view(sample: Sample, view: View) -> tuple[Tensor, Tensor]:
    """Return a part of an image as one view, `[96, 96, 3]` uint8, and its dense labels `[3, 24, 24]`."""
    image = sample.image.crop(view).resize((TILE, TILE), Image.Resampling.BICUBIC)
    labels = dense_labels(sample, view, TILE, POINTS)
    dense = np.stack([labels.chars, labels.objects, labels.colours])
    return torch.from_numpy(np.array(image)), torch.from_numpy(dense)


def _prompt(question: Question) -> str:
    return build_prompt("vqa", question.question, SEPARATOR)


def _names_a_place(question: Question) -> bool:
    """Return whether a question names a place in the image, which is another one in a crop."""
    return question.question.startswith("what is written at")


def _crops_without_answers(
    questions: list[Question], sample: Sample, view: View, rng: np.random.Generator
) -> list[View]:
    """Return parts of an image in which no answer to these questions can be read.

    These are crops of a tile's size that cut the answers or lie elsewhere and, where `view` is a crop, the
    full image if all answers are too small in it.
    """
    width, height = sample.image.size
    if width == TILE:
        return []

    crops: list[View] = []
    for _ in range(4):
        x = int(rng.integers(0, width - TILE + 1))
        y = int(rng.integers(0, height - TILE + 1))
        crop = (x, y, x + TILE, y + TILE)
        if not any(contains(crop, question.answer_box) for question in questions):
            crops.append(crop)

    view_is_crop = view[2] - view[0] < width
    if view_is_crop and all(question.text_size == "fine" for question in questions):
        crops.insert(0, (0, 0, width, height))
    return crops


def _crop_around_question(sample: Sample, rng: np.random.Generator) -> View | None:
    """Return a crop of a tile's size around the answer to a question, None if no answer fits into one."""
    answer_boxes = []
    for question in sample.questions:
        left, top, right, bottom = question.answer_box
        if max(right - left, bottom - top) < TILE - 1 and question.height >= LEGIBLE:
            answer_boxes.append(question.answer_box)

    if not answer_boxes:
        return None

    # Anywhere inside the image, as long as the crop holds the box.
    left, top, right, bottom = answer_boxes[rng.integers(len(answer_boxes))]
    width, height = sample.image.size
    x = int(rng.integers(max(0, math.ceil(right) - TILE), min(int(left), width - TILE) + 1))
    y = int(rng.integers(max(0, math.ceil(bottom) - TILE), min(int(top), height - TILE) + 1))
    return (x, y, x + TILE, y + TILE)


def _can_share_prompt(example: BaseExample, other: BaseExample) -> bool:
    """Return whether another image may stand in an example's prompt without making its questions ambiguous.

    Questions about objects name no image, and any scene may show the object.
    """
    if example.family == other.family == "general":
        return False
    return example.number != other.number and example.prompts.isdisjoint(other.answerable_prompts)
