"""A cell of the grid of experiments: one variant in one rendering with one seed, trained and scored.

cell ──▶ profile ──fine-tune──▶ scores at steps 0, 10, 30, ... ──▶ rows of a tidy table, scores by question
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from monkeylib import resources, sizing
from monkeylib.data.synthetic import label_levels
from monkeylib.digests import json_digest, quick_file_digest
from monkeylib.experiments import scoring
from monkeylib.experiments.origin import origin
from monkeylib.experiments.scoring import ScoreAtSteps, step_file
from monkeylib.experiments.variants import VARIANTS, variant_profile
from monkeylib.inference import load_model
from monkeylib.monkey import Monkey
from monkeylib.profiles import Profile, build, trainable
from monkeylib.runs.manifest import code_version
from monkeylib.tables import Row
from monkeylib.training import finetune, memory
from monkeylib.training.signals import StoppedAsPlanned
from monkeylib.training.synthetic_records import synthetic_data

RESULT = "result.json"


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        variant: a name of `variants.VARIANTS`.
        rendering: a rendering of `data.synthetic.renderings`.
        seed: of data, initial weights and dropout.
    """

    variant: str
    rendering: str
    seed: int

    @property
    def name(self) -> str:
        """Name in files."""
        return f"{self.variant}-{self.rendering}-{self.seed}"

    def profile(self, profile: Profile) -> Profile:
        """Return the profile that the cell trains."""
        return variant_profile(profile, self.variant, self.rendering).with_seed(self.seed)

    def fingerprint(self, profile: Profile) -> str:
        """Return a digest of what decides about the scores: settings, base weights, labels and questions."""
        changed = self.profile(profile)
        settings = changed.model_dump(mode="json", exclude_defaults=True)
        for name in ("name", "description", "evaluation"):
            settings.pop(name, None)

        files = []
        if changed.base_checkpoint is not None:
            files += sorted(build.base_folder(changed).glob("*.safetensors"))
        if changed.labels == "pipeline":
            files.append(label_levels.pipeline_file())
        return json_digest([settings, [quick_file_digest(path) for path in files]])[:16]


def folder_of(profile: Profile) -> Path:
    """Return the folder of the grid's runs."""
    return resources.grid_runs(profile.name)


def read_result(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the result of a finished cell in its folder, None if there is none of this fingerprint."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return result if result.get("fingerprint") == fingerprint else None


def run_cell(profile: Profile, cell: Cell, progress: bool = False) -> dict[str, Any]:
    """Train and score a cell, and return its result; a finished one is read from disk.

    An interrupted cell goes on at its last checkpoint. Its folder holds the run, the scores by question, and
    `result.json`, which is written last.

    Returns:
        The `cell`, its `fingerprint`, what it was made with, its `costs`, and mean scores as `rows`: `step`,
        `condition` ("as trained" or "permuted"), `split`, `metric`, `value` and number of questions `n`.
    """
    folder, fingerprint = folder_of(profile) / cell.name, cell.fingerprint(profile)
    result = read_result(folder, fingerprint)
    if result is not None:
        return result

    changed, ablation = cell.profile(profile), profile.ablation
    timer = _TrainingTime()
    checkpoint = _train(profile, cell, progress, timer)
    scores_folder = scores_folder_of(profile, cell)

    processor = build.build_processor(changed)
    model = trainable.build_trainable(changed, processor)
    if VARIANTS[cell.variant].permuted:
        final_questions = scoring.load_questions(changed, ablation.counts)
        _score_permuted(changed, checkpoint, final_questions, scores_folder / scoring.PERMUTED)

    costs = {
        "visual_tokens": processor.visual_tokens(),
        "trained_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "flops": sum(sizing.count_flops(model.config).values()),
        "images_per_second": timer.images_per_second(changed.training.batch_size),
        "step_bytes": _step_bytes(folder / "run"),
    }
    result: dict[str, Any] = {
        "cell": {"variant": cell.variant, "rendering": cell.rendering, "seed": cell.seed},
        "fingerprint": fingerprint,
        **code_version(),
        **origin(),
        "costs": costs,
        "rows": _summarise(scores_folder, scored_steps(profile), with_permuted=True),
    }
    with resources.atomic_write(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def run_first_steps(profile: Profile, cell: Cell, until: int, progress: bool = False) -> list[Row]:
    """Train a cell up to one of the steps at which it is scored, and return its scores so far.

    The learning rate is that of the whole run, which `run_cell` can go on with.

    Args:
        profile: the profile.
        cell: the cell.
        until: a step of `scored_steps`, but for the last one.
        progress: report steps, loss and time left.

    Returns:
        Rows as those of `run_cell`, up to that step.

    Raises:
        ValueError: the cell is not scored at that step.
        signals.Interrupted: a signal has ended training before it.
    """
    steps = scored_steps(profile)
    if until not in steps[:-1]:
        raise ValueError(f"a cell of {profile.name} is scored at the steps {steps}: give one before the last")

    # A second time only if scores of earlier steps are gone.
    for fresh in (False, True):
        if not has_first_steps(profile, cell, until):
            with contextlib.suppress(StoppedAsPlanned):
                _train(profile, cell, progress, stop_after=until, fresh=fresh)
    return _summarise(scores_folder_of(profile, cell), [step for step in steps if step <= until])


def has_first_steps(profile: Profile, cell: Cell, until: int) -> bool:
    """Return whether a cell has scores of all steps at which it is scored, up to one of them."""
    folder = scores_folder_of(profile, cell)
    return all(step_file(folder, step).exists() for step in scored_steps(profile) if step <= until)


def scored_steps(profile: Profile) -> list[int]:
    """Return the steps after which a cell is scored: 0, those of its curve before the last one, and that."""
    last = profile.ablation.steps
    return [*sorted({0, *(step for step in profile.ablation.curve_steps if step < last)}), last]


def scores_folder_of(profile: Profile, cell: Cell) -> Path:
    """Return the folder of a cell's scores by question."""
    return folder_of(profile) / cell.name / "scores" / cell.fingerprint(profile)


def _train(
    profile: Profile,
    cell: Cell,
    progress: bool,
    timer: _TrainingTime | None = None,
    stop_after: int | None = None,
    fresh: bool = False,
) -> Path:
    """Train a cell, with scores on the way, and return its checkpoint."""
    changed, ablation = cell.profile(profile), profile.ablation
    folder, scores_folder = folder_of(profile) / cell.name, scores_folder_of(profile, cell)

    # All questions before training and after it; in between, the first ones of them.
    all_questions = scoring.load_questions(changed, ablation.counts)
    first_questions = {split: all_questions[split][:count] for split, count in ablation.curve_counts.items()}
    questions: dict[int, scoring.Questions] = dict.fromkeys(scored_steps(profile), first_questions)
    questions |= {0: all_questions, ablation.steps: all_questions}

    # No validation split: nothing is selected by its loss.
    data = replace(synthetic_data(changed), validation=None)
    callbacks: list[L.Callback] = [ScoreAtSteps(questions, scores_folder, folder_of(profile) / "untrained")]
    if timer is not None:
        callbacks.insert(0, timer)

    def train(fresh: bool) -> Path:
        return finetune.run(
            changed,
            folder / "run",
            progress,
            data,
            fresh=fresh,
            if_changed="replace",
            callbacks=callbacks,
            stop_after=stop_after,
        )

    checkpoint = train(fresh)
    # A finished run whose scores are gone says nothing about its earlier steps.
    if not all(step_file(scores_folder, step).exists() for step in questions):
        checkpoint = train(fresh=True)
    return checkpoint


class _TrainingTime(L.Callback):
    """Seconds of the steps of a run, scoring left out; the first step of a start is left out, too."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._start: float | None = None
        self._step = 0

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Start the clock with the first micro-batch of a step."""
        if self._start is None:
            self._start, self._step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop it with the last one."""
        if trainer.global_step > self._step and self._start is not None:
            self._seconds.append(time.perf_counter() - self._start)
            self._start = None

    def images_per_second(self, batch_size: int) -> float | None:
        """Return images per second of the median step; None if no step was timed."""
        if len(self._seconds) < 2:
            return None
        return round(batch_size / float(np.median(self._seconds[1:])), 3)


def _step_bytes(run: Path) -> int | None:
    """Return the bytes of a training step at its peak, as the run has measured them."""
    try:
        return json.loads((run / memory.FILE).read_text(encoding="utf-8"))["measured"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None


def _score_permuted(profile: Profile, checkpoint: Path, questions: scoring.Questions, path: Path) -> None:
    """Score the trained model with the LoRAs of its tiles permuted: tile i meets the LoRA of tile i + 1."""
    if path.exists():
        return
    processor = build.build_processor(profile)
    model = load_model(checkpoint).model
    tiles = profile.rows * profile.cols
    model.permute_tiles([(tile + 1) % tiles for tile in range(tiles)])
    scoring.write_scores(scoring.score_questions(Monkey(model, processor), questions), path)


def _summarise(scores_folder: Path, steps: Sequence[int], with_permuted: bool = False) -> list[Row]:
    """Return the mean scores of each step and split; those with permuted LoRAs are of the last step."""
    files = [("as trained", step, step_file(scores_folder, step)) for step in steps]
    permuted = scores_folder / scoring.PERMUTED
    if with_permuted and permuted.exists():
        files.append(("permuted", steps[-1], permuted))

    rows: list[Row] = []
    for condition, step, path in files:
        for split, scores in scoring.read_scores(path).items():
            for metric, values in (("log-likelihood", scores.log_likelihood), ("exact match", scores.exact)):
                rows.append(
                    {
                        "step": step,
                        "condition": condition,
                        "split": split,
                        "metric": metric,
                        "value": round(float(values.mean()), 5),
                        "n": len(values),
                    }
                )
    return rows
