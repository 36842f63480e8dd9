"""Train the matching head on images with descriptions: `python -m monkeylib.training.matching`.

Two linear heads on frozen features learn that an image and its description are closer than an image and
another's description (symmetric cross-entropy over a batch). What shares a description is in one split, so
that neither images nor texts of the test were trained on.
"""

import argparse
import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from monkeylib import resources
from monkeylib.captions.experts import matching
from monkeylib.captions.experts.matching import MatchingHead
from monkeylib.training import matching_card, matching_features, matching_scores
from monkeylib.training.matching_features import Features

SPLITS = ("train", "val", "test")
_SHARES = (0.8, 0.1, 0.1)
_WHO = re.compile(r"\b(m[ae]n|wom[ae]n|persons?|people|boys?|girls?|with|and|holding)\b|[^\w ]")


@dataclass(frozen=True)
class Recipe:
    """How the heads are trained; `temperature` divides the cosines, `noise` is added to unit features."""

    width: int = 256
    epochs: int = 60
    batch: int = 256
    rate: float = 2e-3
    decay: float = 0.1
    dropout: float = 0.3
    temperature: float = 0.07
    seed: int = 0


def split_of(text: str) -> str:
    """The split of a description, the same for ever.

    Descriptions that differ only in who does something ("man juggling", "woman juggling") share theirs.
    """
    core = " ".join(_WHO.sub(" ", text).split()) or text
    place = int.from_bytes(hashlib.sha256(core.encode()).digest()[:4], "big") / 2**32
    return SPLITS[int(np.searchsorted(np.cumsum(_SHARES), place, side="right").clip(max=2))]


def rows_of(features: Features, split: str) -> list[int]:
    """The rows of a split."""
    return [row for row, text in enumerate(features.texts) if split_of(text) == split]


def contrast(
    images: torch.Tensor, texts: torch.Tensor, same: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Cross-entropy both ways, each row's mass shared by all that have its description.

    Args:
        images: unit vectors `[B, width]`.
        texts: unit vectors `[B, width]`.
        same: `[B, B]`, true where two rows have the same description.
        temperature: divides the cosines.
    """
    logits = images @ texts.T / temperature
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train(features: Features, recipe: Recipe) -> tuple[MatchingHead, list[dict[str, float]]]:
    """Heads trained on the split `train`, of the epoch that retrieves best on `val`, and calibrated there.

    Returns:
        The heads, and a row per epoch with its loss and the mean recall at 10 on `val`.
    """
    torch.manual_seed(recipe.seed)
    known, held = (features.chosen(rows_of(features, split)) for split in ("train", "val"))
    numbers = {text: number for number, text in enumerate(dict.fromkeys(known.texts))}
    texts = torch.tensor([numbers[text] for text in known.texts])
    head = MatchingHead(recipe.width, recipe.dropout)
    optimiser = torch.optim.AdamW(head.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    steps = recipe.epochs * -(-len(known) // recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best, state, curve = -1.0, head.state_dict(), []
    for epoch in range(recipe.epochs):
        head.train()
        losses = []
        for rows in torch.randperm(len(known)).split(recipe.batch):
            same = (texts[rows, None] == texts[None, rows]).float()
            images, words = head.images(known.views[rows]), head.texts(known.words[rows])
            loss = contrast(images, words, same, recipe.temperature)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        recall = matching_scores.mean_recall(head.eval(), held, 10)
        curve.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), "val recall at 10": recall})
        if recall > best:
            best = recall
            state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    head.load_state_dict(state)
    calibrate(head.eval(), held)
    return head, curve


@torch.no_grad()
def _pairs(head: MatchingHead, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines of all images with all texts `[N, N]`, and which of them have the same description."""
    closeness = head.images(features.views) @ head.texts(features.words).T
    numbers = {text: number for number, text in enumerate(features.texts)}
    texts = torch.tensor([numbers[text] for text in features.texts])
    return closeness, texts[:, None] == texts[None, :]


def calibrate(head: MatchingHead, features: Features) -> None:
    """Fit `gain` and `offset` so that probabilities are right where as many pairs belong as don't."""
    closeness, same = _pairs(head, features)
    weight = torch.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())
    gain, offset = torch.tensor(5.0, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    optimiser = torch.optim.LBFGS([gain, offset], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(
            gain * closeness + offset, same.float(), weight, reduction="sum"
        )
        loss.backward()
        return loss

    optimiser.step(closure)
    head.gain.copy_(gain.detach())
    head.offset.copy_(offset.detach())


def run(folder: Path, recipe: Recipe, features: Features | None = None) -> MatchingHead:
    """Train, score on the test split, and write the head, its scores and its card into a folder."""
    features = features or matching_features.collect()
    head, curve = train(features, recipe)
    counts: dict[str, Any] = {split: len(rows_of(features, split)) for split in SPLITS}
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in head.state_dict().values()))
    facts = {"version": digest.hexdigest()[:12], "recipe": asdict(recipe), "views": counts}
    matching.save(head, folder, facts)
    head, _ = matching.load_head(folder)  # as it is shipped: in half precision
    test = features.chosen(rows_of(features, "test"))
    matching_scores.write(matching_scores.table(head, test), folder / "retrieval.csv")
    matching_scores.write(curve, folder / "curve.csv")
    matching_card.write(folder)
    return head


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the head that the repository ships."""
    parser = argparse.ArgumentParser(description="Train the matching head.")
    parser.add_argument("--out", type=Path, default=resources.models() / matching.FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(chosen.out, Recipe(seed=chosen.seed))
    print(f"wrote {resources.shown(chosen.out)}")


if __name__ == "__main__":
    main()
