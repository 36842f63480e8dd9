"""A sample of the synthetic data: an image with its complete ground truth. And the test sets of samples.

sample number ──▶ scene, signs or document ──▶ image, captions, questions with answers and answer boxes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.random import Generator
from PIL import Image

from monkeylib.boxes import Box, clip, enclosing_box
from monkeylib.data.synthetic import words
from monkeylib.data.synthetic.canvas import STYLE, Style, Text
from monkeylib.data.synthetic.documents import KINDS, Document, make_document
from monkeylib.data.synthetic.renderings import is_cut, render
from monkeylib.data.synthetic.scenes import NUMBERS, OBJECTS, DrawnObject, Sign, make_scene, make_signs
from monkeylib.errors import unknown_name

TILE = 96  # pixels: tile size of the nano profile, which text sizes are relative to
LEGIBLE = 9  # pixels: font size from which the nano encoder can read a text in a view
FAMILIES = ("general", "scene_text", "document")
MAX_SIGNS = 3  # in an image of scene text
_FAMILY_SHARES = (0.28, 0.24, 0.48)


@dataclass(frozen=True)
class Question:
    """A question with its answer and the place of the answer in the image.

    Attributes:
        question: the question.
        answer: its answer.
        family: one of `FAMILIES`.
        kind: kind of the answer: colour, where, what, count, read, title, value, cell or compare.
        answer_box: box in pixels around everything that the answer needs.
        height: font size in pixels of the smallest text that the answer needs, or the shorter side of the
            object.
        text_size: `fine` (small text, not legible once the image is resized to one tile), `large` (text
            still legible then) or `object`.
    """

    question: str
    answer: str
    family: str
    kind: str
    answer_box: Box
    height: float
    text_size: str


@dataclass(frozen=True)
class Sample:
    """An image with its complete ground truth.

    Attributes:
        image: RGB.
        split: train, val or test.
        seed: number of the sample in its split.
        family: one of `FAMILIES`.
        caption: a short caption.
        detailed_caption: a caption with locations, or the text in reading order.
        questions: all questions about it.
        objects, signs, texts: everything drawn, texts in reading order.
        facts: the (key, value) pairs that can be read.
        document: title, columns and lines of a document.
        rendering: one of `renderings.RENDERINGS`. All boxes are those of the image before.
        change: what differs from training, one of `transfer.CHANGES`; empty for ordinary samples.
    """

    image: Image.Image
    split: str
    seed: int
    family: str
    caption: str
    detailed_caption: str
    questions: tuple[Question, ...]
    objects: tuple[DrawnObject, ...] = ()
    signs: tuple[Sign, ...] = ()
    texts: tuple[Text, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    document: Document | None = None
    rendering: str = "ordinary"
    change: str = ""

    @property
    def transcript(self) -> str:
        """All text in reading order."""
        return " ".join(text.string for text in self.texts)


def make_sample(
    seed: int,
    split: str,
    size: tuple[int, int] = (192, 192),
    family: str | None = None,
    rendering: str = "ordinary",
    style: Style = STYLE,
    signs: int | None = None,
) -> Sample:
    """Make sample number `seed` of a split: the same image and ground truth on every machine.

    Args:
        seed: any non-negative integer. The split is part of the random seed, so no two splits share a layout.
        split: `train`, `val` or `test`.
        size: width and height in pixels.
        family: one of `FAMILIES`; drawn at random if not given.
        rendering: one of `renderings.RENDERINGS`. Where quadrants are transformed, there may be no question
            about an image.
        style: what the image is drawn with.
        signs: number of signs in an image of scene text, one to three; at random if not given. Those that
            find no free space are left out. Images of other families have none.

    Raises:
        ValueError: unknown split, family or rendering, or another number of signs.
    """
    if split not in words.SPLITS:
        raise unknown_name("split", split, words.SPLITS)
    if family is not None and family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)

    if signs is not None and not 1 <= signs <= MAX_SIGNS:
        raise ValueError(f"signs: expected a number from 1 to {MAX_SIGNS}, got {signs}")

    # The family is drawn even if it is given, so that it does not change anything else.
    rng = np.random.default_rng([words.SPLITS.index(split), seed, *size])
    random_family = FAMILIES[rng.choice(len(FAMILIES), p=_FAMILY_SHARES)]
    family = family or random_family
    make = partial(_make_sign_sample, count=signs) if family == "scene_text" else _MAKE[family]
    if rendering == "ordinary":
        return make(rng, split, seed, size, style)

    sample = make(rng, split, seed, size, replace(style, by_quadrant=True))
    return replace(sample, image=render(sample.image, rendering, seed), rendering=rendering)


# --- sizes of text --------------------------------------------------------------------------------


# Of the sides of an image, for the largest text.
_SHARE_OF_WIDTH = 0.14
_SHARE_OF_HEIGHT = 0.21


def text_size_of(height: float, size: tuple[int, int]) -> str:
    """Return `fine` if text of a height is no longer legible once the image is resized to one tile, else
    `large`. An image that is wider than high shrinks most in its width, and its letters with it."""
    return "fine" if height * TILE / max(size) < LEGIBLE else "large"


def draw_font_heights(rng: Generator, size: tuple[int, int], count: int) -> list[int]:
    """Draw font sizes in pixels: legible at full resolution, and clearly fine or clearly large."""
    zoom = max(size) / TILE

    # Fine text of 10 to 13 pixels is legible in tiles; large text has that height in the global view.
    fine = [int(rng.integers(10, 14)) for _ in range(count)]
    # A document has room for a title and some lines, however low or narrow the image.
    highest = int(min(_SHARE_OF_WIDTH * size[0], _SHARE_OF_HEIGHT * size[1]))
    large = [min(round(zoom * height), highest) for height in rng.integers(10, 14, count)]
    return [small if rng.random() < 0.6 else big for small, big in zip(fine, large, strict=True)]


# --- scenes of objects ----------------------------------------------------------------------------


def _make_scene_sample(rng: Generator, split: str, seed: int, size: tuple[int, int], style: Style) -> Sample:
    image, objects = make_scene(rng, split, size, style)

    # The short caption counts objects: "a ball, two stars and a tree on a photograph".
    counts = Counter(drawn.name for drawn in objects)
    groups = [
        _with_article(name) if count == 1 else f"{NUMBERS[count]} {_plural(name)}"
        for name, count in counts.items()
    ]
    if len(groups) > 1:
        groups = [", ".join(groups[:-1]), groups[-1]]

    # The detailed caption locates each of them.
    sentences = [f"{_with_article(drawn.colour)} {drawn.name} at the {drawn.location}." for drawn in objects]
    return Sample(
        image=image,
        split=split,
        seed=seed,
        family="general",
        caption=" and ".join(groups) + " on a photograph",
        detailed_caption=" ".join(sentences),
        questions=tuple(_scene_questions(rng, objects, size)),
        objects=tuple(objects),
    )


def _scene_questions(rng: Generator, objects: list[DrawnObject], size: tuple[int, int]) -> list[Question]:
    # (question, answer, kind, boxes of the objects that have to be seen), in the order below
    drafts: list[tuple[str, str, str, list[Box]]] = []

    # A question names an object or a location only if that is unambiguous.
    names = Counter(drawn.name for drawn in objects)
    locations = Counter(drawn.location for drawn in objects)
    for drawn in objects:
        if names[drawn.name] == 1:
            drafts.append((f"what colour is the {drawn.name}?", drawn.colour, "colour", [drawn.box]))
            drafts.append((f"where is the {drawn.name}?", drawn.location, "where", [drawn.box]))
        if locations[drawn.location] == 1:
            drafts.append((f"what is at the {drawn.location}?", drawn.name, "what", [drawn.box]))

    for name, count in names.items():
        boxes = [drawn.box for drawn in objects if drawn.name == name]
        drafts.append((f"how many {_plural(name)} are there?", NUMBERS[count], "count", boxes))

    # One question about something that is not in the image: it needs the full image.
    absent = words.pick(rng, [name for name in OBJECTS if name not in names])[0]
    full_image = (0.0, 0.0, float(size[0]), float(size[1]))
    drafts.append((f"how many {_plural(absent)} are there?", NUMBERS[0], "count", [full_image]))

    answer_boxes = [clip(enclosing_box(*boxes), size) for *_, boxes in drafts]
    questions = []
    for (question, answer, kind, boxes), answer_box in zip(drafts, answer_boxes, strict=True):
        # Objects are as legible as their shorter side is long.
        height = min(min(box[2] - box[0], box[3] - box[1]) for box in boxes)
        questions.append(Question(question, answer, "general", kind, answer_box, height, "object"))

    return questions


# --- signs ----------------------------------------------------------------------------------------


def _make_sign_sample(
    rng: Generator, split: str, seed: int, size: tuple[int, int], style: Style, count: int | None = None
) -> Sample:
    if count is None:
        count = int(rng.integers(1, MAX_SIGNS + 1))
    heights = draw_font_heights(rng, size, count)
    image, signs = make_signs(rng, split, size, heights, style)

    sentences = [
        f"{_with_article(sign.colour)} sign at the {sign.location} says {sign.text.string}." for sign in signs
    ]
    return Sample(
        image=image,
        split=split,
        seed=seed,
        family="scene_text",
        caption=" and ".join(f"{_with_article(sign.colour)} sign" for sign in signs) + " on a photograph",
        detailed_caption=" ".join(sentences),
        questions=tuple(_sign_questions(signs, size)),
        signs=tuple(signs),
        texts=tuple(sign.text for sign in signs),
        facts=tuple(("sign", sign.text.string) for sign in signs),
    )


def _sign_questions(signs: list[Sign], size: tuple[int, int]) -> list[Question]:
    locations = Counter(sign.location for sign in signs)
    answer_boxes = [clip(sign.box, size) for sign in signs]

    questions = []
    for sign, answer_box in zip(signs, answer_boxes, strict=True):
        # Questions name a sign by its colour, by its location if that is unambiguous, and as "the sign" if
        # there is no other.
        forms = [f"what does the {sign.colour} sign say?"]
        if len(signs) == 1:
            forms.append("what does the sign say?")
        if locations[sign.location] == 1:
            forms.append(f"what is written at the {sign.location}?")

        height = sign.text.height
        for form in forms:
            questions.append(
                Question(
                    question=form,
                    answer=sign.text.string,
                    family="scene_text",
                    kind="read",
                    answer_box=answer_box,
                    height=height,
                    text_size=text_size_of(height, size),
                )
            )

    return questions


# --- documents ------------------------------------------------------------------------------------


def _make_document_sample(
    rng: Generator, split: str, seed: int, size: tuple[int, int], style: Style
) -> Sample:
    kind = KINDS[rng.integers(len(KINDS))]
    height, title_height = draw_font_heights(rng, size, 2)
    image, document = make_document(rng, split, size, kind, height, max(height, title_height), style)

    title = document.title.string
    return Sample(
        image=image,
        split=split,
        seed=seed,
        family="document",
        caption=f"a {kind} with {len(document.lines)} lines titled {title}",
        detailed_caption=f"a {kind}. " + " ".join(text.string for text in document.texts),
        questions=tuple(_document_questions(document, size, style)),
        texts=tuple(document.texts),
        facts=tuple(_facts_of(document)),
        document=document,
    )


def _facts_of(document: Document) -> list[tuple[str, str]]:
    """Return the (key, value) pairs of a document, its title last."""
    facts = []
    for line in document.lines:
        key = line.key.string.rstrip(":")
        if document.kind == "table":
            for column, value in zip(document.columns, line.values, strict=True):
                facts.append((f"{key} {column.string}", value.string))
        else:
            facts.append((key, line.values[0].string))

    title_key = "shop" if document.kind == "receipt" else document.kind
    return [*facts, (title_key, document.title.string)]


def _document_questions(document: Document, size: tuple[int, int], style: Style) -> list[Question]:
    # (question, answer, kind, texts that have to be read), in the order below
    drafts: list[tuple[str, Text, str, list[Text]]] = []

    def add(question: str, answer: Text, kind: str, *texts: Text) -> None:
        drafts.append((question, answer, kind, [answer, *texts]))

    add("what shop is this?" if document.kind == "receipt" else "what is the title?", document.title, "title")
    for line in document.lines:
        key = line.key.string.rstrip(":")
        if document.kind == "table":
            for column, value in zip(document.columns, line.values, strict=True):
                add(f"what is {column.string} for {key}?", value, "cell", line.key, column)
        elif document.kind == "chart":
            add(f"what is the value of {key}?", line.values[0], "value", line.key)
        elif document.kind == "receipt" and key != "total":
            add(f"how much is the {key}?", line.values[0], "value", line.key)
        else:
            add(f"what is the {key}?", line.values[0], "value", line.key)

    if document.kind == "chart":
        values = [int(line.values[0].string) for line in document.lines]
        if len(set(values)) == len(values) > 1:  # the highest and the lowest are unambiguous
            # A comparison needs every key and every value.
            texts = [text for line in document.lines for text in (line.key, *line.values)]
            highest, lowest = document.lines[int(np.argmax(values))], document.lines[int(np.argmin(values))]
            add("which is the highest?", highest.key, "compare", *texts)
            add("which is the lowest?", lowest.key, "compare", *texts)

    # Where quadrants are transformed, a text that a border cuts cannot be read.
    if style.by_quadrant:
        drafts = [draft for draft in drafts if not any(is_cut(text.box, size) for text in draft[3])]

    # A question needs its texts together: the box encloses all, and the smallest decides the text size.
    boxes_of_texts = [[text.box for text in texts] for *_, texts in drafts]
    boxes = [clip(enclosing_box(*text_boxes), size) for text_boxes in boxes_of_texts]
    questions = []
    for (question, answer, kind, texts), box in zip(drafts, boxes, strict=True):
        height = min(text.height for text in texts)
        text_size = text_size_of(height, size)
        questions.append(Question(question, answer.string, "document", kind, box, height, text_size))

    return questions


_MAKE: dict[str, Callable[[Generator, str, int, tuple[int, int], Style], Sample]] = {
    "general": _make_scene_sample,
    "scene_text": _make_sign_sample,
    "document": _make_document_sample,
}


def _plural(name: str) -> str:
    irregular = {"fish": "fish", "box": "boxes", "cross": "crosses"}
    return irregular.get(name, name + "s")


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


# --- test sets --------------------------------------------------------------------------------------------

TEST_SETS = ("fine", "large", "general", "caption")


@dataclass(frozen=True)
class TestQuestion:
    """A question of a test set about one image.

    Attributes:
        id: unique in the test set.
        sample: the image with its ground truth.
        prompt: name of the prompt.
        question: empty for captions.
        answers: answers that count as correct.
        annotation: the question with its answer box and text size; None for captions.
    """

    __test__ = False  # pytest: this is not a test class

    id: str
    sample: Sample
    prompt: str
    question: str
    answers: tuple[str, ...]
    annotation: Question | None


# Without a question in so many images, there is none in any.
_MOST_SAMPLES = 300


def make_test_set(
    name: str,
    count: int,
    split: str = "test",
    size: tuple[int, int] = (192, 192),
    per_image: int = 2,
    rendering: str = "ordinary",
    make: Callable[[int], Sample] | None = None,
) -> list[TestQuestion]:
    """Make the first `count` questions of a test set, always the same ones.

    Args:
        name: `fine` (text that is not legible once the image is resized to one tile), `large` (text that is
            still legible then), `general` (objects) or `caption`.
        count: number of questions.
        split: `test`, or `val` to choose settings.
        size: width and height of the images in pixels.
        per_image: maximum number of questions about one image.
        rendering: one of `renderings.RENDERINGS`. All questions of `fixed` are those of `dealt`.
        make: makes a sample from its number, in place of `make_sample` with these settings.

    Raises:
        ValueError: unknown name, split or rendering, or images of this size have no such questions.
    """
    if name not in TEST_SETS:
        raise unknown_name("test set", name, TEST_SETS)

    # Samples in order, until they have given enough questions.
    questions: list[TestQuestion] = []
    seed = 0
    while len(questions) < count:
        sample = make(seed) if make else make_sample(seed, split, size, rendering=rendering)
        seed += 1
        if seed == _MOST_SAMPLES and not questions:
            raise ValueError(
                f"images of {size[0]} x {size[1]} pixels have no questions of the kind {name}: expected some "
                f"that are larger than one tile of {TILE} pixels"
            )

        if name == "caption":
            id = f"caption-{sample.seed}"
            questions.append(TestQuestion(id, sample, "caption", "", (sample.caption,), None))
        else:
            questions += _select_questions(sample, name, per_image)

    return questions[:count]


def _select_questions(sample: Sample, name: str, count: int) -> list[TestQuestion]:
    text_size = "object" if name == "general" else name
    matching = [question for question in sample.questions if question.text_size == text_size]

    # Questions are in reading order. Start at a position that differs from image to image.
    start = sample.seed % max(1, len(matching))
    selected = _spread(matching[start:] + matching[:start], count)

    return [
        TestQuestion(
            id=f"{name}-{sample.seed}-{number}",
            sample=sample,
            prompt="vqa",
            question=question.question,
            answers=(question.answer,),
            annotation=question,
        )
        for number, question in enumerate(selected)
    ]


def _spread(questions: list[Question], count: int) -> list[Question]:
    """Return at most `count` questions, evenly spread over their order."""
    step = max(1, len(questions) // count)
    return questions[::step][:count]
