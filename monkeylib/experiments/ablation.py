"""Train and score every variant with the same budget, data and seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from monkeylib import paths
from monkeylib.evaluation import scoring
from monkeylib.evaluation.nano import predict
from monkeylib.experiments.variants import VARIANTS, variant
from monkeylib.profiles import Profile
from monkeylib.training import finetune


def run(profile: Profile, names: Iterable[str] = tuple(VARIANTS), progress: bool = False) -> Path:
    """Train and score the variants; returns the table `ablation.csv` of the profile's results.

    Each variant lies in its own folder of the profile's runs; finished ones are not trained again.
    """
    folder = paths.runs(profile.name) / "ablation"
    predictions = {}
    for name in names:
        changed = variant(profile, name)
        data = replace(finetune.worlds(changed), validation=None)  # nothing is chosen by it
        model = finetune.run(changed, folder / name, progress, data)
        answered = predict(changed, model, folder / name / "predictions", profile.ablation.counts, progress)
        predictions |= {(name, split): done.path for split, done in answered.items()}
    return scoring.write_table(scoring.summarise(predictions), paths.results(profile.name) / "ablation.csv")
