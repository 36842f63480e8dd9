"""Train and ship nano-monkey, so that one command answers before anybody has trained anything.

    python -m recipes.nano_monkey.ship

trains it as the profile `nano-monkey` says, half an hour on two cores, copies it to
`data/models/nano-monkey` with its curve and its scores, and writes its card from them. An interrupted
training resumes, and a finished one is not repeated. A later training on another processor may score a little
differently; the card stays that of the weights that are there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from string import Template

from monkeylib import profiles, resources, sizing, tables
from monkeylib.data.synthetic.sample_files import SYNTHETIC, synthetic_sample
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.likelihood import score_answers
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.experiments import base_vs_monkey
from monkeylib.experiments.image_sets import compare_on_image_sets
from monkeylib.inference import load_model
from monkeylib.monkey import Monkey
from monkeylib.profiles import Profile
from monkeylib.reproduce.tables import markdown_table
from monkeylib.tables import Row
from monkeylib.training import finetune
from monkeylib.training.curves import read_curves

NAME = "nano-monkey"  # the profile and the model that it trains
CURVE = "training.csv"
ANSWERS = "answers.csv"
SCORES = "scores.csv"
IMAGE_SETS = "image_sets.csv"
QUESTIONS = {"fine": 600, "large": 600, "general": 600}  # of each set of test images

CARD = Template("""---
license: apache-2.0
library_name: monkeylib
pipeline_tag: image-text-to-text
---

# nano-monkey

Monkey at the size of two CPU cores: $millions M weights that read an image of $pixels x $pixels pixels as
$tiles tiles of $tile x $tile pixels, each with a LoRA of its own, and a global view. Its base is
[nano-base](../nano-base/README.md), which sees one view of $tile x $tile.

| part | weights |
|---|---:|
$parts
## Training

$steps steps of $batch synthetic images each (`monkeylib.data.synthetic`), none of which nano-base has seen.
As in the paper, the ViT is frozen, and LoRA, resampler and language model train. The profile `nano-monkey`
says how; `python -m recipes.nano_monkey.ship` trains it in half an hour on two cores, and copies it here with
its curve (`training.csv`). Notebook 05 trains a shorter one, of $short_steps steps.

## Test scores

Exact match (captions: CIDEr-D, 0 to 10) with 95 % intervals, on synthetic test images, whose photographs,
layouts and written facts never appear in training.

$scores
Without generating, by the probability of the true answer: exact match of nano-base and nano-monkey, and their
paired difference, on the test images, on fresh ones that no choice was made on, and on images unlike those of
training, by what differs.

$sets
## Answers about the sample images

All questions about the synthetic images in `data/samples`, of which $right of $asked are answered rightly.
Notebook 06 shows errors on test images.

$answers
## Limits

As nano-base, it reads lower-case letters in three bold DejaVu faces and knows the objects, colours and
question forms of the synthetic data, nothing else. It is meant for studying Monkey's method, not for reading
real photographs.

Licence: Apache-2.0. Data: code and the photographs of scikit-image (see `data/README.md`).
""")


def answer_samples(monkey: Monkey) -> list[Row]:
    """Return a row for each question about the synthetic sample images, with the model's answer."""
    examples = [
        Example(f"{name}-{number}", sample.image, question.question, (question.answer,), image_id=name)
        for name in SYNTHETIC
        for sample in [synthetic_sample(name)]
        for number, question in enumerate(sample.questions)
    ]
    answers = PrefixSharingMonkey(monkey, max_new_tokens=24)(examples)
    likelihoods = score_answers(monkey, examples).log_likelihood

    return [
        {
            "image": example.image_key,
            "question": example.question,
            "truth": example.answers[0],
            "answer": answer.text,
            "right": answer.text == example.answers[0],
            "log_likelihood": round(float(likelihood), 3),
        }
        for example, answer, likelihood in zip(examples, answers, likelihoods, strict=True)
    ]


def test_scores() -> list[Row]:
    """Return the main test scores of the shipped Monkey, those of notebook 06."""
    table = base_vs_monkey.evaluate(profiles.load_profile(resources.COMMITTED_PROFILE), progress=True)
    return [
        row
        for row in tables.read_csv(table)
        if row["model"] == "monkey" and row["metric"] in ("exact_match", "cider_d")
    ]


def write_card(profile: Profile, folder: Path) -> Path:
    """Write the card of the model in a folder from the tables beside it, which are of its own weights.

    Raises:
        FileNotFoundError: one of the tables is not there.
    """
    monkey = load_model(folder)
    parts = sizing.count_in_model(monkey.model)

    scores: list[Row] = []
    for row in tables.read_csv(folder / SCORES):
        interval = f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        scores.append({"split": row["split"], "questions": row["group"], "score": interval, "n": row["n"]})

    sets: list[Row] = []
    for row in tables.read_csv(folder / IMAGE_SETS):
        if row["metric"] == "exact match":
            value, low, high = (100 * float(row[column] or 0) for column in ("value", "low", "high"))
            columns = {column: row[column] for column in ("images", "change", "split", "model", "n")}
            sets.append({**columns, "percent": f"{value:.1f} ({low:.1f} to {high:.1f})"})

    answers = tables.read_csv(folder / ANSWERS)
    shown = [
        {
            **row,
            "right": "yes" if row["right"] == "True" else "no",
            "log_likelihood": f"{row['log_likelihood']:.2f}",
        }
        for row in answers
    ]
    text = CARD.substitute(
        millions=f"{sum(parts.values()) / 1e6:.1f}",
        pixels=profile.image_size[0],
        tiles=profile.rows * profile.cols,
        tile=profile.tile_size,
        parts="".join(f"| {name} | {count:,} |\n" for name, count in parts.items()),
        steps=profile.training.steps,
        short_steps=profiles.load_profile(resources.COMMITTED_PROFILE).training.steps,
        batch=profile.training.batch_size,
        scores=markdown_table(scores),
        sets=markdown_table(sets),
        answers=markdown_table(shown),
        right=sum(row["right"] == "True" for row in answers),
        asked=len(answers),
    )
    card = folder / "README.md"
    with resources.atomic_write(card) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return card


def main() -> None:
    """Train, copy and describe the model."""
    profile = profiles.load_profile(NAME)
    trained = finetune.run(profile, profile.runs / "monkey", if_changed="replace")

    folder = resources.models() / NAME
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(trained.iterdir()):
        with resources.atomic_write(folder / file.name) as temporary:
            shutil.copyfile(file, temporary)

    models = {name: load_model(resources.models() / name) for name in ("nano-base", NAME)}
    tables.write_csv(read_curves(trained.parent / "metrics.csv"), folder / CURVE)
    tables.write_csv(test_scores(), folder / SCORES)
    tables.write_csv(answer_samples(models[NAME]), folder / ANSWERS)
    tables.write_csv(compare_on_image_sets(models, QUESTIONS, profile.image_size), folder / IMAGE_SETS)
    print(resources.display_path(write_card(profile, folder)))


if __name__ == "__main__":
    main()
