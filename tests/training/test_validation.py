"""Validation outside of a run is that of the run, however its examples are divided."""

import dataclasses

import pytest
import torch

from monkeylib.inference import load_model
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.profiles import build, load_profile
from monkeylib.training import finetune, module
from monkeylib.training.curves import read_curves
from monkeylib.training.synthetic_records import synthetic_data
from monkeylib.training.validation import validate


def test_trained_model_scores_as_its_run_said(tmp_path):
    profile = load_profile("smoke").with_training(steps=2)
    trained = load_model(finetune.run(profile, tmp_path / "run", progress=False))
    last = [row for row in read_curves(tmp_path / "run" / "metrics.csv") if row["part"] == "val"][-1]
    metrics = validate(profile, trained.model, trained.processor)
    assert metrics == pytest.approx({name: last[name] for name in ("loss", "exact")}, abs=1e-5)

    data = dataclasses.replace(synthetic_data(profile), validation=None)
    with pytest.raises(ValueError, match="no validation records"):
        validate(profile, trained.model, trained.processor, data)


def test_exact_match_counts_answers_however_they_are_divided(monkeypatch):
    """Some images have more questions than others. Here, answers of an even number of tokens are right."""
    profile = load_profile("smoke")
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)

    def even(predictions, labels, turns):
        lengths = [
            int((row == turn).sum())
            for row in torch.where(labels == IGNORE_INDEX, -1, turns)
            for turn in row.unique()
            if turn >= 0
        ]
        return 1.0 - torch.tensor(lengths) % 2

    monkeypatch.setattr(module, "right_answers", even)
    whole, *divided = (
        validate(profile.with_training(micro_batch_size=size), model, processor)["exact"]
        for size in (None, 1, 3)
    )
    assert 0 < whole < 1 and divided == pytest.approx([whole, whole])
