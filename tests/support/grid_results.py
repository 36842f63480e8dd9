"""Published results of the grid of experiments with made-up scores, which no model has been trained for."""

from collections.abc import Iterable

import numpy as np

from monkeylib import tables
from monkeylib.experiments import grid
from monkeylib.experiments.cell import Cell
from monkeylib.experiments.variants import VARIANTS
from monkeylib.profiles import Profile

QUESTIONS = 40  # of each split, two about each image
HEIGHTS = {"fine": (10.0, 12.4), "large": (20.0, 24.0), "general": (40.0, 50.0)}
STEPS = {"start": 0, "end": 2, "permuted": 2}


def publish_cells(profile: Profile, cells: Iterable[Cell], log_likelihood: dict[str, float]) -> None:
    """Write the table, the scores by question and the questions of cells.

    Before training all questions have log-likelihood -2 and are answered wrongly; afterwards every second one
    is answered rightly.

    Args:
        profile: the profile whose results they are.
        cells: the cells.
        log_likelihood: by variant, that of its answers after training; -1 where it is not given.
    """
    rows = []
    for cell in cells:
        noise = np.random.default_rng(cell.seed).normal(0, 0.01, QUESTIONS)
        end = log_likelihood.get(cell.variant, -1.0) + noise
        arrays = {}
        for split in HEIGHTS:
            moments = {"start": np.full(QUESTIONS, -2.0), "end": end}
            if VARIANTS[cell.variant].permuted:
                moments["permuted"] = end - 0.5
            for moment, values in moments.items():
                exact = np.zeros(QUESTIONS) if moment == "start" else np.arange(QUESTIONS) % 2
                arrays[f"{moment}_{split}_log_likelihood"] = values
                arrays[f"{moment}_{split}_exact"] = exact
                rows += _rows(cell, moment, split, {"log-likelihood": values, "exact match": exact})

        path = grid.scores_path(profile, cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
        tables.write_csv(_questions(), grid.questions_path(profile, cell))
    tables.write_table(rows, grid.TABLE, profile.name)


def _rows(cell: Cell, moment: str, split: str, scores: dict[str, np.ndarray]) -> list[tables.Row]:
    condition = "permuted" if moment == "permuted" else "as trained"
    return [
        {"variant": cell.variant, "rendering": cell.rendering, "seed": cell.seed}
        | {"step": STEPS[moment], "condition": condition, "split": split, "metric": metric}
        | {"value": float(values.mean()), "n": len(values)}
        | {"visual_tokens": 80, "flops": 10**9, "fingerprint": "made up"}
        for metric, values in scores.items()
    ]


def _questions() -> list[tables.Row]:
    return [
        {"split": split, "image": f"image-{number // 2}", "kind": "read", "height": heights[number % 2]}
        for split, heights in HEIGHTS.items()
        for number in range(QUESTIONS)
    ]
