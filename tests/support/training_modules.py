"""What trains on synthetic data, and the log that it leaves."""

import csv
from pathlib import Path

from monkeylib.profiles import Profile, build, trainable
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.synthetic_records import synthetic_data


def build_module(profile: Profile) -> MonkeyTraining:
    """Return the Lightning module of a profile, ready to train."""
    processor = build.build_processor(profile)
    model = build.build_model(profile, processor)
    trainable.set_trainable(model, profile)
    return MonkeyTraining(model, processor, profile, synthetic_data(profile))


def read_column(run: Path, name: str) -> list[float]:
    """Return the numbers in a column of a run's log."""
    with open(run / "metrics.csv") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]
