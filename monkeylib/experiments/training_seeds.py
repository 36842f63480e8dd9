"""Monkey against its base, trained with several seeds: how much of the gain is the luck of one training.

    python -m monkeylib.experiments.training_seeds --seeds 0 1 2

trains Monkey as the shipped one was, with each seed, and compares it with its base: the share of questions
whose true answer is the most probable one, token by token, on the usual test images and on fresh ones
(`image_sets`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monkeylib import profiles, resources, tables
from monkeylib.evaluation.benchmarks import nano_example
from monkeylib.evaluation.likelihood import score_answers
from monkeylib.evaluation.statistics import Interval, crossed_interval, difference_interval
from monkeylib.experiments.base_vs_monkey import base_checkpoint
from monkeylib.experiments.image_sets import LIKE_TRAINING, make_questions
from monkeylib.experiments.origin import origin
from monkeylib.inference import load_model
from monkeylib.profiles import Profile
from monkeylib.progress import say
from monkeylib.tables import Row
from monkeylib.training import finetune

TABLE = "training_seeds"
SEEDS = (0, 1, 2)  # of the published table
ALL_SEEDS = "all"
COUNTS = {"fine": 600, "large": 600, "general": 600}  # questions about each set of images


def train(profile: Profile, seed: int, progress: bool = False) -> Path:
    """Return the checkpoint of Monkey trained with a seed; a finished training is not repeated.

    With seed 0 and the library's profile `nano-monkey` it is the model that the repository ships.
    """
    if profile.with_seed(seed) == profiles.load_profile(resources.SHIPPED_MONKEY):
        return resources.shipped_monkey()
    # All seeds beside each other, and none in the place of the shipped one's.
    folder = resources.runs(profile.name) / "training_seeds" / f"monkey-{seed}"
    return finetune.run(profile.with_seed(seed), folder, progress)


def compare(profile: Profile, seeds: Sequence[int], progress: bool = False) -> list[Row]:
    """Train with each seed, and return how often base and Monkey answer exactly.

    Returns:
        Rows of `images` (test or fresh), `split`, `seed` (or "all" of them), exact match of `base` and
        `monkey` as shares, the paired `difference` with its 95 % interval from `low` to `high`, and the
        number `n` of questions, and the `origin`. The interval of one seed is over images, that of all over
        seeds as well.
    """
    seeds = list(dict.fromkeys(seeds))
    checkpoints = [train(profile, seed, progress) for seed in seeds]
    examples = {
        (images, split): [
            nano_example(question) for question in make_questions(images, split, count, profile.image_size)
        ]
        for images in LIKE_TRAINING
        for split, count in COUNTS.items()
    }

    # {(images, split): exact match by model and question}
    exact: dict[tuple[str, str], list[np.ndarray]] = {key: [] for key in examples}
    for checkpoint in (base_checkpoint(profile), *checkpoints):
        model = load_model(checkpoint)
        for key, of_key in examples.items():
            exact[key].append(score_answers(model, of_key).exact.astype(float))
            if progress:
                say(f"{resources.display_path(checkpoint)} has answered {', '.join(key)}")

    rows: list[Row] = []
    for (images, split), (base, *monkeys) in exact.items():
        clusters = [example.image_key for example in examples[images, split]]
        key = {"images": images, "split": split}
        for seed, monkey in zip(seeds, monkeys, strict=True):
            interval = difference_interval(monkey - base, clusters=clusters, is_share=True)
            rows.append({**key, "seed": str(seed), **_measures(base, monkey, interval)})

        if len(seeds) > 1:
            of_seeds = np.stack(monkeys)  # [seeds, questions]
            interval = crossed_interval(of_seeds - base, clusters=clusters)
            rows.append({**key, "seed": ALL_SEEDS, **_measures(base, of_seeds, interval)})
    made = origin()
    return [row | made for row in rows]


def _measures(base: np.ndarray, monkey: np.ndarray, interval: Interval) -> Row:
    difference, low, high, n = interval
    shares = {"base": float(base.mean()), "monkey": float(monkey.mean())}
    return {**shares, "difference": difference, "low": low, "high": high, "n": n}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment with some seeds, and write its table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--profile", default=resources.SHIPPED_MONKEY)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=SEEDS, help="others than 0 1 2: another table"
    )
    options = parser.parse_args(arguments)

    profile = profiles.load_profile(options.profile)
    try:
        profiles.require_own_name(profile)
    except ValueError as error:
        parser.error(str(error))
    if profile.name == resources.COMMITTED_PROFILE:
        parser.error(
            f"this would replace the table of {resources.SHIPPED_MONKEY} in {profile.name}'s results: give "
            f"the profile another name, as a YAML file of one line, `extends: {profile.name}`"
        )
    # Results of the shipped model stand beside all others of its size.
    is_shipped = profile.name == resources.SHIPPED_MONKEY
    place = resources.COMMITTED_PROFILE if is_shipped else profile.name
    seeds = tuple(dict.fromkeys(options.seeds))
    name = TABLE if seeds == SEEDS else "-".join([TABLE, *map(str, seeds)])
    rows = compare(profile, seeds, progress=True)
    print(resources.display_path(tables.write_table(rows, name, place)))


if __name__ == "__main__":
    main()
