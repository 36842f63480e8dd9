"""One sample of the nano world: an image and everything that is true of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from PIL import Image

from monkeylib.boxes import Box, clip, enclosing_box
from monkeylib.data.synthetic import words
from monkeylib.data.synthetic.canvas import Text
from monkeylib.data.synthetic.documents import KINDS, Document, make_document
from monkeylib.data.synthetic.scenes import NUMBERS, OBJECTS, Sign, Thing, make_scene, make_signs

TILE = 96  # pixels: the tile size of the nano profile; print sizes are stated relative to it
LEGIBLE = 9  # font pixels in a view from which the nano encoder can read
FAMILIES = ("general", "scene_text", "document")


@dataclass(frozen=True)
class Question:
    """A question with its answer and the evidence that it needs.

    `height` is the evidence's size in pixels of the full image: font size of the smallest text needed, or
    the object's shorter side. `print` is `fine` (text gone when the image is resized to one tile),
    `large` (text still legible there) or `object`.
    """

    question: str
    answer: str
    family: str
    kind: str
    evidence: Box
    height: float
    print: str


@dataclass(frozen=True)
class Sample:
    """An image with its complete ground truth."""

    image: Image.Image
    split: str
    seed: int
    family: str
    caption: str
    detailed_caption: str
    questions: tuple[Question, ...]
    things: tuple[Thing, ...] = ()
    signs: tuple[Sign, ...] = ()
    texts: tuple[Text, ...] = ()  # in reading order
    facts: tuple[tuple[str, str], ...] = field(default=())  # the (key, value) pairs shown

    @property
    def transcript(self) -> str:
        """All text in reading order."""
        return " ".join(t.string for t in self.texts)


def print_of(height: float, size: tuple[int, int]) -> str:
    """`fine` if text of this height falls below legibility once the image is resized to one tile, else
    `large`."""
    return "fine" if height * TILE / min(size) < LEGIBLE else "large"


def font_heights(rng: Generator, size: tuple[int, int], count: int) -> list[int]:
    """Font sizes in pixels: legible at full resolution, and after resizing to one tile either still legible
    or gone."""
    zoom = min(size) / TILE
    fine = [int(rng.integers(10, 14)) for _ in range(count)]
    large = [round(zoom * h) for h in rng.integers(10, 14, count)]
    return [f if rng.random() < 0.6 else b for f, b in zip(fine, large, strict=True)]


def _plural(name: str) -> str:
    return {"fish": "fish", "box": "boxes", "cross": "crosses"}.get(name, name + "s")


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _ask_scene(rng: Generator, things: list[Thing], size: tuple[int, int]) -> list[Question]:
    asked = []
    names, places = Counter(t.name for t in things), Counter(t.place for t in things)

    def ask(question: str, answer: str, kind: str, *boxes: Box) -> None:
        box = enclosing_box(*boxes) if boxes else (0.0, 0.0, float(size[0]), float(size[1]))
        height = min((min(b[2] - b[0], b[3] - b[1]) for b in boxes), default=float(min(size)))
        asked.append(Question(question, answer, "general", kind, clip(box, size), height, "object"))

    for thing in things:
        if names[thing.name] == 1:
            ask(f"what colour is the {thing.name}?", thing.colour, "colour", thing.box)
            ask(f"where is the {thing.name}?", thing.place, "where", thing.box)
        if places[thing.place] == 1:
            ask(f"what is at the {thing.place}?", thing.name, "what", thing.box)
    for name in names:
        ask(
            f"how many {_plural(name)} are there?",
            NUMBERS[names[name]],
            "count",
            *(t.box for t in things if t.name == name),
        )
    absent = words.pick(rng, [n for n in OBJECTS if n not in names])[0]
    ask(f"how many {_plural(absent)} are there?", NUMBERS[0], "count")
    return asked


def _ask_signs(signs: list[Sign], size: tuple[int, int]) -> list[Question]:
    asked = []
    for sign in signs:
        forms = [f"what does the {sign.colour} sign say?"] + (
            ["what does the sign say?"] if len(signs) == 1 else []
        )
        if sum(s.place == sign.place for s in signs) == 1:
            forms.append(f"what is written at the {sign.place}?")
        height = sign.text.height
        asked += [
            Question(
                f,
                sign.text.string,
                "scene_text",
                "read",
                clip(sign.box, size),
                height,
                print_of(height, size),
            )
            for f in forms
        ]
    return asked


def _ask_document(doc: Document, size: tuple[int, int]) -> list[Question]:
    asked = []

    def ask(question: str, answer: Text, kind: str, *texts: Text) -> None:
        height = min(t.height for t in (answer, *texts))
        box = clip(enclosing_box(answer.box, *(t.box for t in texts)), size)
        asked.append(Question(question, answer.string, "document", kind, box, height, print_of(height, size)))

    titled = {
        "receipt": "what shop is this?",
        "form": "what is the title?",
        "table": "what is the title?",
        "chart": "what is the title?",
    }
    ask(titled[doc.kind], doc.title, "title")
    for row in doc.rows:
        key = row.key.string.rstrip(":")
        if doc.kind == "table":
            for column, value in zip(doc.columns, row.values, strict=True):
                ask(f"what is {column.string} for {key}?", value, "cell", row.key, column)
        else:
            form = (
                f"how much is the {key}?"
                if doc.kind == "receipt" and key != "total"
                else f"what is the {key}?"
            )
            ask(
                form if doc.kind != "chart" else f"what is the value of {key}?",
                row.values[0],
                "value",
                row.key,
            )
    values = [int(row.values[0].string) for row in doc.rows] if doc.kind == "chart" else []
    if len(set(values)) == len(values) > 1:
        texts = [t for row in doc.rows for t in (row.key, *row.values)]
        ask("which is the highest?", doc.rows[int(np.argmax(values))].key, "compare", *texts)
        ask("which is the lowest?", doc.rows[int(np.argmin(values))].key, "compare", *texts)
    return asked


def _scene_sample(rng: Generator, split: str, seed: int, size: tuple[int, int]) -> Sample:
    image, things = make_scene(rng, split, size)
    counts = Counter(t.name for t in things)
    groups = [_a(n) if c == 1 else f"{NUMBERS[c]} {_plural(n)}" for n, c in counts.items()]
    caption = (
        " and ".join([", ".join(groups[:-1]), groups[-1]] if len(groups) > 1 else groups) + " on a photograph"
    )
    detailed = " ".join(f"{_a(t.colour)} {t.name} at the {t.place}." for t in things)
    return Sample(
        image, split, seed, "general", caption, detailed, tuple(_ask_scene(rng, things, size)), tuple(things)
    )


def _sign_sample(rng: Generator, split: str, seed: int, size: tuple[int, int]) -> Sample:
    image, signs = make_signs(rng, split, size, font_heights(rng, size, int(rng.integers(1, 4))))
    caption = " and ".join(f"{_a(s.colour)} sign" for s in signs) + " on a photograph"
    detailed = " ".join(f"{_a(s.colour)} sign at the {s.place} says {s.text.string}." for s in signs)
    facts = tuple(("sign", s.text.string) for s in signs)
    texts = tuple(s.text for s in signs)
    return Sample(
        image,
        split,
        seed,
        "scene_text",
        caption,
        detailed,
        tuple(_ask_signs(signs, size)),
        (),
        tuple(signs),
        texts,
        facts,
    )


def _document_sample(rng: Generator, split: str, seed: int, size: tuple[int, int]) -> Sample:
    kind = KINDS[rng.integers(len(KINDS))]
    body, title = font_heights(rng, size, 2)
    image, doc = make_document(rng, split, size, kind, body, max(body, title))
    caption = f"a {kind} with {len(doc.rows)} lines titled {doc.title.string}"
    detailed = f"a {kind}. " + " ".join(t.string for t in doc.texts)
    keys = [(row.key.string.rstrip(":"), row) for row in doc.rows]
    if kind == "table":
        facts = [
            (f"{key} {c.string}", v.string)
            for key, row in keys
            for c, v in zip(doc.columns, row.values, strict=True)
        ]
    else:
        facts = [(key, row.values[0].string) for key, row in keys]
    facts.append(({"receipt": "shop"}.get(kind, kind), doc.title.string))
    return Sample(
        image,
        split,
        seed,
        "document",
        caption,
        detailed,
        tuple(_ask_document(doc, size)),
        (),
        (),
        tuple(doc.texts),
        tuple(facts),
    )


_MAKERS = {"general": _scene_sample, "scene_text": _sign_sample, "document": _document_sample}


def make_sample(
    seed: int, split: str, size: tuple[int, int] = (192, 192), family: str | None = None
) -> Sample:
    """The sample with number `seed` of a split: the same image and truth on every machine.

    Args:
        seed: any non-negative integer; layouts of different splits never share one, since the split is part
            of the random seed.
        split: `train`, `val` or `test`.
        size: width and height in pixels.
        family: `general`, `scene_text` or `document`; drawn at random if not given.

    Raises:
        ValueError: unknown split or family.
    """
    if split not in words.SPLITS:
        raise ValueError(f"Unknown split '{split}': expected one of {', '.join(words.SPLITS)}.")
    if family is not None and family not in FAMILIES:
        raise ValueError(f"Unknown family '{family}': expected one of {', '.join(FAMILIES)}.")
    rng = np.random.default_rng([words.SPLITS.index(split), seed, *size])
    drawn = FAMILIES[rng.choice(3, p=(0.28, 0.24, 0.48))]
    return _MAKERS[family or drawn](rng, split, seed, size)
