"""Statistics of a run of the caption pipeline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from monkeylib.captions.stages import Stage, StageStatistics


@dataclass(frozen=True)
class Summary:
    """Statistics of a run.

    Fields:
        records: images in `records.jsonl`.
        described: images with a caption on which every stage succeeded.
        undescribed: images on which every stage succeeded, but about which there is nothing to say.
        failed: images with failures.
        pending: those of them that the next run tries again.
        shards: number of shards.
        already: shards that an earlier run had committed.
        seconds: from the first checksum to the last file.
        stages: statistics of each stage.
    """

    records: int
    described: int
    undescribed: int
    failed: int
    pending: int
    shards: int
    already: int
    seconds: float
    stages: tuple[StageStatistics, ...]

    @property
    def cost(self) -> float:
        """US dollars that paid services cost."""
        return sum(stage.cost for stage in self.stages)

    def sentence(self) -> str:
        """Return how many images were described, how many were not, and how many failed."""
        text = f"{self.described} described, {self.undescribed} without a description, {self.failed} failed"
        if self.pending:
            text += f", of which {self.pending} are tried again by the next run"
        return f"{self.records} image{'' if self.records == 1 else 's'}: {text}."

    def rows(self) -> list[dict[str, str | int | float]]:
        """Return a row per stage, for a table."""
        rows: list[dict[str, str | int | float]] = []
        for stage in self.stages:
            speed = stage.computed / stage.seconds if stage.seconds else 0.0
            rows.append(
                {
                    "stage": stage.stage,
                    "computed": stage.computed,
                    "cached": stage.cached,
                    "failed": stage.failed,
                    "seconds": round(stage.seconds, 1),
                    "images/s": round(speed, 2),
                    "US$": round(stage.cost, 4),
                }
            )

        return rows


def add_up(stages: Sequence[Stage], runs: Iterable[Sequence[StageStatistics]]) -> tuple[StageStatistics, ...]:
    """Return the statistics of each stage over all shards, as an engine yields them."""
    totals = {stage.name: StageStatistics(stage.name) for stage in stages}
    for statistics in runs:
        for stage in statistics:
            totals[stage.stage] += stage
    return tuple(totals.values())
