"""Predictions of a checkpoint on the nano world's test splits."""

from __future__ import annotations

from pathlib import Path

from monkeylib import inference
from monkeylib.evaluation import benchmarks, runner
from monkeylib.profiles import Profile


def predict(
    profile: Profile, model: Path, folder: Path, counts: dict[str, int], progress: bool = False
) -> dict[str, runner.Answered]:
    """Predictions of a checkpoint, one JSONL file per benchmark; what is there already is not asked again.

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
