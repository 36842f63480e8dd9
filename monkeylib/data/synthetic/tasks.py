"""From a sample's truth to what is asked about it: prompts and answers for training."""

from __future__ import annotations

from numpy.random import Generator

from monkeylib.data.synthetic.samples import LEGIBLE, Question, Sample
from monkeylib.prompts import SEPARATOR, build_prompt

Turn = tuple[str, str]  # prompt, answer


def training_turns(
    sample: Sample,
    rng: Generator,
    scale: float,
    budget: int,
    detailed: float,
    captions: bool = True,
    apart: bool = False,
    by_colour: float = 0.0,
) -> list[Turn]:
    """Prompts and answers about one image, in random order, within about `budget` characters.

    Args:
        scale: pixels of the finest view of a text per pixel of the full image (1 for tiles, tile / width for
            one global view). What that view cannot show is mostly left out: nobody learns to read from a
            blur.
        budget: characters of prompts and answers together; at least one turn is always returned.
        detailed: how often the detailed caption, a transcript in reading order, comes first.
        captions: ask for captions too. Without them, there may be nothing to ask.
        apart: no question follows a detailed caption, and each sign and each object is asked about once, so
            that what a sign says has to be found in the image and not in the text before the question. The
            short caption may still come first, which counts objects and names a document's title.
        by_colour: then, how often all signs of an image with several are asked for by their colour; the
            other times each by its colour or its place.
    """
    blurred = any(t.height * scale < LEGIBLE for t in sample.texts)
    asked = [
        (build_prompt("vqa", q.question, SEPARATOR), q.answer)
        for q in (_once_each(sample, rng, by_colour) if apart else sample.questions)
        if q.print != "fine" or q.height * scale >= LEGIBLE or rng.random() < 0.1
    ]
    turns = [asked[i] for i in rng.permutation(len(asked))]
    if captions and (sample.family == "general" or not blurred):
        told = (build_prompt("detailed_caption", separator=SEPARATOR), sample.detailed_caption)
        first = rng.random() < detailed
        if apart:
            turns = [told] if first else turns
        else:
            turns.insert(0 if first else len(turns), told)
    if captions and (rng.random() < 0.25 or not turns):
        turns.insert(0, (build_prompt("caption", separator=SEPARATOR), sample.caption))
    kept, used = [], 0
    for prompt, answer in turns:
        used += len(answer) + len(prompt) // 2
        if kept and used > budget:
            break
        kept.append((prompt, answer))
    return kept


def _once_each(sample: Sample, rng: Generator, by_colour: float) -> list[Question]:
    """One question about each sign and each object, and all others."""
    about: dict[object, list[Question]] = {}
    for question in sample.questions:
        one = question.kind in ("read", "colour", "where", "what")
        about.setdefault(question.evidence if one else question, []).append(question)
    colours = len(sample.signs) > 1 and rng.random() < by_colour
    chosen = []
    for forms in about.values():
        coloured = [q for q in forms if q.question.endswith(" sign say?")] if colours else []
        chosen.append((coloured or forms)[rng.integers(len(coloured or forms))])
    return chosen
