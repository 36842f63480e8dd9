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
from monkeylib.processing import CLIP_MEAN, CLIP_STD, MonkeyProcessor
from monkeylib.prompts import IGNORE_INDEX, SEPARATOR, build_prompt
from monkeylib.training.data import EncodedExample, encode_conversation, pad
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
    """An image with what is learned from it."""

    number: int
    family: str
    images: Tensor  # [1 + details, 96, 96, 3] uint8
    dense: Tensor  # [1 + details, 3, 24, 24]
    conversation: EncodedExample | None
    targets: Tensor | None
    shifts: tuple[int, int]  # of the positions of image and text
    among: bool  # whether other images stand in its prompt
    asked: frozenset[str]  # its prompts
    answers: frozenset[str]  # prompts that its image answers, asked or not


class BaseExamples:
    """Example `n` of a phase: a view of 96 x 96 pixels with dense labels and, where the language model takes
    part, a conversation.

    A view is an image rendered at that size, a 192-pixel image resized to it, or a crop of one. A crop cuts
    through texts and objects as a tile does: anywhere while the model learns to read, later around an answer.

    The image and what follows it mostly stand at later positions than their own, as if other images came
    before and between. So the language model learns to read at the distances that prompts of several views
    have.

    Args:
        answers: with conversations.
        several: share of length buckets whose prompts hold other images too, only one of which shows the
            answer. With it come crops of documents.
        details: so many other images of a prompt, at most, are parts of its own image that do not hold
            what is asked for, or not whole. With it come more crops, and some of signs.
        signs: share of images that show signs; drawn like the other families if 0.
        independent: no transcript before questions, and each sign asked for once, mostly by its colour.
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
        shown = [_render_view(sample, view)]
        answers = frozenset(_prompt(q) for q in sample.questions)
        turns, among, conversation, targets = [], False, None, None
        if self.answers:
            among = np.random.default_rng([17, number // self.bucket_size]).random() < self.several
            turns, among = self._turns(sample, view, rng, among)
            images = [self.processor.visual_tokens()]
            conversation = encode_conversation(self.processor.layout, images, turns, max_length=512)
            targets = self.targets(sample, view, turns, conversation)
            if among and self.details:
                asked = [q for q in sample.questions if (_prompt(q), q.answer) in turns]
                parts = _crops_without_answers(asked, sample, view, np.random.default_rng([29, number]))
                shown += [_render_view(sample, part) for part in parts[: self.details]]
        images, dense = map(torch.stack, zip(*shown, strict=True))
        shift = int(rng.integers(0, MAX_POSITION_SHIFT)) if rng.random() < 0.75 and not among else 0
        shifts = (shift, int(rng.integers(shift, MAX_POSITION_SHIFT))) if shift else (0, 0)
        asked = frozenset(prompt for prompt, _ in turns)
        return BaseExample(
            number, sample.family, images, dense, conversation, targets, shifts, among, asked, answers
        )

    def _sample_and_view(self, number: int, rng: np.random.Generator) -> tuple[Sample, View]:
        """Return an image, and the part of it that the view shows."""
        kind = rng.choice(["native", "resized", "crop"], p=self.shares)
        family = None
        if self.answers and kind == "crop":
            family = "scene_text" if self.details and rng.random() < (self.signs or 0.5) else "document"
        elif self.signs and rng.random() < self.signs:
            family = "scene_text"
        if not self.answers:
            family = str(rng.choice(["document", "scene_text", "general"], p=(0.7, 0.2, 0.1)))
        size = TILE if kind == "native" else 2 * TILE
        sample = make_sample(number, self.split, (size, size), family)
        whole = (0, 0, size, size)
        if kind != "crop":
            return sample, whole
        if self.answers:
            return sample, _crop_around_question(sample, rng) or whole
        x, y = (int(v) for v in rng.integers(0, size - TILE + 1, 2))
        return sample, (x, y, x + TILE, y + TILE)

    def _turns(
        self, sample: Sample, view: View, rng: np.random.Generator, among: bool
    ) -> tuple[list[Turn], bool]:
        """What is asked, and whether other images may stand beside this one: who asks for a caption would
        have to say of which."""
        scale = TILE / (view[2] - view[0])
        mix = {"budget": 130, "independent": self.independent, "by_colour": BY_COLOUR}
        ask = partial(training_turns, rng=rng, scale=scale, **mix)
        if view[2] - view[0] < sample.image.width:
            inside = tuple(
                q for q in sample.questions if contains(view, q.answer_box) and not _names_a_place(q)
            )
            return ask(replace(sample, questions=inside), detailed=0.0, captions=False), among
        detailed = 0.3 if self.independent else 0.7
        turns = ask(sample, detailed=detailed, captions=not among)
        return (turns, among) if turns else (ask(sample, detailed=detailed), False)

    def targets(self, sample: Sample, view: View, turns: list[Turn], conversation: EncodedExample) -> Tensor:
        """`[T]`: the place in the prompt of the visual token that shows each labelled character, else -1."""
        side = math.isqrt(self.processor.queries)
        targets = torch.full_like(conversation.turns, -1)
        for number, (_, answer) in enumerate(turns):
            places = (conversation.turns == number).nonzero()[:-1, 0]  # without the end of text
            queries = torch.tensor(visual_token_targets(sample, answer, self.processor.tokenizer, side, view))
            if len(places):
                targets[places] = torch.where(queries >= 0, queries + 1, -1)  # after the opening tag
        return targets

    def collate(self, rows: list[BaseExample]) -> dict[str, Tensor]:
        """A batch: normalised `pixel_values [V, 3, 96, 96]` and `dense [V, 3, 24, 24]` of all images, the
        rows' own ones first, the padded conversations, and in `views` the images of all prompts in their
        order."""
        pixels, dense = (
            torch.cat([*(part[:1] for part in parts), *(part[1:] for part in parts)])
            for parts in ([row.images for row in rows], [row.dense for row in rows])
        )
        batch = {"pixel_values": (pixels.permute(0, 3, 1, 2) / 255 - MEAN) / STD, "dense": dense}
        if not self.answers:
            return batch
        views = self._images_of_prompts(rows)
        own = [images.index(number) for number, images in enumerate(views)]
        prompts = [self._insert_images(row, len(v), o) for row, v, o in zip(rows, views, own, strict=True)]
        conversations, targets = zip(*prompts, strict=True)
        batch |= pad(conversations, self.processor.tokenizer.pad_token_id)
        positions = torch.arange(batch["input_ids"].shape[1]).repeat(len(rows), 1)
        text = positions >= len(self.processor.image_ids())
        before, after = torch.tensor([row.shifts for row in rows]).T[..., None]
        return batch | {
            "position_ids": positions + torch.where(text, after, before),
            "attention_targets": nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-1),
            "views": torch.tensor([image for images in views for image in images]),
        }

    def _images_of_prompts(self, rows: list[BaseExample]) -> list[list[int]]:
        """The images of each prompt: its own and, where there may be others, one to four that do not answer
        what is asked of it, parts of its own image before those of other rows."""
        rng = np.random.default_rng([19, rows[0].number])
        views, first = [], len(rows)
        for number, row in enumerate(rows):
            parts, first = list(range(first, first + len(row.images) - 1)), first + len(row.images) - 1
            others = [n for n, other in enumerate(rows) if _can_share_prompt(row, other)]
            others = [*parts, *rng.permutation(others).tolist()]
            chosen = others[: rng.integers(1, 5)] if row.among else []
            if parts:
                rng.shuffle(chosen)
            chosen.insert(int(rng.integers(0, len(chosen) + 1)), number)
            views.append(chosen)
        return views

    def _insert_images(self, row: BaseExample, images: int, own: int) -> tuple[EncodedExample, Tensor]:
        """A row's conversation after so many images, of which its own has the number `own`."""
        span = torch.tensor(self.processor.image_ids())
        more = (images - 1) * len(span)
        ids = torch.cat([*[span] * (images - 1), row.conversation.input_ids])
        labels = nn.functional.pad(row.conversation.labels, (more, 0), value=IGNORE_INDEX)
        turns = nn.functional.pad(row.conversation.turns, (more, 0), value=-1)
        targets = torch.where(row.targets >= 0, row.targets + own * len(span), -1)
        return EncodedExample(ids, labels, turns), nn.functional.pad(targets, (more, 0), value=-1)


def _render_view(sample: Sample, view: View) -> tuple[Tensor, Tensor]:
    """A part of an image as one view: `[96, 96, 3]` uint8, and its dense labels `[3, 24, 24]`."""
    image = sample.image.crop(view).resize((TILE, TILE), Image.Resampling.BICUBIC)
    labels = dense_labels(sample, view, TILE, POINTS)
    dense = np.stack([labels.chars, labels.objects, labels.colours])
    return torch.from_numpy(np.array(image)), torch.from_numpy(dense)


def _prompt(question: Question) -> str:
    return build_prompt("vqa", question.question, SEPARATOR)


def _names_a_place(question: Question) -> bool:
    """Whether it names a place in the image, which is another one in a part of it."""
    return question.question.startswith("what is written at")


def _crops_without_answers(
    asked: list[Question], sample: Sample, view: View, rng: np.random.Generator
) -> list[View]:
    """Parts of an image in which nothing that is asked can be read: crops of a tile's size that cut it or
    lie elsewhere and, where `view` is such a crop, the whole image if all of it is too small there."""
    width, height = sample.image.size
    if width == TILE:
        return []
    parts: list[View] = []
    for _ in range(4):
        x = int(rng.integers(0, width - TILE + 1))
        y = int(rng.integers(0, height - TILE + 1))
        part = (x, y, x + TILE, y + TILE)
        if not any(contains(part, question.answer_box) for question in asked):
            parts.append(part)

    if view[2] - view[0] < width and all(q.text_size == "fine" for q in asked):
        parts.insert(0, (0, 0, width, height))
    return parts


def _crop_around_question(sample: Sample, rng: np.random.Generator) -> View | None:
    """A crop of a tile's size around the evidence of a question, if that of any fits into one."""
    fitting = [
        q.answer_box
        for q in sample.questions
        if max(q.answer_box[2] - q.answer_box[0], q.answer_box[3] - q.answer_box[1]) < TILE - 1
        and q.height >= LEGIBLE
    ]
    if not fitting:
        return None
    left, top, right, bottom = fitting[rng.integers(len(fitting))]
    width, height = sample.image.size
    x = int(rng.integers(max(0, math.ceil(right) - TILE), min(int(left), width - TILE) + 1))
    y = int(rng.integers(max(0, math.ceil(bottom) - TILE), min(int(top), height - TILE) + 1))
    return (x, y, x + TILE, y + TILE)


def _can_share_prompt(row: BaseExample, other: BaseExample) -> bool:
    """Whether another image leaves no doubt of which one a row's questions are. Objects may be in both."""
    if row.family == other.family == "general":
        return False
    return row.number != other.number and row.asked.isdisjoint(other.answers)
