"""Train and ship nano-monkey, so that one command answers before anybody has trained anything.

    python -m recipes.nano_monkey.ship

trains it as the profile `nano-monkey` says, scores it, copies it to `data/models/nano-monkey` with its curve
and its scores, and writes its card from them. Nothing is copied before all of it is there. An interrupted
training resumes, and a finished one is not repeated; it lies in a run of its own, beside those of `monkeylib
train`. A later training on another processor may score a little differently; the card stays that of the
weights that are there.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path
from string import Template

from monkeylib import profiles, resources, sizing, tables
from monkeylib.data.synthetic.sample_files import SYNTHETIC, synthetic_sample
from monkeylib.evaluation import results
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.likelihood import score_answers
from monkeylib.evaluation.predict import predict_synthetic
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.experiments.image_sets import compare_on_image_sets
from monkeylib.inference import load_model
from monkeylib.monkey import Monkey
from monkeylib.profiles import Profile
from monkeylib.reproduce.tables import markdown_table
from monkeylib.tables import Row
from monkeylib.training import finetune
from monkeylib.training.curves import read_curves

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
As in the paper, the ViT is frozen, and LoRA, resampler and language model train. Many of the images show
several signs (`training_images: several_signs`): tiles make all of them legible, and the model has to learn
which one is asked for. The profile `nano-monkey` says all settings; `python -m recipes.nano_monkey.ship`
trains it, and copies it here with its curve (`training.csv`). Notebook 05 trains a shorter one, of
$short_steps steps, on fewer images with several signs. [docs/results.md](../../../docs/results.md) has the
scores of two more seeds.

## Test scores

Exact match (captions: CIDEr-D, 0 to 10) with 95 % intervals, on synthetic test images, whose photographs,
layouts and written facts never appear in training. Pairs of a general question and its answer do, with other
images: without seeing the image, the answer that is most frequent in training is right for $blind % of the
general questions, and for less than one per cent of those about text ([data card](../../README.md)).

$scores
Without generating, by the probability of the true answer: exact match of nano-base and nano-monkey, and their
paired difference, on the test images, on fresh ones, and on images unlike those of training, by what differs.

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


def main_scores(profile: Profile, checkpoint: Path, folder: Path) -> list[Row]:
    """Return the main scores of a trained Monkey, as notebook 06 has them.

    Args:
        profile: says how many questions are asked.
        checkpoint: the model.
        folder: where its answers are written.
    """
    runs = predict_synthetic(profile, checkpoint, folder, profile.evaluation.counts, progress=True)
    files = {("monkey", split): run.path for split, run in runs.items()}
    rows = [asdict(row) for row in results.score_runs(files, by="family")]
    return [
        {column: value for column, value in row.items() if column not in results.COUNT_COLUMNS}
        for row in rows
        if row["metric"] in ("exact_match", "cider_d")
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

    without_image = tables.read_table("synthetic_answers", resources.COMMITTED_PROFILE)
    (blind,) = (row for row in without_image if (row["test_set"], row["kind"]) == ("general", "all"))

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
        blind=f"{100 * blind['blind']:.1f}",
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
    """Train, score, copy and describe the model."""
    profile = profiles.load_profile(resources.SHIPPED_MONKEY)
    trained = finetune.run(profile, profile.runs / "shipped", if_changed="replace")

    base, monkey = load_model(resources.models() / resources.SHIPPED_BASE), load_model(trained)
    models = {resources.SHIPPED_BASE: base, resources.SHIPPED_MONKEY: monkey}
    scores = {
        CURVE: read_curves(trained.parent / "metrics.csv"),
        SCORES: main_scores(
            profiles.load_profile(resources.COMMITTED_PROFILE), trained, profile.runs / "shipped_answers"
        ),
        ANSWERS: answer_samples(monkey),
        IMAGE_SETS: compare_on_image_sets(models, QUESTIONS, profile.image_size),
    }

    # All scores are there: no weights come to lie beside those of others.
    folder = resources.shipped_monkey()
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(trained.iterdir()):
        with resources.atomic_write(folder / file.name) as temporary:
            shutil.copyfile(file, temporary)
    for name, rows in scores.items():
        tables.write_csv(rows, folder / name)
    print(resources.display_path(write_card(profile, folder)))


if __name__ == "__main__":
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    main()
