"""How well the matching head finds the text of an image and the image of a text, beside chance."""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from monkeylib import resources
from monkeylib.captions.experts.matching import MatchingHead
from monkeylib.captions.filtering import REGION_MATCH, SEGMENT_MATCH
from monkeylib.data.images import OPENMOJI, STAMPS
from monkeylib.evaluation.statistics import bootstrap_interval
from monkeylib.tables import Row
from monkeylib.training.matching_features import PHOTOGRAPH, WHITE, Features

DEPTHS = (1, 5, 10)
GROUPS: dict[str, Callable[[str, str], bool]] = {
    "all on white": lambda source, behind: behind == WHITE,
    "stamps on white": lambda source, behind: source == STAMPS and behind == WHITE,
    "stamps on photographs": lambda source, behind: source == STAMPS and behind == PHOTOGRAPH,
    "emoji on white": lambda source, behind: source == OPENMOJI,
}


@torch.no_grad()
def closeness(head: MatchingHead, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Cosines `[images, texts]` of all images with the distinct texts, and which belong together."""
    texts = list(dict.fromkeys(features.texts))
    first = [features.texts.index(text) for text in texts]
    values = head.images(features.views) @ head.texts(features.words[first]).T
    belongs = np.array(features.texts, dtype=object)[:, None] == np.array(texts, dtype=object)[None, :]
    return values.numpy(), belongs


def hits(values: np.ndarray, belongs: np.ndarray, depth: int) -> np.ndarray:
    """Whether one of the first `depth` candidates of each query (a row) belongs to it: `[queries]`, 0 or 1.

    Of candidates that are equally close, those that don't belong come first.
    """
    best = np.where(belongs, values, -np.inf).max(axis=1, keepdims=True)
    before = ((values >= best) & ~belongs).sum(axis=1)
    return (before < depth).astype(float)


def chance(belongs: np.ndarray, depth: int) -> float:
    """The mean of `hits` where candidates come in a random order."""
    count = belongs.shape[1]
    depth = min(depth, count)
    missed = [math.comb(count - int(own), depth) / math.comb(count, depth) for own in belongs.sum(axis=1)]
    return 1 - float(np.mean(missed))


def mean_recall(head: MatchingHead, features: Features, depth: int) -> float:
    """The mean recall of both directions over all views."""
    values, belongs = closeness(head, features)
    return float((hits(values, belongs, depth).mean() + hits(values.T, belongs.T, depth).mean()) / 2)


def table(head: MatchingHead, features: Features) -> list[Row]:
    """A row for each group of images, direction and depth: recall with its 95 % interval, beside chance.

    Further rows give the accuracy of a threshold where as many pairs belong as don't (chance: one half).
    """
    rows: list[Row] = []
    for group, member in GROUPS.items():
        chosen = [
            i for i, pair in enumerate(zip(features.sources, features.behind, strict=True)) if member(*pair)
        ]
        if not chosen:
            continue
        part = features.chosen(chosen)
        values, belongs = closeness(head, part)
        both = {"image to text": (values, belongs), "text to image": (values.T, belongs.T)}
        for direction, (close, own) in both.items():
            clusters = part.texts if direction == "image to text" else None
            for depth in DEPTHS:
                interval = bootstrap_interval(hits(close, own, depth), clusters=clusters)
                rows.append(_row(group, direction, close, f"recall at {depth}", interval, chance(own, depth)))
        probability = head.probability(torch.from_numpy(values)).numpy()
        for limit in (REGION_MATCH, SEGMENT_MATCH):
            interval = bootstrap_interval(judged(probability, belongs, limit), clusters=part.texts)
            rows.append(_row(group, "pairs", values, f"accuracy of {limit}", interval, 0.5))
    return rows


def judged(probability: np.ndarray, belongs: np.ndarray, limit: float) -> np.ndarray:
    """For each image, how often the threshold is right, its own texts weighing as much as all others."""
    passes = probability > limit
    right = np.where(belongs, passes, ~passes).astype(float)
    own = (right * belongs).sum(axis=1) / belongs.sum(axis=1)
    others = (right * ~belongs).sum(axis=1) / np.maximum((~belongs).sum(axis=1), 1)
    return (own + others) / 2


def _row(
    group: str, direction: str, values: np.ndarray, metric: str, interval: Sequence[float], chance: float
) -> Row:
    numbers = {
        name: round(float(value), 4)
        for name, value in zip(("value", "low", "high"), interval[:3], strict=True)
    }
    return {
        "images": group,
        "direction": direction,
        "queries": values.shape[0],
        "candidates": values.shape[1],
        "metric": metric,
        **numbers,
        "chance": round(chance, 4),
    }


def write(rows: Sequence[Row], path: Path) -> Path:
    """Write rows as CSV, in one move."""
    with resources.replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
