"""Scores of a model on the questions of an experiment, at chosen steps of its training.

A score is a number for each question: the log-likelihood of the true answer, and whether greedy decoding
gives it. Numbers are kept by question, since differences between variants are taken question by question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from monkeylib import resources
from monkeylib.digests import weights_digest
from monkeylib.evaluation import benchmarks
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.likelihood import AnswerScores, score_answers
from monkeylib.monkey import Monkey
from monkeylib.profiles import Profile
from monkeylib.tables import Row

Questions = Mapping[str, Sequence[Example]]  # by split
Scores = dict[str, AnswerScores]  # by split


def load_questions(profile: Profile, counts: Mapping[str, int]) -> dict[str, list[Example]]:
    """Return the first questions of each split, about images of the profile's size and rendering."""
    return {
        split: benchmarks.synthetic_examples(split, count, profile.image_size, profile.rendering)
        for split, count in counts.items()
    }


def describe_questions(questions: Questions) -> list[Row]:
    """Return a row for each question: `split`, `image` (its cluster), `kind`, and `height`.

    The height in pixels is that of the smallest text that the answer needs, or of the object. Captions have
    neither kind nor height.
    """
    rows: list[Row] = []
    for split, examples in questions.items():
        for example in examples:
            kind, height = example.meta.get("kind"), example.meta.get("height")
            rows.append({"split": split, "image": example.image_key, "kind": kind, "height": height})
    return rows


def score_questions(monkey: Monkey, questions: Questions) -> Scores:
    """Score the questions of all splits; an image that several splits ask about is encoded once."""
    together = [example for examples in questions.values() for example in examples]
    scores = score_answers(monkey, together)

    by_split: Scores = {}
    start = 0
    for split, examples in questions.items():
        end = start + len(examples)
        by_split[split] = AnswerScores(scores.log_likelihood[start:end], scores.exact[start:end])
        start = end
    return by_split


def write_scores(scores: Scores, path: Path) -> None:
    """Write scores in one move, as arrays `<split>_log_likelihood` (float32) and `<split>_exact`."""
    arrays: dict[str, np.ndarray] = {}
    for split, values in scores.items():
        arrays[f"{split}_log_likelihood"] = values.log_likelihood.astype(np.float32)
        arrays[f"{split}_exact"] = values.exact

    with resources.atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_scores(path: Path) -> Scores:
    """Read scores that `write_scores` has written."""
    with np.load(path) as arrays:
        splits = dict.fromkeys(name.removesuffix("_exact") for name in arrays if name.endswith("_exact"))
        return {
            split: AnswerScores(arrays[f"{split}_log_likelihood"].astype(float), arrays[f"{split}_exact"])
            for split in splits
        }


class ScoreAtSteps(L.Callback):
    """Score the model at chosen steps of its training, into a file for each of them.

    Training is not changed by it: the model goes on in training mode, and random numbers as they were.

    Args:
        questions: by step, the questions of each split.
        folder: folder of the files, see `step_file`. A step whose file exists is not scored again.
        untrained: folder of scores before the first step, which models of the same weights share: LoRA that
            is zero changes no answer. None to score that step as any other.
    """

    def __init__(self, questions: Mapping[int, Questions], folder: Path, untrained: Path | None = None):
        self.questions, self.folder, self.untrained = dict(questions), folder, untrained

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Score before the first step, or the step at which a run was interrupted."""
        self._score(trainer, module)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Score after a step; after a micro-batch that ends none, there is nothing to do."""
        # Step 0 is over with the first micro-batch, although the next step is not yet complete.
        if trainer.global_step > 0:
            self._score(trainer, module)

    def _score(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        step = trainer.global_step
        path = step_file(self.folder, step)
        if step not in self.questions or path.exists() or not trainer.is_global_zero:
            return

        is_training = module.model.training
        with torch.random.fork_rng():
            if step == 0 and self.untrained is not None:
                scores = self._untrained_scores(module, self.untrained)
            else:
                scores = self.score(module, self.questions[step])
        module.model.train(is_training)
        write_scores(scores, path)

    def score(self, module: L.LightningModule, questions: Questions) -> Scores:
        """Score the model of a training."""
        return score_questions(Monkey(module.model, module.processor), questions)

    def _untrained_scores(self, module: L.LightningModule, folder: Path) -> Scores:
        """Return the scores before training, from disk where an equal model has been scored."""
        monkey = Monkey(module.model, module.processor)
        weights = monkey.model.state_dict()
        has_effect = any(bool(weight.any()) for name, weight in weights.items() if name.endswith("lora_B"))
        if not has_effect:
            weights = {name: weight for name, weight in weights.items() if "_lora." not in name}

        # What else decides about the answers: the views, how they become tokens, and the questions.
        images = monkey.processor.image_processor.to_dict()
        config = monkey.model.config
        parts = [sorted(part.to_dict().items()) for part in (config.vision_config, config.resampler_config)]
        ids = {
            split: [(example.id, example.question, example.answers) for example in examples]
            for split, examples in self.questions[0].items()
        }
        pixels = [np.asarray(examples[0].rendered_image).tobytes() for examples in self.questions[0].values()]
        digest = weights_digest(
            weights, [repr(sorted(images.items())), repr(parts), repr(ids), repr(pixels)]
        )[:16]

        path = folder / f"{digest}.npz"
        if not path.exists():
            write_scores(self.score(module, self.questions[0]), path)
        return read_scores(path)


def step_file(folder: Path, step: int) -> Path:
    """Return the file of the scores after a step."""
    return folder / f"step-{step:04d}.npz"


PERMUTED = "permuted.npz"  # scores after the last step, with the LoRAs of the tiles permuted
