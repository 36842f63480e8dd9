"""Does a LLaVA that is raised learn small text as Monkey does? Claims, decided by the rule of the grid.

They were written down after the means of `raised_llava` had been read, so they stand beside the claims of the
grid (`verdicts.CLAIMS`), which they leave as they are. Each is decided as one of all, theirs and these.
`python -m monkeylib.experiments.raised_claims` writes the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from monkeylib import profiles, resources, tables
from monkeylib.experiments import raised_llava, verdicts
from monkeylib.experiments.cell import Cell
from monkeylib.experiments.claims import GridScores, Statement, claim_row
from monkeylib.experiments.verdicts import Claim
from monkeylib.profiles import Profile
from monkeylib.tables import Row

TABLE = "raised_claims"

_LLAVA, _WITHOUT_LORA = (raised_llava.VARIANTS[mode] for mode in ("per_tile", "none"))
_VIEWS, _LORA = 0.1, 0.05  # smallest effects of interest, as those of the grid

CLAIMS = (
    Claim(
        "as Monkey",
        "A LLaVA that is raised, and trained as Monkey is, reads small text as well as Monkey.",
        ("per_tile", "end"),
        (_LLAVA, "end"),
        _VIEWS,
        is_advantage=False,
    ),
    Claim(
        "learns as Monkey",
        "It learns as much about small text from these records as Monkey does.",
        ("per_tile", "gain"),
        (_LLAVA, "gain"),
        _VIEWS,
        is_advantage=False,
    ),
    Claim(
        "training",
        "Training adds to what a raised LLaVA reads without it.",
        (_LLAVA, "end"),
        (_LLAVA, "start"),
        _VIEWS,
    ),
    Claim(
        "LoRA",
        "In a raised LLaVA, a LoRA for each tile is better than none.",
        (_LLAVA, "end"),
        (_WITHOUT_LORA, "end"),
        _LORA,
    ),
)

_NONE = "No statement: Monkey is trained from Qwen-VL."
_EQUAL = "the same records in the same order, steps, rates and questions"

PAPER: Mapping[str, Statement] = {
    "as Monkey": Statement(_NONE, "none", _EQUAL),
    "learns as Monkey": Statement(_NONE, "none", _EQUAL),
    "training": Statement(_NONE, "none", "the untrained model has the base's weights, and LoRA that is zero"),
    "LoRA": Statement(
        "Scores rise from no LoRA to one, mainly on STVQA, and to four.",
        "ablation of resolution and LoRA",
        _EQUAL,
    ),
}


class RaisedScores(GridScores):
    """Scores by question of the raised LLaVA, and of the grid's cells on the same questions."""

    def seeds(self, variant: str, rendering: str) -> list[int]:
        """Return the seeds with which a variant has been trained to the end."""
        if variant not in raised_llava.VARIANTS.values():
            return super().seeds(variant, rendering)
        folder = raised_llava.scores_path(self.profile, Cell(variant, rendering, 0)).parent
        names = [path.stem for path in resources.published(folder).glob(f"{variant}-{rendering}-*.npz")]
        return sorted(int(name.rpartition("-")[2]) for name in names)

    def questions(self, cell: Cell, split: str) -> list[Row]:
        """Return the rows of the questions of a split that the LLaVA was asked, the first ones of a cell."""
        rows = tables.read_csv(resources.published(raised_llava.questions_path(self.profile)))
        return [row for row in rows if row["split"] == split]

    def _load(self, cell: Cell) -> dict[str, np.ndarray]:
        if cell.variant in raised_llava.VARIANTS.values():
            with np.load(resources.published(raised_llava.scores_path(self.profile, cell))) as arrays:
                return {name: arrays[name].astype(float) for name in arrays}

        arrays = super()._load(cell)
        return {name: values[: self._counts.get(name.split("_")[1])] for name, values in arrays.items()}

    @cached_property
    def _counts(self) -> dict[str, int]:
        """Number of questions of each split."""
        counts = self.profile.ablation.counts
        return {split: min(count, counts[split]) for split, count in raised_llava.QUESTIONS.items()}


def claims_table(profile: Profile, claims: Sequence[Claim] = CLAIMS) -> list[Row]:
    """Return a row for each claim, with the columns of `claims.claims_table`."""
    scores = RaisedScores(profile)
    num_claims = len(verdicts.CLAIMS) + len(CLAIMS)
    return [claim_row(scores, claim, PAPER[claim.name], num_claims) for claim in claims]


def write_claims(profile: Profile) -> Path:
    """Write the table of the claims into the profile's results."""
    return tables.write_table(claims_table(profile), TABLE, profile.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table from the published scores."""
    parser = argparse.ArgumentParser(description=write_claims.__doc__)
    parser.add_argument("--profile", default=resources.COMMITTED_PROFILE)
    print(resources.display_path(write_claims(profiles.load_profile(parser.parse_args(arguments).profile))))


if __name__ == "__main__":
    main()
