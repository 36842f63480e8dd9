"""Score checkpoints on the nano world's test splits: predictions first, scores from the predictions."""

from __future__ import annotations

from pathlib import Path

from monkeylib import inference, paths
from monkeylib.evaluation import benchmarks, runner, scoring
from monkeylib.profiles import Profile


def predict(
    profile: Profile, model: Path, folder: Path, counts: dict[str, int], progress: bool = False
) -> dict[str, Path]:
    """Predictions of a checkpoint, one JSONL file per split; what is there already is not asked again.

    Args:
        model: folder of the checkpoint.
        folder: where the predictions go.
        counts: how many questions of each split (`fine`, `large`, `general`, `caption`).
    """
    monkey = inference.load(model)
    done = {}
    for split, count in counts.items():
        entry = benchmarks.get(f"nano-{split}")
        done[entry.name] = runner.predict(
            monkey,
            entry.load(count),
            folder / f"{entry.name}.jsonl",
            batch_size=profile.evaluation.batch_size,
            max_new_tokens=min(entry.max_new_tokens, profile.evaluation.max_new_tokens),
            progress=progress,
            stale="replace",
        )
    return done


def checkpoints(profile: Profile) -> dict[str, Path]:
    """The profile's models by name: `base` (where the profile has one) and `monkey`, trained by notebook
    05."""
    found = {"monkey": paths.runs(profile.name) / "monkey" / "model"}
    if profile.base_checkpoint:
        found = {"base": paths.REPOSITORY / profile.base_checkpoint} | found
    return found


def run(profile: Profile, progress: bool = False) -> Path:
    """Predict and score the profile's models; returns the table `evaluation.csv` of its results, by family
    too."""
    predictions = {}
    for name, model in checkpoints(profile).items():
        folder = paths.runs(profile.name) / "evaluation" / name
        for split, path in predict(profile, model, folder, profile.evaluation.counts, progress).items():
            predictions[name, split] = path
    rows = scoring.summarise(predictions, by="family")
    return scoring.write_table(rows, paths.results(profile.name) / "evaluation.csv")
