"""What the paper claims, and what the grid of experiments says of it.

The claims and the rule of their verdicts are in `verdicts`; here stands what the paper says of each, and how
the scores of the grid's cells become the rows of one table. Cells that have not been run are named as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from monkeylib import tables
from monkeylib.evaluation import statistics
from monkeylib.experiments import grid, verdicts
from monkeylib.experiments.cell import Cell
from monkeylib.experiments.variants import TITLES, VARIANTS
from monkeylib.experiments.verdicts import CLAIMS, Claim, Moment
from monkeylib.profiles import Profile
from monkeylib.tables import Row

TABLE = "claims"
BLIND = "synthetic_answers"  # the table of the baseline that sees no image

# Fewer seeds decide nothing: two leave open how far a third would have been from them.
MIN_SEEDS = 3

SPLITS = ("fine", "large", "general")
_MOMENTS = {
    "start": "untrained",
    "end": "trained",
    "permuted": "LoRAs permuted",
    "gain": "gain of training",
}


class Statement(NamedTuple):
    """What the paper says about a claim.

    Attributes:
        text: the statement, or that there is none.
        source: where it stands in the paper.
        checked: what was checked in case our measurement contradicts it.
    """

    text: str
    source: str
    checked: str = ""


# Of all questions: a height that only a few of them need says nothing.
_MIN_SHARE_OF_HEIGHT = 0.03

_RESOLUTION_TABLE = "ablation of resolution and LoRA"
_EQUAL_TRAINING = "both start from the same weights and see the same images in the same order"

PAPER: Mapping[str, Statement] = {
    "views alone": Statement(
        "No statement: tiles without training are not measured.",
        "none",
        "the untrained model has the base's weights, and LoRA that is zero",
    ),
    "tiles": Statement(
        "Scores rise with the input size, most on documents.",
        _RESOLUTION_TABLE,
        "one view is trained as long as the tiles are",
    ),
    "cutting": Statement(
        "No statement: tiles without training are not measured.",
        "none",
        "the untrained model has the base's weights, and LoRA that is zero",
    ),
    "training": Statement("No statement: tiles without training are not measured.", "none", _EQUAL_TRAINING),
    "interpolation": Statement(
        "Interpolating the ViT to 896 pixels is worse than tiles, with LoRA even more so.",
        _RESOLUTION_TABLE,
        "both have equally many visual tokens, trained LoRA and questions",
    ),
    "global view": Statement(
        "A global view adds 7.5 points on TextVQA, 6.2 on DocVQA and 0.6 on GQA.",
        "appendix on the global feature",
        _EQUAL_TRAINING,
    ),
    "visual tokens": Statement(
        "No statement: each view always has the 256 queries of Qwen-VL.",
        "none",
        "averages of neighbouring queries; more queries would need another base model",
    ),
    "pretrained queries": Statement(
        "No statement: the resampler starts from that of Qwen-VL.",
        "none",
        "queries alone start at random; the rest of the resampler is the base's",
    ),
    "richer captions": Statement(
        "In LLaVA-1.5's pre-training, descriptions of several levels improve GQA, TextVQA and MM-Vet.",
        "ablation on LLaVA-1.5",
        "the same images and steps; only the labels differ",
    ),
    "LoRA": Statement(
        "Scores rise from no LoRA to one, mainly on STVQA, and to four.",
        _RESOLUTION_TABLE,
        "trained LoRAs are not zero: their norms are in notebook 02",
    ),
    "per tile": Statement(
        "Four LoRAs are better than one.",
        _RESOLUTION_TABLE,
        "each tile meets its own LoRA, by the tests of the encoder",
    ),
    "equal parameters": Statement(
        "No statement about equal numbers of parameters.",
        "none",
        "the number of trained parameters is in the table of the grid",
    ),
    "fixed quadrants": Statement(
        "A LoRA for each tile lets the encoder adapt to the different parts of an image.",
        "section 3.1",
        "renderings that cost the untrained model something, see the data card",
    ),
    "dealt quadrants": Statement(
        "Follows from the same mechanism: there is nothing that depends on the tile.",
        "section 3.1",
        "the same renderings as in the fixed quadrants",
    ),
    "permuted tiles": Statement(
        "Follows from the same mechanism: a LoRA knows its own part of the image.",
        "section 3.1",
        "tile i meets the LoRA of tile i + 1, in the trained model",
    ),
    "permuted, ordinary": Statement(
        "Follows from the same mechanism: there is nothing that depends on the tile.",
        "section 3.1",
        "each A starts at random numbers of its own, and what reads the tiles adapts to each",
    ),
}


# --- scores by question -----------------------------------------------------------------------------------


class GridScores:
    """Scores by question of the cells in the published table, read once each."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.cells = sorted(grid.committed_fingerprints(profile), key=lambda cell: cell.seed)
        self._scores: dict[Cell, dict[str, np.ndarray]] = {}

    def seeds(self, variant: str, rendering: str) -> list[int]:
        """Return the seeds with which a variant has been run."""
        return [cell.seed for cell in self.cells if (cell.variant, cell.rendering) == (variant, rendering)]

    def read(self, cell: Cell, moment: Moment, split: str, metric: str) -> np.ndarray:
        """Return the scores of a cell, `[questions]`.

        Args:
            cell: a published cell.
            moment: "start", "end", "permuted", or "gain" for what training has added.
            split: "fine", "large", "general" or "caption".
            metric: "log_likelihood" or "exact".

        Raises:
            KeyError: the cell has no such scores.
        """
        if moment == "gain":
            return self.read(cell, "end", split, metric) - self.read(cell, "start", split, metric)
        if cell not in self._scores:
            self._scores[cell] = self._load(cell)
        return self._scores[cell][f"{moment}_{split}_{metric}"]

    def _load(self, cell: Cell) -> dict[str, np.ndarray]:
        return grid.read_final_scores(self.profile, cell)

    def read_seeds(
        self, of: tuple[str, Moment], rendering: str, seeds: Iterable[int], split: str, metric: str
    ) -> np.ndarray:
        """Return the scores of a variant at a moment, `[seeds, questions]`."""
        variant, moment = of
        return np.stack([self.read(Cell(variant, rendering, seed), moment, split, metric) for seed in seeds])

    def questions(self, cell: Cell, split: str) -> list[Row]:
        """Return the rows of a cell's questions of a split."""
        return [row for row in grid.read_questions(self.profile, cell) if row["split"] == split]

    def images(self, cell: Cell, split: str) -> list[str]:
        """Return the image of each question."""
        return [str(row["image"]) for row in self.questions(cell, split)]


# --- claims -----------------------------------------------------------------------------------------------


def claims_table(profile: Profile, claims: Sequence[Claim] = CLAIMS) -> list[Row]:
    """Return a row for each claim: the paper's statement, our measurement and the verdict.

    Columns: `claim`, `statement`, `paper` and its `source`; what is `compared`, in which `rendering` and
    `split`; the `difference` in nats per character with its interval (`low`, `high`) and `confidence`, the
    `smallest_effect` of interest and the `detectable_effect`; exact match as a share of the better and the
    worse (`exact_better`, `exact_worse`), of the better one `untrained`, and of the `blind` baseline, which
    sees no image; `seeds`, questions `n`, the `verdict` and its `reason`; and for readers `measured` and
    `exact_match`.
    """
    scores = GridScores(profile)
    return [claim_row(scores, claim, PAPER[claim.name], len(claims)) for claim in claims]


def claim_row(scores: GridScores, claim: Claim, paper: Statement, num_claims: int) -> Row:
    """Return the row of a claim, see `claims_table`.

    Args:
        scores: by question.
        claim: the claim.
        paper: what the paper says of it.
        num_claims: number of claims that are decided together.
    """
    row: dict[str, tables.Value] = {
        "claim": claim.name,
        "statement": claim.statement,
        "paper": paper.text,
        "source": paper.source,
        "compared": f"{_describe(claim.better)} - {_describe(claim.worse)}",
        "rendering": claim.rendering,
        "split": claim.split,
    }

    seeds = _common_seeds(scores, claim)
    if not seeds:
        return (
            row
            | dict.fromkeys(_MEASURED_COLUMNS)
            | {
                "blind": blind_share(scores.profile, claim.split),
                "smallest_effect": claim.smallest_effect,
                "seeds": 0,
                "verdict": f"not run yet: {', '.join(_missing_variants(scores, claim))}",
                "checked": paper.checked,
            }
        )

    better, worse = (
        scores.read_seeds(of, claim.rendering, seeds, claim.split, "log_likelihood")
        for of in (claim.better, claim.worse)
    )
    images = scores.images(Cell(claim.better[0], claim.rendering, seeds[0]), claim.split)
    verdict = verdicts.decide(claim, better, worse, clusters=images, num_claims=num_claims)
    row |= {column: value for column, value in verdict.row.items() if column in _MEASURED_COLUMNS}

    exact = {
        name: float(scores.read_seeds(of, claim.rendering, seeds, claim.split, "exact").mean())
        for name, of in {
            "exact_better": claim.better,
            "exact_worse": claim.worse,
            "untrained": (claim.better[0], "start"),
        }.items()
    }
    exact["blind"] = blind_share(scores.profile, claim.split)

    outcome = verdict.outcome if len(seeds) >= MIN_SEEDS else f"undecided: {len(seeds)} of {MIN_SEEDS} seeds"
    return (
        row
        | exact
        | {
            "verdict": outcome,
            "reason": verdict.reason,
            "measured": describe_interval(verdict.interval),
            "exact_match": _describe_exact(exact),
            "checked": paper.checked,
        }
    )


_MEASURED_COLUMNS = (
    "difference",
    "low",
    "high",
    "confidence",
    "smallest_effect",
    "detectable_effect",
    "exact_better",
    "exact_worse",
    "untrained",
    "blind",
    "seeds",
    "n",
    "verdict",
    "reason",
    "measured",
    "exact_match",
    "checked",
)


def _common_seeds(scores: GridScores, claim: Claim) -> list[int]:
    """Return the seeds with which both variants of a claim have been run."""
    first, second = (scores.seeds(variant, claim.rendering) for variant, _ in (claim.better, claim.worse))
    return [seed for seed in first if seed in second]


def _missing_variants(scores: GridScores, claim: Claim) -> list[str]:
    variants = dict.fromkeys(variant for variant, _ in (claim.better, claim.worse))
    return [variant for variant in variants if not scores.seeds(variant, claim.rendering)]


def _describe(of: tuple[str, Moment]) -> str:
    variant, moment = of
    return f"{variant}, {_MOMENTS[moment]}"


def describe_interval(interval: statistics.Interval) -> str:
    """Return a difference with its interval for readers, as in "+0.12 (+0.05 to +0.20)"."""
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _describe_exact(shares: Mapping[str, float | None]) -> str:
    """Return exact match in percent, as in "60.0 against 42.7; untrained 30.0; blind 0.2"."""
    percent = {name: 100 * share for name, share in shares.items() if share is not None}
    text = f"{percent['exact_better']:.1f} against {percent['exact_worse']:.1f}"
    text += f"; untrained {percent['untrained']:.1f}"
    return text + (f"; blind {percent['blind']:.1f}" if "blind" in percent else "")


def blind_share(profile: Profile, split: str) -> float | None:
    """Return the exact match of the baseline that sees no image; None if the profile's results lack it."""
    if not tables.table_path(BLIND, profile.name).exists():
        return None
    for row in tables.read_table(BLIND, profile.name):
        if (row["test_set"], row["kind"]) == (split, "all"):
            return float(row["blind"] or 0)
    return None


def write_claims(profile: Profile) -> Path:
    """Write the table of the claims into the profile's results."""
    return tables.write_table(claims_table(profile), TABLE, profile.name)


# --- what is undecided, and why -----------------------------------------------------------------------------


def undecided_claims(profile: Profile, claims: Sequence[Row]) -> list[Row]:
    """Return a row for each claim that is neither supported nor not supported.

    Args:
        profile: the profile whose results they are.
        claims: rows of `claims_table`, or of the file that `write_claims` has written.

    Returns:
        Rows with `claim`, `why`, and of the two variants that it compares the finished `runs` of those that
        are `planned`.
    """
    scores = GridScores(profile)
    by_name = {claim.name: claim for claim in CLAIMS}
    rows: list[Row] = []
    for row in claims:
        if row["verdict"] in ("supported", "not supported"):
            continue
        claim = by_name[str(row["claim"])]
        seeds = int(row["seeds"] or 0)
        if seeds == 0:
            why = "a variant has not been trained"
        elif seeds < MIN_SEEDS:
            why = f"fewer than {MIN_SEEDS} seeds say too little about others"
        else:
            # A sentence of the table, here a part of one.
            reason = str(row["reason"]).rstrip(".")
            why = reason[:1].lower() + reason[1:]

        variants = list(dict.fromkeys(variant for variant, _ in (claim.better, claim.worse)))
        planned = {name: range(VARIANTS[name].seeds) for name in variants}
        runs = [len(set(scores.seeds(name, claim.rendering)) & set(planned[name])) for name in variants]
        rows.append(
            {"claim": claim.name, "why": why, "runs": sum(runs), "planned": sum(map(len, planned.values()))}
        )
    return rows


def error_over_images(profile: Profile, name: str) -> tuple[float, int]:
    """Return the standard error of a claim's mean difference over images, and the number of images.

    Raises:
        KeyError: there is no such claim.
        ValueError: its variants have no seed in common.
    """
    claim = {claim.name: claim for claim in CLAIMS}[name]
    scores = GridScores(profile)
    seeds = _common_seeds(scores, claim)
    if not seeds:
        raise ValueError(f"the claim {name!r} has no runs yet: {', '.join(_missing_variants(scores, claim))}")
    better, worse = (
        scores.read_seeds(of, claim.rendering, seeds, claim.split, "log_likelihood")
        for of in (claim.better, claim.worse)
    )
    images = scores.images(Cell(claim.better[0], claim.rendering, seeds[0]), claim.split)
    sums, sizes = statistics.sum_over_clusters((better - worse).mean(axis=0)[None], images)
    residuals = (sums[0] - sums.sum() / sizes.sum() * sizes) / sizes.mean()
    return float(residuals.std(ddof=1) / np.sqrt(len(sizes))), len(sizes)


# --- what figures and notebooks show ----------------------------------------------------------------------


def differences_to(
    profile: Profile,
    reference: str = "per_tile",
    renderings: Sequence[str] = ("ordinary",),
    splits: Sequence[str] = SPLITS,
) -> list[Row]:
    """Return the paired differences of every variant to one of them, in log-likelihood after the last step.

    Variants that are asked about images of another size than the reference are left out: there are no pairs.

    Returns:
        Rows with `variant`, `rendering`, `split`, `difference` (variant minus reference, in nats per
        character), its 95 % interval from `low` to `high`, `seeds` and questions `n`. The interval is over
        new seeds and images; with fewer than `MIN_SEEDS` seeds, over images alone.
    """
    scores = GridScores(profile)
    rows: list[Row] = []
    for variant in VARIANTS:
        for rendering in renderings:
            if variant == reference or not _has_same_questions(profile, variant, reference, rendering):
                continue
            of_reference = scores.seeds(reference, rendering)
            seeds = [seed for seed in scores.seeds(variant, rendering) if seed in of_reference]
            for split in splits if seeds else ():
                row: Row = {"variant": variant, "rendering": rendering, "split": split}
                rows.append({**row, **_difference(scores, variant, reference, rendering, seeds, split)})
    return rows


def comparable_variants(profile: Profile, reference: str = "per_tile") -> dict[str, str]:
    """Return name and title of the variants that are asked the same questions as one of them."""
    return {
        name: title
        for name, title in TITLES.items()
        if name != reference and _has_same_questions(profile, name, reference, "ordinary")
    }


def _has_same_questions(profile: Profile, variant: str, reference: str, rendering: str) -> bool:
    first, second = (grid.questions_path(profile, Cell(name, rendering, 0)) for name in (variant, reference))
    return first == second


def _difference(
    scores: GridScores, variant: str, reference: str, rendering: str, seeds: Sequence[int], split: str
) -> Row:
    better, worse = (
        scores.read_seeds((name, "end"), rendering, seeds, split, "log_likelihood")
        for name in (variant, reference)
    )
    images = scores.images(Cell(variant, rendering, seeds[0]), split)
    if len(seeds) >= MIN_SEEDS:
        interval = statistics.crossed_interval(better - worse, clusters=images)
    else:
        mean = (better - worse).mean(axis=0)
        interval = statistics.difference_interval(mean, clusters=images, is_share=False)
    return {
        "difference": interval.value,
        "low": interval.low,
        "high": interval.high,
        "seeds": len(seeds),
        "n": interval.n,
    }


def scores_by_height(profile: Profile, splits: Sequence[str] = ("fine", "large")) -> list[Row]:
    """Return exact match by the height in whole pixels of the text that the answer needs.

    Heights that fewer than 3 % of the questions have are left out.

    Returns:
        Rows with `variant`, `moment` ("start" or "end"), `height`, `value` (a share, the mean over seeds),
        questions `n` and `seeds`, in the ordinary rendering.
    """
    scores = GridScores(profile)
    moments: tuple[Literal["start", "end"], ...] = ("start", "end")

    rows: list[Row] = []
    for variant in VARIANTS:
        seeds = scores.seeds(variant, "ordinary")
        if not seeds:
            continue
        cell = Cell(variant, "ordinary", seeds[0])
        questions = [row for split in splits for row in scores.questions(cell, split)]
        heights = np.array([round(float(row["height"] or 0)) for row in questions])
        for moment in moments:
            values = np.concatenate(
                [
                    scores.read_seeds((variant, moment), "ordinary", seeds, split, "exact").mean(axis=0)
                    for split in splits
                ]
            )
            for height in np.unique(heights):
                chosen = values[heights == height]
                if len(chosen) < _MIN_SHARE_OF_HEIGHT * len(values):
                    continue
                row: Row = {"variant": variant, "moment": moment, "height": int(height)}
                rows.append({**row, "value": float(chosen.mean()), "n": len(chosen), "seeds": len(seeds)})
    return rows


def scores_table(
    profile: Profile,
    rendering: str = "ordinary",
    variants: Iterable[str] = VARIANTS,
    splits: Sequence[str] = SPLITS,
) -> list[Row]:
    """Return a row for each variant that has been run: exact match before and after training, in percent, on
    each of `splits`.

    The first row is the baseline that sees no image.
    """
    scores = GridScores(profile)
    blind = {split: blind_share(profile, split) for split in splits}
    rows: list[Row] = []
    if any(share is not None for share in blind.values()):
        shares = {split: f"{100 * share:.1f}" for split, share in blind.items() if share is not None}
        rows.append({"variant": "blind baseline, sees no image", "seeds": "-", **shares})

    for variant in variants:
        seeds = scores.seeds(variant, rendering)
        if seeds:
            row: dict[str, tables.Value] = {"variant": TITLES[variant], "seeds": str(len(seeds))}
            for split in splits:
                start, end = (
                    100 * scores.read_seeds((variant, moment), rendering, seeds, split, "exact").mean()
                    for moment in ("start", "end")
                )
                row[split] = f"{start:.1f} → {end:.1f}"
            rows.append(row)
    return rows


def references(profile: Profile) -> list[Row]:
    """Return what scores of trained models are held against: exact match in percent on each split.

    A row of the baseline that sees no image, and one of Monkey before its first step, which has tiles and the
    weights of its base. One that the profile's results lack is left out.
    """
    rows: list[Row] = []
    blind = {split: blind_share(profile, split) for split in SPLITS}
    if all(share is not None for share in blind.values()):
        shares = {split: f"{100 * (share or 0):.1f}" for split, share in blind.items()}
        rows.append({"model": "no image", **shares})

    scores = GridScores(profile)
    if seeds := scores.seeds("per_tile", "ordinary"):
        means = {
            split: 100 * scores.read_seeds(("per_tile", "start"), "ordinary", seeds, split, "exact").mean()
            for split in SPLITS
        }
        rows.append({"model": "untrained", **{split: f"{mean:.1f}" for split, mean in means.items()}})
    return rows


def missing_cells(profile: Profile) -> list[Row]:
    """Return a row for each variant and rendering of which runs are missing, with the runs there are."""
    scores = GridScores(profile)
    rows: list[Row] = []
    for name, variant in VARIANTS.items():
        for rendering in variant.renderings:
            run = len(set(scores.seeds(name, rendering)) & set(range(variant.seeds)))
            if run < variant.seeds:
                row: Row = {"variant": variant.title, "rendering": rendering}
                rows.append({**row, "runs": run, "planned": variant.seeds})
    return rows
