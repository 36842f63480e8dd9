"""What the transforms of quadrants cost a base model that was never trained on them.

The base model is given tiles and the global view, without any training, and reads images of the validation
split whose quadrants are all transformed alike. `renderings.QUADRANTS` is chosen by this table: each of its
four transforms costs answers, so there is something to learn; a blur costs nothing in large text.

    python -m monkeylib.experiments.quadrant_transforms
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace

from monkeylib import profiles, resources, tables
from monkeylib.data.synthetic import Sample, make_sample, make_test_set
from monkeylib.data.synthetic.canvas import Style
from monkeylib.data.synthetic.renderings import TRANSFORMS, transform_quadrants
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.likelihood import score_answers
from monkeylib.monkey import Monkey
from monkeylib.profiles import build, trainable
from monkeylib.tables import Row

TABLE = "quadrant_transforms"
TEST_SETS = ("fine", "large")
QUESTIONS = 60  # of each test set and transform


def transformed_questions(
    test_set: str, count: int, transform: str, size: tuple[int, int] = (192, 192)
) -> list[Example]:
    """Return questions about validation images whose quadrants all have one transform.

    Args:
        test_set: a name of `synthetic.TEST_SETS`.
        count: number of questions.
        transform: a name of `renderings.TRANSFORMS`.
        size: width and height of the images in pixels.
    """

    def make(seed: int) -> Sample:
        sample = make_sample(seed, "val", size, style=Style(by_quadrant=True))
        return replace(sample, image=transform_quadrants(sample.image, (transform,) * 4))

    return [
        Example(
            id=question.id,
            image=question.sample.image,
            question=question.question,
            answers=question.answers,
            image_id=f"{transform}-{question.sample.seed}",
        )
        for question in make_test_set(test_set, count, make=make)
    ]


def score_transforms(
    monkey: Monkey,
    count: int = QUESTIONS,
    transforms: Iterable[str] = tuple(TRANSFORMS),
    size: tuple[int, int] = (192, 192),
) -> list[Row]:
    """Score a model on each transform.

    Args:
        monkey: model and processor.
        count: questions of each test set and transform, the same for all transforms.
        transforms: names of `renderings.TRANSFORMS`.
        size: width and height of the images in pixels.

    Returns:
        A row for each `transform` and `test_set`: number of `questions`, share of `exact` answers, and mean
        `log_likelihood` of the true answer in nats per character.
    """
    rows: list[Row] = []
    for transform in transforms:
        for test_set in TEST_SETS:
            scores = score_answers(monkey, transformed_questions(test_set, count, transform, size))
            rows.append(
                {
                    "transform": transform,
                    "test_set": test_set,
                    "questions": count,
                    "exact": round(float(scores.exact.mean()), 4),
                    "log_likelihood": round(float(scores.log_likelihood.mean()), 4),
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Score the base model of a profile and write the table."""
    parser = argparse.ArgumentParser(description="Score a base model on transformed quadrants.")
    parser.add_argument("--profile", default=resources.COMMITTED_PROFILE)
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of each test set and transform")
    options = parser.parse_args(arguments)

    # LoRA that has not been trained adds nothing.
    profile = profiles.load_profile(options.profile)
    processor = build.build_processor(profile)
    monkey = Monkey(trainable.build_trainable(profile, processor).eval(), processor)

    rows = score_transforms(monkey, options.questions, size=profile.image_size)
    print(f"wrote {resources.display_path(tables.write_table(rows, TABLE, profile.name))}")


if __name__ == "__main__":
    main()
