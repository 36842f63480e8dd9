"""Validation of a model outside of a run, as a run validates itself."""

from __future__ import annotations

import logging

import lightning as L

from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyProcessor
from monkeylib.profiles import Profile
from monkeylib.training.batches import TrainingData
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.synthetic_records import synthetic_data


def validate(
    profile: Profile,
    model: MonkeyForConditionalGeneration,
    processor: MonkeyProcessor,
    data: TrainingData | None = None,
) -> dict[str, float]:
    """Return `loss` and `exact` of a model on the validation records that a run of the profile uses.

    Args:
        profile: training settings.
        model: the model, before a run or after it.
        processor: encodes records.
        data: its validation records; synthetic ones by default.

    Raises:
        ValueError: there is nothing to validate with.
    """
    module = MonkeyTraining(model, processor, profile, data or synthetic_data(profile))
    if module.data.validation is None:
        raise ValueError("there are no validation records: name some in the mixture")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        precision=profile.training.precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    (metrics,) = trainer.validate(module, verbose=False)
    return {name: metrics[f"val/{name}"] for name in ("loss", "exact")}
