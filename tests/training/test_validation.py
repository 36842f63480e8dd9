"""Validation outside of a run is that of the run."""

import dataclasses

import pytest

from monkeylib.inference import load_model
from monkeylib.profiles import load_profile
from monkeylib.training import finetune
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
