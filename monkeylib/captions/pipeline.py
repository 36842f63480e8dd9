"""Run experts over images, match, filter, compose; keep every result, so that a rerun does what is missing.

In the folder `out` lie, when a run has ended, `records.jsonl` with a record for each image in order, the
same as parquet in `shards/` with their checksums in `manifest.json`, what each model said in `findings/`, and
in `summary.json` what the last run took. An image that comes twice, or under another name, is looked at
once. Failures are recorded and not kept: the next run tries again.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from monkeylib import resources
from monkeylib.captions import filtering, shards
from monkeylib.captions.annotations import Record
from monkeylib.captions.composers import Composer
from monkeylib.captions.composers.rules import RuleComposer
from monkeylib.captions.engines import Engine, LocalEngine
from monkeylib.captions.experts.base import DependentExpert, Expert, ImageTextMatcher
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.record_files import read_records
from monkeylib.captions.shards import RECORDS
from monkeylib.captions.stages import ComposeStage, ExpertStage, MatchStage, Stage, StageStatistics, model_key
from monkeylib.progress import ProgressBars

__all__ = ["RECORDS", "Pipeline", "InputImage", "Summary", "caption_images"]


@dataclass(frozen=True)
class Summary:
    """What a run took: a tally per stage, and how many images and shards there were.

    Fields:
        records: images in `records.jsonl`; `failed` of them have failures.
        shards: of which `already` were there before.
        seconds: from the first checksum to the last file.
    """

    records: int
    failed: int
    shards: int
    already: int
    seconds: float
    stages: tuple[StageStatistics, ...]

    @property
    def cost(self) -> float:
        """What answers from paid services cost, in US dollars."""
        return sum(tally.cost for tally in self.stages)

    def rows(self) -> list[dict[str, str | int | float]]:
        """A row per stage, for a table."""
        return [
            {
                "stage": tally.stage,
                "asked": tally.asked,
                "kept from earlier": tally.kept,
                "failed": tally.failed,
                "seconds": round(tally.seconds, 1),
                "images/s": round(tally.asked / tally.seconds, 2) if tally.asked and tally.seconds else 0.0,
                "US$": round(tally.cost, 4),
            }
            for tally in self.stages
        ]


@dataclass(frozen=True)
class Pipeline:
    """Everything that is done with an image.

    Fields:
        experts: each looks at every image, once. A refiner's source runs before it, and is in the records
            if it is one of these too.
        matcher: judges the regions' texts; without one, the filter takes the experts' own confidence.
        composer: writes the descriptions; fixed rules if not given.
        filters: thresholds, and which overlap.
        batch_size: images that a model gets at once.
        time_limit: seconds that an expert or the matcher may take for a batch, or for an image that is asked
            alone because its batch failed; what takes longer is a failure. Each then runs in a process of
            its own. None for no limit.
    """

    experts: Sequence[Expert]
    matcher: ImageTextMatcher | None = None
    composer: Composer | None = None
    filters: filtering.Filter = filtering.Filter()
    batch_size: int = 8
    time_limit: float | None = None

    def __post_init__(self) -> None:
        if self.time_limit is not None and self.time_limit <= 0:
            raise ValueError(f"A time limit is more than 0 seconds, got {self.time_limit:g}.")

    def stages(self, root: Path) -> list[Stage]:
        """The stages in their order; what the models say is kept under `root`."""
        experts = _ordered(self.experts)
        shown = {model_key(expert) for expert in self.experts}
        sources = [model_key(e.upstream) if isinstance(e, DependentExpert) else "" for e in experts.values()]
        stages: list[Stage] = [
            ExpertStage(
                expert,
                root,
                self.batch_size,
                shown=key in shown,
                refined=key in sources,
                last=source not in sources[number + 1 :],
                time_limit=self.time_limit,
            )
            for number, ((key, expert), source) in enumerate(zip(experts.items(), sources, strict=True))
        ]
        if self.matcher:
            stages.append(MatchStage(self.matcher, root, self.batch_size, self.time_limit))
        composer = self.composer or RuleComposer()
        return [*stages, ComposeStage(composer, self.filters, root)]

    @contextmanager
    def _ending(self, stages: Sequence[Stage]) -> Iterator[None]:
        """End the processes of models with a time limit, whatever happens."""
        try:
            yield
        finally:
            for stage in stages if self.time_limit else ():
                stage.release()

    def describe(
        self,
        sources: Sequence[InputImage],
        out: Path | str,
        *,
        engine: Engine | None = None,
        shard_size: int = shards.SIZE,
        retry_failed: bool = True,
        progress: bool = True,
    ) -> Summary:
        """Describe images into the folder `out`, going on where an earlier run was cut off.

        Args:
            sources: the images.
            out: the folder; it may hold the results of other images and other settings too.
            engine: who runs the stages, by default this process.
            shard_size: images that are committed together.
            retry_failed: do shards again that have records with failures.
            progress: show bars on standard error.

        Raises:
            ValueError: no images, or a size or an engine's plan that can't be.
        """
        if not sources:
            raise ValueError("There is nothing to describe: got no images.")
        start, out = time.perf_counter(), Path(out).absolute()  # workers may be elsewhere
        sources = [source.absolute() for source in sources]
        folder, stages = out / "shards", self.stages(out / "findings")
        provenance = [item for stage in stages for item in stage.provenance]
        with ProgressBars(["checksums"], len(sources), progress) as bars:
            plan = shards.plan(sources, provenance, shard_size, lambda n: bars.advance("checksums", n, True))
        todo = [shard for shard in plan if not _settled(folder, shard, retry_failed)]
        totals = {stage.name: StageStatistics(stage.name) for stage in stages}
        with (
            ProgressBars(list(totals), sum(len(shard.sources) for shard in todo), progress) as bars,
            self._ending(stages),
        ):
            for tallies in (engine or LocalEngine()).run(todo, stages, folder, bars.advance):
                for tally in tallies:
                    totals[tally.stage] += tally
        manifest = json.loads((shards.gather(folder, plan, out).parent / shards.MANIFEST).read_bytes())
        summary = Summary(
            records=manifest["records"],
            failed=manifest["failed"],
            shards=len(plan),
            already=len(plan) - len(todo),
            seconds=time.perf_counter() - start,
            stages=tuple(totals.values()),
        )
        with resources.atomic_write(out / "summary.json") as temporary:
            temporary.write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")
        return summary


def _ordered(experts: Sequence[Expert]) -> dict[str, Expert]:
    """The experts and the sources of refiners, each once, sources before what refines them."""
    placed: dict[str, Expert] = {}
    for expert in experts:
        if isinstance(expert, DependentExpert):
            for key, source in _ordered([expert.upstream]).items():
                placed.setdefault(key, source)
        placed.setdefault(model_key(expert), expert)
    return placed


def _settled(folder: Path, shard: shards.Shard, retry_failed: bool) -> bool:
    entry = shards.committed(folder, shard)
    return entry is not None and not (retry_failed and entry["failed"])


def caption_images(
    images: Iterable[InputImage | Path | str],
    experts: Sequence[Expert],
    out: Path | str,
    *,
    matcher: ImageTextMatcher | None = None,
    composer: Composer | None = None,
    thresholds: filtering.Thresholds | None = filtering.DEFAULTS,
    batch_size: int = 8,
    progress: bool = True,
) -> list[Record]:
    """Describe images in this process and return their records, in their order; see `Pipeline`.

    An image that can't be read, and an expert that fails on an image, are recorded in `failures`;
    everything else goes on.

    Raises:
        ValueError: no images.
    """
    sources = [p if isinstance(p, InputImage) else InputImage(Path(p), Path(p).name) for p in images]
    work = Pipeline(experts, matcher, composer, filtering.Filter(thresholds), batch_size)
    work.describe(sources, out, progress=progress)
    return list(read_records(Path(out) / RECORDS))
