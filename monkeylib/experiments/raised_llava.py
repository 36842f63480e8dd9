"""A LLaVA that is raised, trained and scored: does Monkey's method give a base of transformers fine print?

base, one view ──raise──▶ tiles, untrained ──train──▶ adapters for each tile
                                           └─train──▶ no adapters, the control
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monkeylib import resources, tables
from monkeylib.digests import json_digest
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.likelihood import AnswerScores
from monkeylib.experiments import scoring
from monkeylib.experiments.nano_llava import llava_profile, write_base
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.messages import ImagePart, Message
from monkeylib.profiles import Profile
from monkeylib.profiles.raised import RaisedProfile
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.raising import load_raised, raise_resolution
from monkeylib.raising.bases import load_base, load_base_processor
from monkeylib.raising.tower import run_image_encoder
from monkeylib.tables import Row
from monkeylib.tiling import Grid
from monkeylib.training import finetune
from monkeylib.training.batches import synthetic_data

TABLE = "raised_llava"
SPLIT = "fine"
QUESTIONS = 200
ONE_VIEW = Grid(0, 0)


@dataclass(frozen=True)
class Condition:
    """A model that is scored.

    Fields:
        title: for readers.
        mode: of the adapters that are trained; None for no training.
        has_tiles: whether it sees tiles beside the global view.
    """

    title: str
    mode: str | None = None
    has_tiles: bool = True


CONDITIONS = {
    "base": Condition("base: one view, as it came", has_tiles=False),
    "untrained": Condition("raised, untrained"),
    "no_adapters": Condition("raised, trained without adapters", mode="none"),
    "per_tile": Condition("raised, trained with an adapter for each tile", mode="per_tile"),
}


# --- training


def training_profile(profile: Profile, base: Path | str, mode: str = "per_tile") -> RaisedProfile:
    """Return what trains a raised LLaVA as the grid of experiments trains the profile's Monkey.

    As there (paper section 3.1), adapters, connector and language model train. Steps and batch are half as
    large, since all patches of a view are visual tokens here, and a step costs twice as much.

    Args:
        profile: of the base; the rates are its own.
        base: folder of the LLaVA.
        mode: of the adapters.
    """
    training, views = profile.training, profile.rows * profile.cols + 1
    visual_tokens = views * llava_profile(profile).queries
    batch_size = max(1, training.batch_size // 2)
    settings = training.model_dump() | {
        "steps": training_steps(profile),
        "batch_size": batch_size,
        "micro_batch_size": min(4, batch_size),
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


def training_steps(profile: Profile) -> int:
    """Return how many steps a raised LLaVA is trained."""
    return max(1, profile.ablation.steps // 2)


def train(profile: Profile, mode: str = "per_tile", progress: bool = False) -> Path:
    """Raise the profile's LLaVA, train it on the profile's synthetic data, and return its folder.

    An interrupted run goes on at its last checkpoint, and a finished one is returned.
    """
    raised_profile = training_profile(profile, write_base(profile), mode)
    data = replace(synthetic_data(profile), validation=None)
    return finetune.run(raised_profile, folder_of(profile) / mode, progress, data, if_changed="replace")


def folder_of(profile: Profile) -> Path:
    """Return the folder of the experiment's runs."""
    return resources.runs(profile.name) / "raised-llava"


# --- scores


def load(profile: Profile, name: str, progress: bool = False) -> RaisedMonkey:
    """Return the model of a condition, trained if that has not been done, without tiles if it sees none."""
    condition = CONDITIONS[name]
    if condition.mode is not None:
        raised = load_raised(train(profile, condition.mode, progress))
    else:
        base = write_base(profile)
        grid = (profile.rows, profile.cols)
        raised = raise_resolution(
            load_base(base), load_base_processor(base), grid, rank=profile.lora.attention_rank
        )
    monkey = RaisedMonkey(raised.model.eval(), raised.processor)
    return monkey if condition.has_tiles else monkey.with_grid(ONE_VIEW)


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

    views = conversations.views_of([[image]], [[grid]])
    with model.view_state.use(views.pop("tile_index")):
        features = run_image_encoder(model, views)
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


def run(profile: Profile, progress: bool = False) -> Path:
    """Train and score all conditions that have not been, and write the table `raised_llava`.

    Returns:
        Its path. Rows have `condition`, `steps`, `visual_tokens`, `exact_match`, `log_likelihood` (nats per
        character of the true answer) and the number of questions `n`.
    """
    count = min(QUESTIONS, profile.ablation.counts[SPLIT])
    questions = scoring.load_questions(profile, {SPLIT: count})

    rows: list[Row] = []
    for name, condition in CONDITIONS.items():
        scores = _read_or_score(profile, name, questions, progress)[SPLIT]
        views = profile.rows * profile.cols + 1 if condition.has_tiles else 1
        rows.append(
            {
                "condition": condition.title,
                "steps": 0 if condition.mode is None else training_steps(profile),
                "visual_tokens": views * llava_profile(profile).queries,
                "exact_match": round(float(scores.exact.mean()), 5),
                "log_likelihood": round(float(scores.log_likelihood.mean()), 5),
                "n": count,
            }
        )
    return tables.write_table(rows, TABLE, profile.name)


def _read_or_score(
    profile: Profile, name: str, questions: scoring.Questions, progress: bool
) -> scoring.Scores:
    """Return the scores of a condition, from disk if they were made of the same base, settings and data."""
    condition = CONDITIONS[name]
    made_of: list[Any] = [write_base(profile).name, name, len(questions[SPLIT])]
    if condition.mode is not None:
        made_of.append(training_profile(profile, write_base(profile).name, condition.mode).model_dump())
        made_of.append(synthetic_data(profile).digest)

    path = folder_of(profile) / "scores" / f"{name}-{json_digest(made_of)[:8]}.npz"
    if not path.exists():
        monkey = load(profile, name, progress)
        scoring.write_scores({SPLIT: score_raised(monkey, questions[SPLIT])}, path)
    return scoring.read_scores(path)
