"""From a sample's truth to what is asked about it: prompts and answers for training."""

from __future__ import annotations

from numpy.random import Generator

from monkeylib.prompts import build_prompt

from .samples import LEGIBLE, Sample

Turn = tuple[str, str]  # prompt, answer
SEPARATOR = " "  # between an image, or an earlier answer, and the next prompt: the released data has it


def training_turns(
    sample: Sample, rng: Generator, scale: float, budget: int, detailed: float, captions: bool = True
) -> list[Turn]:
    """Prompts and answers about one image, in random order, within about `budget` characters.

    Args:
        scale: pixels of the finest view of a text per pixel of the full image (1 for tiles, tile / width for
            one global view). What that view cannot show is mostly left out: nobody learns to read from a
            blur.
        budget: characters of prompts and answers together; at least one turn is always returned.
        detailed: how often the detailed caption, a transcript in reading order, comes first.
        captions: ask for captions too. Without them, there may be nothing to ask.
    """
    blurred = any(t.height * scale < LEGIBLE for t in sample.texts)
    asked = [
        (SEPARATOR + build_prompt("vqa", q.question), q.answer)
        for q in sample.questions
        if q.print != "fine" or q.height * scale >= LEGIBLE or rng.random() < 0.1
    ]
    turns = [asked[i] for i in rng.permutation(len(asked))]
    if captions and (sample.family == "general" or not blurred):
        turns.insert(
            0 if rng.random() < detailed else len(turns),
            (SEPARATOR + build_prompt("detailed_caption"), sample.detailed_caption),
        )
    if captions and (rng.random() < 0.25 or not turns):
        turns.insert(0, (SEPARATOR + build_prompt("caption"), sample.caption))
    kept, used = [], 0
    for prompt, answer in turns:
        used += len(answer) + len(prompt) // 2
        if kept and used > budget:
            break
        kept.append((prompt, answer))
    return kept
