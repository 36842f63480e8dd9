"""A LLaVA that is raised, trained and scored: does Monkey's method give a base of transformers fine print?

base, one view ──raise──▶ tiles, untrained ──train──▶ adapters for each tile
                                           └─train──▶ no adapters, the control

Training has the steps, the batch, the rates and the trained parts of the profile's own Monkey in the grid of
experiments, and is scored at the same steps. `python -m monkeylib.experiments.raised_llava` runs everything.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import torch

from monkeylib import profiles, resources, tables
from monkeylib.digests import json_digest
from monkeylib.evaluation.benchmarks import synthetic_examples
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.likelihood import AnswerScores
from monkeylib.experiments import grid, scoring
from monkeylib.experiments.cell import Cell, scored_steps
from monkeylib.experiments.nano_llava import llava_profile, write_base
from monkeylib.experiments.scoring import ScoreAtSteps, step_file
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.messages import ImagePart, Message
from monkeylib.profiles import Profile
from monkeylib.profiles.raised import RaisedProfile
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.raising import load_raised, raise_resolution
from monkeylib.raising.bases import load_base, load_base_processor
from monkeylib.raising.encodings import encode_views
from monkeylib.tables import Row
from monkeylib.tiling import Grid
from monkeylib.training import finetune
from monkeylib.training.synthetic_records import synthetic_data

TABLE = "raised_llava"
ANSWERS_TABLE = "raised_llava_answers"

# Questions of each split, of those that the grid of experiments scores.
QUESTIONS = {"fine": 200, "large": 100}


# What is scored: names in the table, and for readers. Trained ones by the mode of their adapters.
ONE_VIEW = "llava_one_view"
VARIANTS = {"none": "llava_no_adapters", "per_tile": "llava_per_tile"}
TITLES = {
    "llava_per_tile": "LLaVA, raised, LoRA per tile",
    "llava_no_adapters": "LLaVA, raised, no LoRA",
    ONE_VIEW: "LLaVA, one view",
}


# --- training


def training_profile(profile: Profile, base: Path | str, mode: str = "per_tile") -> RaisedProfile:
    """Return what trains a raised LLaVA as the grid of experiments trains the profile's Monkey.

    As there (paper section 3.1), adapters, connector and language model train, for as many steps of as many
    records.

    Args:
        profile: of the base; the rates and the seed are its own.
        base: folder of the LLaVA.
        mode: of the adapters.
    """
    training, views = profile.training, profile.rows * profile.cols + 1
    visual_tokens = views * llava_profile(profile).queries
    settings = training.model_dump() | {
        "steps": profile.ablation.steps,
        "micro_batch_size": profile.ablation.micro_batch_size,
        # As much text as for the profile's own model.
        "max_length": training.max_length - profile.visual_tokens + visual_tokens,
        "precision": "32-true",
    }
    return RaisedProfile(
        base=str(base),
        grid=f"{profile.rows}x{profile.cols}",
        rank=profile.lora.attention_rank,
        mode=mode,
        dropout=profile.lora.dropout,
        language_model="full",
        training=settings,
    )


def train(
    profile: Profile,
    mode: str = "per_tile",
    progress: bool = False,
    stop_after: int | None = None,
) -> Path:
    """Raise the profile's LLaVA, train it on the profile's synthetic data, and return its folder.

    It is scored on the way. An interrupted run goes on at its last checkpoint, and a finished one is
    returned.

    Args:
        profile: of the base.
        mode: of the adapters.
        progress: report steps, loss and time left.
        stop_after: a step before the last one, after which the run ends.

    Raises:
        StoppedAsPlanned: `stop_after` has ended the run.
    """
    raised_profile = training_profile(profile, write_base(profile), mode)
    data = replace(synthetic_data(profile.with_usual_images()), validation=None)
    folder = scores_folder_of(profile, mode)

    # Step 0 is a condition of its own. The curve is one of fine print.
    questions = _load_questions(profile)
    at_steps: dict[int, scoring.Questions] = {
        step: {"fine": questions["fine"]} for step in scored_steps(profile) if step > 0
    }
    at_steps[profile.ablation.steps] = questions
    due = [step for step in at_steps if stop_after is None or step <= stop_after]

    # A second time only if scores of earlier steps are gone.
    checkpoint = folder
    for fresh in (False, True):
        checkpoint = finetune.run(
            raised_profile,
            run_folder_of(profile, mode),
            progress,
            data,
            fresh=fresh,
            if_changed="replace",
            callbacks=[_ScoreRaisedAtSteps(at_steps, folder)],
            stop_after=stop_after,
        )
        if all(step_file(folder, step).exists() for step in due):
            break
    return checkpoint


class _ScoreRaisedAtSteps(ScoreAtSteps):
    """Score a raised model at chosen steps of its training."""

    def score(self, module: L.LightningModule, questions: scoring.Questions) -> scoring.Scores:
        """Score the model of a training."""
        module.model.eval()
        return _score_splits(module.monkey, questions)


def folder_of(profile: Profile) -> Path:
    """Return the folder of the experiment's runs."""
    return resources.runs(profile.name) / "raised-llava"


def run_folder_of(profile: Profile, mode: str) -> Path:
    """Return the folder of the training with these adapters and the profile's seed."""
    return folder_of(profile) / f"{mode}-{profile.training.seed}"


def scores_folder_of(profile: Profile, mode: str) -> Path:
    """Return the folder of a training's scores, which the base, the settings and the data name."""
    settings = training_profile(profile, write_base(profile).name, mode).model_dump()
    digest = json_digest([settings, synthetic_data(profile.with_usual_images()).digest, _counts(profile)])
    return folder_of(profile) / "scores" / f"{mode}-{digest[:8]}"


# --- scores


def load_untrained(profile: Profile, has_tiles: bool = True) -> RaisedMonkey:
    """Return the profile's LLaVA, raised and not trained, or as it came: with one view."""
    base = write_base(profile)
    raised = raise_resolution(
        load_base(base),
        load_base_processor(base),
        (profile.rows, profile.cols),
        rank=profile.lora.attention_rank,
    )
    monkey = RaisedMonkey(raised.model.eval(), raised.processor)
    return monkey if has_tiles else monkey.with_grid(Grid(0, 0))


def load_trained(profile: Profile, mode: str = "per_tile", progress: bool = False) -> RaisedMonkey:
    """Return the trained LLaVA, which is trained if that has not been done."""
    raised = load_raised(train(profile, mode, progress))
    return RaisedMonkey(raised.model.eval(), raised.processor)


def _counts(profile: Profile) -> dict[str, int]:
    return {split: min(count, profile.ablation.counts[split]) for split, count in QUESTIONS.items()}


def _load_questions(profile: Profile) -> dict[str, list[Example]]:
    return scoring.load_questions(profile, _counts(profile))


def _score_splits(monkey: RaisedMonkey, questions: scoring.Questions) -> scoring.Scores:
    return {split: score_raised(monkey, examples) for split, examples in questions.items()}


@torch.no_grad()
def score_raised(monkey: RaisedMonkey, examples: Sequence[Example]) -> AnswerScores:
    """Score the first accepted answer of each example, as `likelihood.score_answers` does with a Monkey.

    Each image is encoded once. The base is one that reads encoded images beside `input_ids`, as LLaVA does.
    """
    by_image: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        by_image.setdefault(example.image_key, []).append(number)

    log_likelihood, exact = np.empty(len(examples)), np.empty(len(examples), dtype=bool)
    for numbers in by_image.values():
        about_image = [examples[number] for number in numbers]
        sums, right = _score_about_image(monkey, about_image)
        log_likelihood[numbers] = sums / np.array([len(example.answers[0]) for example in about_image])
        exact[numbers] = right
    return AnswerScores(log_likelihood, exact)


def _score_about_image(monkey: RaisedMonkey, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-probability of each answer about one image, and whether greedy decoding gives it."""
    image, model, conversations = examples[0].rendered_image, monkey.model, monkey.conversations
    grid = monkey.select_grid(image.size)

    rows = []
    for example in examples:
        question = Message("user", (ImagePart(image), example.question))
        rows.append(conversations.encode([question, Message("assistant", (example.answers[0],))], [grid]))
    inputs = conversations.pad(rows)
    labels, _ = inputs.pop("labels"), inputs.pop("turns")

    features = encode_views(model, conversations, image, grid).output
    # Every row reads the same views.
    features.pooler_output = [*features.pooler_output] * len(rows)
    logits = model(**inputs, mm_encoder_outputs={"image": features}).logits

    # Each position predicts the next token.
    targets, log_probabilities = labels[:, 1:], logits[:, :-1].float().log_softmax(-1)
    is_scored = targets != IGNORE_INDEX
    of_targets = log_probabilities.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    is_right = (log_probabilities.argmax(-1) == targets) | ~is_scored
    return (of_targets * is_scored).sum(-1).double().numpy(), is_right.all(-1).numpy()


# --- the table


def run(profile: Profile, seeds: Sequence[int] = (0,), progress: bool = False) -> Path:
    """Train and score all conditions that have not been, and publish the tables.

    Returns:
        The path of the table of scores, see `publish`.
    """
    for seed in seeds:
        for mode in VARIANTS:
            train(profile.with_seed(seed), mode, progress)
    return publish(profile, seeds)


def publish(profile: Profile, seeds: Sequence[int] = (0,)) -> Path:
    """Write all scores that there are as the table `raised_llava`, and answers as `raised_llava_answers`.

    Rows of trainings with other seeds, or other numbers of steps or records, stay in the table.

    Returns:
        The path of the first one. It has columns of the grid's table: `variant`, `rendering`, `seed`, `step`,
        `condition`, `split`, `metric`, its `value`, the number of questions `n`, and `visual_tokens`. `steps`
        and `batch_size` are those of the training, and `records` what it has trained on by then. A training
        that is not complete has rows up to its last step that was scored.
    """
    rows = _rows_of_scores(profile, ONE_VIEW, 0, _untrained_scores(profile, has_tiles=False))
    complete = True
    for mode in VARIANTS:
        for seed in seeds:
            rows += _rows_of_training(profile.with_seed(seed), mode)
            folder = scores_folder_of(profile.with_seed(seed), mode)
            complete = complete and step_file(folder, profile.ablation.steps).exists()

    path = tables.table_path(TABLE, profile.name)
    earlier = tables.read_table(TABLE, profile.name) if path.exists() else []
    published = {_training_of(row) for row in rows}
    rows = [row for row in earlier if _training_of(row) not in published] + rows

    publish_scores(profile, seeds)
    if complete:
        tables.write_table(answer_rows(profile), ANSWERS_TABLE, profile.name)
    return tables.write_table(rows, TABLE, profile.name)


def publish_scores(profile: Profile, seeds: Sequence[int]) -> None:
    """Write the scores by question of complete trainings, as the grid of experiments does with its cells, and
    the questions.

    Raises:
        ValueError: the published questions of the grid are others.
    """
    questions = scoring.describe_questions(_load_questions(profile))
    for mode, variant in VARIANTS.items():
        for seed in seeds:
            end = step_file(scores_folder_of(profile.with_seed(seed), mode), profile.ablation.steps)
            if end.exists():
                scores = {"start": _untrained_scores(profile), "end": scoring.read_scores(end)}
                _require_same_questions(profile, questions)
                tables.write_csv(questions, questions_path(profile))
                grid.write_final_scores(scores, scores_path(profile, Cell(variant, profile.rendering, seed)))


def _require_same_questions(profile: Profile, questions: Sequence[Row]) -> None:
    """Check that the grid's cells were asked the same questions first, so that scores are pairs."""
    path = grid.questions_path(profile, Cell("per_tile", profile.rendering, 0))
    published = tables.read_csv(path) if path.exists() else []
    for split in QUESTIONS if published else ():
        images = [row["image"] for row in questions if row["split"] == split]
        if images != [row["image"] for row in published if row["split"] == split][: len(images)]:
            raise ValueError(f"{resources.display_path(path)} holds other questions: publish the grid anew")


def scores_path(profile: Profile, cell: Cell) -> Path:
    """Return the committed file of a training's scores by question; arrays as of `grid.scores_path`."""
    return resources.results(profile.name) / TABLE / f"{cell.name}.npz"


def questions_path(profile: Profile) -> Path:
    """Return the committed table of the questions, see `scoring.describe_questions`."""
    return resources.results(profile.name) / TABLE / "questions.csv"


def _training_of(row: Row) -> tuple[object, ...]:
    """Return what tells the training of a row from others of the table."""
    return tuple(row[name] for name in ("variant", "rendering", "seed", "steps", "batch_size"))


def _rows_of_training(profile: Profile, mode: str) -> list[Row]:
    """Return the scores of a training so far; at step 0, those of the raised base."""
    rows = _rows_of_scores(profile, VARIANTS[mode], 0, _untrained_scores(profile))
    for step in scored_steps(profile):
        file = step_file(scores_folder_of(profile, mode), step)
        if file.exists():
            rows += _rows_of_scores(profile, VARIANTS[mode], step, scoring.read_scores(file))
    return rows


def _rows_of_scores(profile: Profile, variant: str, step: int, scores: scoring.Scores) -> list[Row]:
    views = 1 if variant == ONE_VIEW else profile.rows * profile.cols + 1
    rows: list[Row] = []
    for split, values in scores.items():
        metrics = {"log-likelihood": values.log_likelihood, "exact match": values.exact}
        for metric, by_question in metrics.items():
            rows.append(
                {
                    "variant": variant,
                    "rendering": profile.rendering,
                    "seed": profile.training.seed,
                    "steps": 0 if variant == ONE_VIEW else profile.ablation.steps,
                    "batch_size": profile.training.batch_size,
                    "step": step,
                    "records": step * profile.training.batch_size,
                    "condition": "as trained",
                    "split": split,
                    "metric": metric,
                    "value": round(float(by_question.mean()), 5),
                    "n": len(by_question),
                    "visual_tokens": views * llava_profile(profile).queries,
                }
            )
    return rows


def _untrained_scores(profile: Profile, has_tiles: bool = True) -> scoring.Scores:
    """Return the scores of the raised base, from disk if they were made of the same base and questions."""
    name = "tiles" if has_tiles else "one_view"
    digest = json_digest([write_base(profile).name, name, _counts(profile)])
    path = folder_of(profile) / "scores" / f"{name}-{digest[:8]}.npz"
    if not path.exists():
        monkey = load_untrained(profile, has_tiles)
        scoring.write_scores(_score_splits(monkey, _load_questions(profile)), path)
    return scoring.read_scores(path)


def answer_examples(profile: Profile) -> list[Example]:
    """Return four questions about fine print, whose answers are shown."""
    return synthetic_examples("fine", 12, profile.image_size)[::3]


def answer_rows(profile: Profile) -> list[Row]:
    """Return a row for each of `answer_examples`: its `question` and `label`, and the answers of the base, of
    the raised base, and of the one that is trained with adapters."""
    monkeys = {
        "base": load_untrained(profile, has_tiles=False),
        "untrained": load_untrained(profile),
        "trained": load_trained(profile),
    }
    examples = answer_examples(profile)
    pairs = [(example.rendered_image, example.question) for example in examples]
    rows: list[Row] = [{"question": example.question, "label": example.answers[0]} for example in examples]
    for name, monkey in monkeys.items():
        answers = monkey.answer_batch(pairs, max_new_tokens=24)
        for row, answer in zip(rows, answers, strict=True):
            row[name] = answer.text
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment with some seeds, and publish its tables."""
    parser = argparse.ArgumentParser(description=run.__doc__)
    parser.add_argument("--profile", default=resources.COMMITTED_PROFILE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args(arguments)
    print(resources.display_path(run(profiles.load_profile(options.profile), options.seeds, progress=True)))


if __name__ == "__main__":
    main()
