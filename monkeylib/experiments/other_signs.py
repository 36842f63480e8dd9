"""Large signs with other signs beside them: what it costs Monkey that its tiles make the others legible.

    python -m monkeylib.experiments.other_signs

asks the shipped Monkey and its base for the text of a large sign, in images with two or three signs. Each
image is asked about twice: as it is, and with the other signs as one view of tile size shows them. The base
sees the same both times, but Monkey loses what its tiles show of the others. If Monkey falls behind its base
with the first images only, it reads the sign well enough, and the other signs are what confuses it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from monkeylib import profiles, resources, tables
from monkeylib.boxes import clip
from monkeylib.data.synthetic import TestQuestion
from monkeylib.evaluation.benchmarks import nano_example
from monkeylib.evaluation.likelihood import score_answers
from monkeylib.evaluation.statistics import difference_interval
from monkeylib.experiments.base_vs_monkey import base_checkpoint
from monkeylib.experiments.image_sets import LIKE_TRAINING, make_questions
from monkeylib.experiments.origin import origin
from monkeylib.inference import load_model
from monkeylib.monkey import Monkey
from monkeylib.progress import say
from monkeylib.tables import Row

TABLE = "other_signs"
DRAWN = "drawn"
SHRUNK = "shrunk"  # as one view shows them
ALL = "all"
COUNT = 2400  # questions about large text, of which about a quarter ask for one sign of several


def compare(
    models: Sequence[Monkey], size: tuple[int, int], side: int, count: int, progress: bool = False
) -> list[Row]:
    """Score base and Monkey on large signs, with the other signs as they are and shrunk.

    Args:
        models: base and Monkey.
        size: width and height of the images in pixels.
        side: pixels of the square view to whose detail the other signs are shrunk.
        count: questions about large text, among which those about signs are looked for.
        progress: say what is done.

    Returns:
        Rows of `images` (test or fresh), `signs` in an image (2, 3 or "all"), `others` ("drawn" as they are,
        or "shrunk"), exact match of `base` and `monkey` as shares, the paired `difference` with its 95 %
        interval from `low` to `high`, the number `n` of questions, and the `origin`.

    Raises:
        ValueError: none of so few questions asks for a sign beside others.
    """
    rows: list[Row] = []
    for images in LIKE_TRAINING:
        questions = make_questions(images, "large", count, size)
        questions = [question for question in questions if len(question.sample.signs) > 1]
        if not questions:
            raise ValueError(
                f"none of {count} questions about {images} images asks for a large sign beside others, as "
                "about every fourth does: ask for more"
            )
        numbers = np.array([len(question.sample.signs) for question in questions])

        for others in (DRAWN, SHRUNK):
            shown = questions
            if others == SHRUNK:
                shown = [shrink_other_signs(question, side) for question in questions]

            examples = [nano_example(question) for question in shown]
            base, monkey = (score_answers(model, examples).exact.astype(float) for model in models)
            clusters = np.array([example.image_key for example in examples])
            if progress:
                say(f"{len(examples)} signs of {images} images, the others {others}")

            for signs in (ALL, *sorted(set(numbers.tolist()))):
                is_member = numbers == signs if signs != ALL else np.full(len(numbers), True)
                difference, low, high, n = difference_interval(
                    (monkey - base)[is_member], clusters=clusters[is_member], is_share=True
                )
                rows.append(
                    {
                        "images": images,
                        "signs": str(signs),
                        "others": others,
                        "base": float(base[is_member].mean()),
                        "monkey": float(monkey[is_member].mean()),
                        "difference": difference,
                        "low": low,
                        "high": high,
                        "n": n,
                    }
                )
    made = origin()
    return [row | made for row in rows]


def shrink_other_signs(question: TestQuestion, side: int) -> TestQuestion:
    """Return a question with the signs that it does not ask for as a view of `side x side` pixels shows them.

    The image is shrunk to that size and enlarged again, and the other signs are taken from it. The sign that
    is asked for, and everything else, stays as it is.

    Raises:
        ValueError: the question has no place in the image, as that for a caption.
    """
    sample, annotation = question.sample, question.annotation
    if annotation is None:
        raise ValueError(f"{question.id} asks for a caption: expected a question about a sign")

    image = sample.image.copy()
    view = image.resize((side, side), Image.Resampling.LANCZOS)
    view = view.resize(image.size, Image.Resampling.BICUBIC)
    for sign in sample.signs:
        if clip(sign.box, image.size) == annotation.answer_box:
            continue
        # With the outline of the plate.
        left, top, right, bottom = sign.box
        box = (round(left) - 1, round(top) - 1, round(right) + 2, round(bottom) + 2)
        image.paste(view.crop(box), box)
    return replace(question, sample=replace(sample, image=image))


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask base and Monkey for large signs, and write the table of their answers."""
    argparse.ArgumentParser(description=main.__doc__).parse_args(arguments)

    profile = profiles.load_profile(resources.COMMITTED_PROFILE)
    models = [load_model(folder) for folder in (base_checkpoint(profile), resources.shipped_monkey())]
    rows = compare(models, profile.image_size, profile.tile_size, COUNT, progress=True)
    print(resources.display_path(tables.write_table(rows, TABLE, profile.name)))


if __name__ == "__main__":
    main()
