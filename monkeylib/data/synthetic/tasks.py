"""Training conversations about a synthetic sample: which questions are asked, and in which order."""

from __future__ import annotations

from numpy.random import Generator

from monkeylib.data.synthetic.samples import LEGIBLE, Question, Sample
from monkeylib.prompts import SEPARATOR, build_prompt

Turn = tuple[str, str]  # prompt, answer

# Kinds of questions whose answers name what other questions about the same object or sign ask for.
_ABOUT_ONE_OBJECT = ("read", "colour", "where", "what")


def training_turns(
    sample: Sample,
    rng: Generator,
    scale: float,
    budget: int,
    detailed: float,
    captions: bool = True,
    independent: bool = False,
    by_colour: float = 0.0,
) -> list[Turn]:
    """Return prompts and answers about one image, in random order.

    Args:
        sample: the image with its ground truth.
        rng: random numbers.
        scale: pixels of the finest view per pixel of the full image: 1 for tiles, tile / width for a single
            global view. Questions about text that is not legible in that view are mostly left out, since
            nothing can be learned from a blur.
        budget: approximate number of characters of prompts and answers together. At least one turn is
            returned in any case.
        detailed: how often the detailed caption, which holds the text of the image, comes first.
        captions: ask for captions, too. Without them, there may be nothing to ask.
        independent: make sure that answers are found in the image and not in the text before the question. No
            question follows a detailed caption, and each sign and object is asked about once. The short
            caption, which counts objects and names a document's title, may still come first.
        by_colour: with `independent`, how often questions name all signs of an image with several by their
            colour; otherwise they name each by its colour or its location.
    """
    questions = _one_per_object(sample, rng, by_colour) if independent else sample.questions

    # Questions, in random order.
    candidates = []
    for question in questions:
        legible = question.text_size != "fine" or question.height * scale >= LEGIBLE
        if legible or rng.random() < 0.1:
            candidates.append((build_prompt("vqa", question.question, SEPARATOR), question.answer))

    turns = [candidates[i] for i in rng.permutation(len(candidates))]

    # The detailed caption, if all of its text is legible.
    blurred = any(text.height * scale < LEGIBLE for text in sample.texts)
    if captions and (sample.family == "general" or not blurred):
        turn = (build_prompt("detailed_caption", separator=SEPARATOR), sample.detailed_caption)
        comes_first = rng.random() < detailed

        # The detailed caption holds the answers, so it replaces the questions.
        if independent:
            turns = [turn] if comes_first else turns
        else:
            turns.insert(0 if comes_first else len(turns), turn)

    # The short caption.
    if captions and (rng.random() < 0.25 or not turns):
        turns.insert(0, (build_prompt("caption", separator=SEPARATOR), sample.caption))

    return _within_budget(turns, budget)


def _within_budget(turns: list[Turn], budget: int) -> list[Turn]:
    """Return the first turns whose characters fit, those of prompts counted half, and at least one."""
    selected: list[Turn] = []
    characters = 0
    for prompt, answer in turns:
        characters += len(answer) + len(prompt) // 2
        if selected and characters > budget:
            break
        selected.append((prompt, answer))

    return selected


def _one_per_object(sample: Sample, rng: Generator, by_colour: float) -> list[Question]:
    """Return one question about each sign and each object, and all other questions."""
    groups: dict[object, list[Question]] = {}
    for question in sample.questions:
        # Questions about one object or sign share its answer box.
        key = question.answer_box if question.kind in _ABOUT_ONE_OBJECT else question
        groups.setdefault(key, []).append(question)

    # Only images with several signs need the colour to tell them apart.
    all_by_colour = len(sample.signs) > 1 and rng.random() < by_colour
    selected = []
    for forms in groups.values():
        if all_by_colour:
            forms = [form for form in forms if form.question.endswith(" sign say?")] or forms
        selected.append(forms[rng.integers(len(forms))])

    return selected
