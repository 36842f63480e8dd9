"""Captions of a synthetic image at several levels of detail, to train on.

The paper describes images at several levels (section 3.2): the dataset's short caption, the full image, its
regions, its segments, and its text. Each level adds a sentence or more to those before it:

    short      a ball and a star on a photograph
    global     a photograph with two objects, one at the top and one at the bottom.
    regions    a ball at the top left. a star at the bottom right.
    segments   the ball at the top left is red and large. the star at the bottom right is blue and small.
    text       the text says: open 24, keep left.

To compare labels, runs train on the same images for as many steps, and nothing but the caption differs. As in
the paper, captions are mixed with questions, the same ones in all runs: a small model that is trained on
captions alone soon forgets how to answer (LOG.md, 2026-11-30). But no question is about fine print, so that
what a model reads better there it has learned from captions. Questions come first: the answer to one behind a
caption could be copied from it, from a rich one more often than from a short one. The number of labelled
tokens grows with the level, as it does in the paper.

`pipeline` is no level but the description of the same images by the caption pipeline, with its errors. The
pipeline takes seconds for an image, so that all runs train on the few images that it has described,
`NUM_IMAGES`, again and again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from numpy.random import Generator

from monkeylib import resources
from monkeylib.data.json_rows import read_json_or_jsonl
from monkeylib.data.synthetic.canvas import Text
from monkeylib.data.synthetic.samples import LEGIBLE, Sample, text_size_of
from monkeylib.data.synthetic.scenes import NUMBERS
from monkeylib.data.synthetic.tasks import Turn, training_turns
from monkeylib.english import join_with_and, with_count
from monkeylib.errors import choose
from monkeylib.prompts import SEPARATOR, build_prompt

# What the sentences of each level describe. Levels are cumulative.
LEVELS = {
    "short": "a dataset's short caption: which objects or signs, or a document's kind and title",
    "global": "the full image: what it is, and how its contents are spread",
    "regions": "each object, sign or part of a document, with its place",
    "segments": "colour and size of each",
    "text": "all legible text in reading order",
}
PIPELINE = "pipeline"
LABELS = (*LEVELS, PIPELINE)

NUM_IMAGES = 250  # every seed's data begins with a new epoch of them
QUESTION_BUDGET = 60  # characters of the questions and answers before a caption, about
IMAGE_SIZE = (192, 192)  # width and height in pixels of the images that the pipeline has described

# Width of an object as a share of the image's shorter side: objects below the first are small, from the
# second on large.
_SMALL, _LARGE = 0.22, 0.27


# --- levels -----------------------------------------------------------------------------------------------


def caption_at_level(sample: Sample, level: str, scale: float = 1.0) -> str:
    """Return the caption of a sample at a level of `LEVELS`, which begins with that of the level before.

    Args:
        sample: the image with its ground truth.
        level: one of `LEVELS`.
        scale: pixels of the finest view per pixel of the image: text that is not legible there is left out
            of the level `text`.

    Raises:
        ValueError: unknown level.
    """
    depth = list(LEVELS).index(choose("level", level, LEVELS))
    caption, *sentences = list(level_sentences(sample, scale).values())[: depth + 1]

    # The short caption has no full stop when it stands alone, as in a dataset.
    description = " ".join(filter(None, sentences))
    return f"{caption}. {description}" if description else caption


def level_sentences(sample: Sample, scale: float = 1.0) -> dict[str, str]:
    """Return what each level of `LEVELS` adds to those before it; nothing where there is nothing to add."""
    texts = [text.string for text in sample.texts if text.height * scale >= LEGIBLE]
    return {
        "short": sample.caption,
        "global": _describe_image(sample),
        "regions": _describe_regions(sample),
        "segments": _describe_segments(sample),
        "text": f"the text says: {', '.join(texts)}." if texts else "",
    }


def label_turns(sample: Sample, labels: str, rng: Generator, scale: float = 1.0) -> list[Turn]:
    """Return a conversation to train on: a few questions that are the same for all labels, then the caption.

    Args:
        sample: the image with its ground truth.
        labels: one of `LABELS`.
        rng: random numbers, for the choice of questions.
        scale: see `caption_at_level`.

    Raises: as `label_turn`.
    """
    without_fine_print = tuple(question for question in sample.questions if question.text_size != "fine")
    questions = training_turns(
        replace(sample, questions=without_fine_print),
        rng,
        1.0,
        budget=QUESTION_BUDGET,
        detailed=0.0,
        captions=False,
        independent=True,
    )
    return [*questions, label_turn(sample, labels, scale)]


def label_turn(sample: Sample, labels: str, scale: float = 1.0) -> Turn:
    """Return the prompt for a detailed caption and its answer, for one of `LABELS`.

    Raises:
        ValueError: unknown labels, or the pipeline has not described the sample.
        FileNotFoundError: there are no descriptions by the pipeline.
    """
    choose("labels", labels, LABELS)
    if labels == PIPELINE:
        caption = _pipeline_caption(sample)
    else:
        caption = caption_at_level(sample, labels, scale)
    return build_prompt("detailed_caption", separator=SEPARATOR), caption


class LevelExample(NamedTuple):
    """A level with its description, what it adds for a sample, and the caption up to it."""

    level: str
    description: str
    addition: str
    caption: str


def level_examples(sample: Sample) -> list[LevelExample]:
    """Return every level of `LEVELS` for a sample."""
    sentences = level_sentences(sample)
    return [
        LevelExample(level, description, sentences[level], caption_at_level(sample, level))
        for level, description in LEVELS.items()
    ]


def _describe_image(sample: Sample) -> str:
    """Return the sentence of the level `global`."""
    if sample.document is not None:
        # A page is filled from some line on, and perhaps not to its end.
        middle = sample.image.height / 2
        edges = [edge for text in sample.texts for edge in (text.box[1], text.box[3])]
        place = "from top to bottom" if min(edges) < middle < max(edges) else "at the top"
        return f"a page with text {place}."

    noun = "sign" if sample.signs else "object"
    locations = [drawn.location.split()[0] for drawn in (*sample.objects, *sample.signs)]
    count = NUMBERS[len(locations)]

    rows = Counter(locations)
    if len(rows) == 1:
        return f"a photograph with {count} {noun}{'s' * (len(locations) > 1)} at the {locations[0]}."
    spread = join_with_and([f"{NUMBERS[rows[row]]} at the {row}" for row in ("top", "bottom")])
    return f"a photograph with {count} {noun}s, {spread}."


def _describe_regions(sample: Sample) -> str:
    """Return the sentences of the level `regions`."""
    if sample.document is None:
        regions = [(drawn.name, drawn.location) for drawn in sample.objects]
        regions += [("sign", sign.location) for sign in sample.signs]
        return " ".join(f"{with_count(name, 1)} at the {location}." for name, location in regions)

    parts = _count_digits("line", len(sample.document.lines))
    if sample.document.columns:
        parts += f" with {_count_digits('column', len(sample.document.columns))}"
    return f"a title at the top. {parts} below it."


def _describe_segments(sample: Sample) -> str:
    """Return the sentences of the level `segments`."""
    size = sample.image.size
    sentences = []
    for drawn in sample.objects:
        width = (drawn.box[2] - drawn.box[0]) / min(size)
        extent = "small" if width < _SMALL else "large" if width >= _LARGE else "of medium size"
        sentences.append(f"the {drawn.name} at the {drawn.location} is {drawn.colour} and {extent}.")

    for sign in sample.signs:
        print_size = _print_size(sign.text, size)
        sentences.append(f"the sign at the {sign.location} is {sign.colour} with {print_size} print.")

    if sample.document is not None:
        sentences.append(f"the title is in {_print_size(sample.document.title, size)} print.")
        # All lines of a page have one font size.
        if sample.document.lines:
            print_size = _print_size(sample.document.lines[0].key, size)
            sentences.append(f"the lines are in {print_size} print.")
        if sample.document.kind == "chart":
            sentences.append("each line has a bar.")

    return " ".join(sentences)


def _print_size(text: Text, size: tuple[int, int]) -> str:
    """Return "small" for fine text, "large" otherwise."""
    return "small" if text_size_of(text.height, size) == "fine" else "large"


def _count_digits(noun: str, count: int) -> str:
    """Return a number in digits, as the short caption has it, with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


# --- descriptions by the caption pipeline -----------------------------------------------------------------


def pipeline_file() -> Path:
    """Return the committed records of the caption pipeline, those of `captions.record_files`."""
    return resources.REPOSITORY / "data" / "results" / "nano" / "label_records.jsonl"


@cache
def pipeline_captions() -> dict[int, str]:
    """Return the pipeline's detailed captions by the numbers of their images.

    Raises:
        FileNotFoundError: there is no file of records.
        ValueError: it is not JSON.
    """
    path = pipeline_file()
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no descriptions at {resources.display_path(path)}: write them with "
            "python -m monkeylib.experiments.label_descriptions"
        )
    return {int(row["name"]): row["detailed_caption"] for _, row in read_json_or_jsonl(path)}


def _pipeline_caption(sample: Sample) -> str:
    captions = pipeline_captions()
    if sample.split != "train" or sample.seed not in captions:
        raise ValueError(
            f"the caption pipeline has not described image {sample.seed} of the split {sample.split}, only "
            f"{len(captions)} training images: use another level for it"
        )
    return captions[sample.seed]
