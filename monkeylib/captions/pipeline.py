"""The caption pipeline: experts annotate images, a filter drops annotations, a composer writes the caption.

The output folder of a run holds

* `records.jsonl`, a record for each image in order,
* `shards/`, the same as parquet, each image once, listed with their checksums in `manifest.json`,
* `annotations/`, the cached results of each model,
* `summary.json`, statistics of the last run that had something to do,
* `spending.json`, what a chat model with a budget cost in all runs, `spending-NAME.json`, what others cost,
* `report.html`, the first images with their annotations, where it was asked for,
* `run.json`, which lists all of these: the folder belongs to one run at a time (see `runs.RunFolder`).

Images are listed, planned and run as a stream: memory doesn't grow with their number. They are listed more
than once, and digests of files that have not changed are remembered (`digests.FileDigests`).

A run goes on with the same settings and all of its images; more of them may come. Every result is cached, so
a rerun computes only what is missing. An image that comes twice, or under another name, is processed once.
Failures are recorded but not cached. Settled ones (`captions.failures`) stay as they are; the next run tries
the others again.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monkeylib import resources, runs, signals
from monkeylib.captions import filtering
from monkeylib.captions.annotations import SCHEMA_VERSION, Record
from monkeylib.captions.cached_model import MAXIMUM_FAILURES
from monkeylib.captions.composers import Composer
from monkeylib.captions.composers.budget import SPENDING_LOCK
from monkeylib.captions.composers.rules import RuleComposer
from monkeylib.captions.engines import Engine, LocalEngine
from monkeylib.captions.input_images import ImageListing, InputImage
from monkeylib.captions.models import DependentExpert, Expert, ImageTextMatcher
from monkeylib.captions.plan import Plan, require_earlier_images
from monkeylib.captions.record_files import (
    OUTCOMES,
    RECORDS,
    SHARD_LIST,
    SHARD_SIZE,
    ShardKey,
    gather_shards,
    read_damaged,
    read_entry,
    read_records,
    remove_other_shards,
)
from monkeylib.captions.result_store import INDEX, RESULTS
from monkeylib.captions.stages import (
    ComposeStage,
    ExpertStage,
    MatchStage,
    Stage,
)
from monkeylib.captions.summary import Summary, add_up
from monkeylib.progress import Progress
from monkeylib.runs import RunFolder

__all__ = ["RECORDS", "InputImage", "Pipeline", "caption_images"]

ANNOTATIONS, SHARDS, SUMMARY, REPORT = "annotations", "shards", "summary.json", "report.html"
SPENDING = "spending.json"
_OTHER_SPENDING = "spending-*.json"
_ESTIMATE_RECORDS = 1000  # records whose prompts an estimate takes as examples

# Results of models, see `result_store`, and notes about crashes, see `cached_model`.
ANNOTATION_FILES = (
    f"{ANNOTATIONS}/*/*/<hex>{RESULTS}",
    f"{ANNOTATIONS}/*/*/<hex>{INDEX}",
    f"{ANNOTATIONS}/*/*/died/<hex>.<hex>",
    f"{ANNOTATIONS}/*/*/died/<hex>.batch",
    f"{ANNOTATIONS}/*/*/working/<hex>.json",
)


def caption_images(
    images: Iterable[InputImage | Path | str],
    experts: Sequence[Expert],
    out: Path | str,
    *,
    matcher: ImageTextMatcher | None = None,
    composer: Composer | None = None,
    thresholds: filtering.Thresholds | None = filtering.DEFAULTS,
    batch_size: int = 8,
    fresh: bool = False,
    progress: bool = True,
) -> list[Record]:
    """Caption images in this process and return their records, in their order; see `Pipeline`.

    An image that cannot be read, and an expert that fails on an image, are recorded in `Record.failures`, and
    the run continues.

    Raises:
        ValueError: there are no images.
        RunDiffers: the folder holds captions of other images or settings, and the run isn't `fresh`.
    """
    inputs = []
    for image in images:
        inputs.append(image if isinstance(image, InputImage) else InputImage(Path(image), Path(image).name))

    pipeline = Pipeline(
        experts,
        matcher=matcher,
        composer=composer,
        filters=filtering.Filter(thresholds),
        batch_size=batch_size,
    )
    pipeline.run(inputs, out, fresh=fresh, progress=progress)
    return list(read_records(_absolute(out) / RECORDS))


@dataclass(frozen=True)
class Pipeline:
    """Experts, matcher, filter and composer that process every image.

    Fields:
        experts: each annotates every image. The upstream expert of a dependent one runs before it; its
            own annotations are in the records only if it is one of the experts too.
        matcher: scores the texts of regions; without one, the filter takes the experts' own confidence.
        composer: writes the detailed captions; fixed rules if not given.
        filters: thresholds and overlap of the filter.
        batch_size: number of images that a model gets at once.
        time_limit: seconds that an expert or the matcher may take for a batch, or for an image that is run
            alone because its batch failed; a timeout is a failure. Each model then runs in a
            separate process. None for no limit.
        max_failures: failures after which a stage that hardly ever succeeds ends the run; 0 for no limit.
    """

    experts: Sequence[Expert]
    matcher: ImageTextMatcher | None = None
    composer: Composer | None = None
    filters: filtering.Filter = filtering.Filter()
    batch_size: int = 8
    time_limit: float | None = None
    max_failures: int = MAXIMUM_FAILURES

    def __post_init__(self) -> None:
        if self.time_limit is not None and self.time_limit <= 0:
            raise ValueError(f"A time limit is more than 0 seconds, got {self.time_limit:g}.")

    def run(
        self,
        images: Sequence[InputImage] | ImageListing,
        out: Path | str,
        *,
        engine: Engine | None = None,
        shard_size: int = SHARD_SIZE,
        retry_failed: bool = False,
        report: int = 0,
        fresh: bool = False,
        progress: bool = True,
    ) -> Summary:
        """Caption images into the folder `out`, resuming an interrupted run.

        The whole job is checked before the first image is read: the folder, the models' weights, the
        endpoint and its key.

        Args:
            images: the images.
            out: the folder. It is new, empty, or of an earlier run with the same settings, whose images are
                all among these.
            engine: runs the stages; by default this process does.
            shard_size: images that are committed together.
            retry_failed: run shards again whose records have settled failures.
            report: number of images in report.html; 0 writes none.
            fresh: replace the records of an earlier run, whatever its images and settings. The cached results
                of its models stay.
            progress: report progress on standard error.

        Raises:
            ValueError: there are no images, the shard size is below 1, the engine's plan is impossible, or
                something is missing that a model needs.
            FileExistsError: the folder holds files that no such run wrote.
            BlockingIOError: another run uses the folder.
            RunDiffers: the folder holds captions by other models or settings, or of images that are missing
                now or have changed.
            StageFailed: a stage failed on nearly every image.
        """
        if not images:
            raise ValueError("There is nothing to caption: got no images.")

        # Workers may run in other folders.
        out = _absolute(out)
        if not isinstance(images, ImageListing):
            images = [image.absolute() for image in images]
        stages = self.stages(out / ANNOTATIONS)
        _open_accounts(stages, out)

        engine = engine or LocalEngine()
        start = time.perf_counter()
        settings = _settings(stages, shard_size)
        # Before the images are read, which may take long. A finished run needs no key, for example.
        inputs = _input_paths(images)
        if self._open(out, settings, inputs, fresh, lock=False).state != "finished":
            _check_models(stages)

        with (
            signals.say_when_interrupted(signals.GOES_ON),
            self._releasing(stages),
            Progress("images", enabled=progress) as bars,
        ):
            bars.add_task("checksums", len(images))
            provenance = [item for stage in stages for item in stage.provenance]
            plan = Plan.make(images, provenance, shard_size, partial(bars.advance, "checksums"))
            settings["images"] = {"count": len(images), "digest": plan.images_digest}

            with self._open(out, settings, inputs, fresh) as folder:
                if "images.digest" in folder.changes:
                    require_earlier_images(plan, out / SHARDS, out)
                bars.print(_describe(len(images), stages, engine, shard_size, out))
                for remark in folder.remarks:
                    bars.print(f"monkeylib: {resources.display_path(out)}: {remark}")
                return self._run(folder, plan, stages, engine, retry_failed, report, bars, progress, start)

    def estimate(
        self, images: Sequence[InputImage] | ImageListing, out: Path | str, *, shard_size: int = SHARD_SIZE
    ) -> list[str]:
        """Check a run as far as it can be without its images, and return what it will take, in sentences.

        Nothing is written, and no request is billed; missing weights are fetched. Times are those of the last
        run into this folder, so a run over a few images makes an estimate for all.

        Args:
            images: all images.
            out: the folder of the run.
            shard_size: images that are committed together.

        Raises: as `run`.
        """
        if not images:
            raise ValueError("There is nothing to caption: got no images.")
        out = _absolute(out)
        stages = self.stages(out / ANNOTATIONS)
        _open_accounts(stages, out)

        self._open(out, _settings(stages, shard_size), (), fresh=False, lock=False)
        _check_models(stages)

        sentences = [f"{len(images)} images with {', '.join(stage.name for stage in stages)}: all checked."]
        if (out / SUMMARY).exists():
            for stage in json.loads((out / SUMMARY).read_text(encoding="utf-8"))["stages"]:
                if stage["computed"]:
                    each = stage["seconds"] / stage["computed"]
                    sentences.append(
                        f"{stage['stage']}: {each:.3g} s an image in the last run, "
                        f"{each * len(images) / 3600:.3g} hours for all."
                    )

        records: list[Record] = []
        if (out / RECORDS).exists():
            read = islice(read_records(out / RECORDS), _ESTIMATE_RECORDS)
            records = [record for record in read if record.sha256]
        for stage in stages:
            if cost := stage.model.estimate(len(images), records):
                sentences.append(f"{stage.name}: {cost}")
        return sentences

    def _open(
        self,
        out: Path,
        settings: Mapping[str, Any],
        inputs: Sequence[Path],
        fresh: bool,
        lock: bool = True,
    ) -> RunFolder:
        """Open the output folder; without a lock, only compare it.

        Raises: as `RunFolder.open`.
        """
        if not (out / runs.MANIFEST).exists() and (out / SHARD_LIST).exists() and (out / SHARDS).is_dir():
            raise FileExistsError(
                f"{resources.display_path(out)} holds captions of an earlier version of monkeylib, which did "
                "not list its files: move it away, or name a new folder"
            )

        # Images may be added, and how they are divided makes no difference to their records.
        return RunFolder.open(
            out,
            "captions",
            settings,
            may_change=("images", "shard_size"),
            inputs=inputs,
            keep=(*ANNOTATION_FILES, SPENDING, _OTHER_SPENDING, SPENDING_LOCK),
            fresh=fresh,
            lock=lock,
        )

    def _run(
        self,
        folder: RunFolder,
        plan: Plan,
        stages: Sequence[Stage],
        engine: Engine,
        retry_failed: bool,
        report: int,
        bars: Progress,
        progress: bool,
        start: float,
    ) -> Summary:
        """Caption images into a locked folder."""
        out, shard_folder = folder.path, folder.path / SHARDS

        # Shards that an earlier run has committed are left alone; with `fresh`, they go.
        missing = list(plan.keys)
        if folder.state != "new":
            damaged = read_damaged(shard_folder, plan.keys, out)
            missing = [
                key
                for key in plan.keys
                if key.name in damaged or not _is_finished(shard_folder, key, retry_failed)
            ]
        if missing and folder.state == "finished":
            _check_models(stages)

        image_count = sum(key.count for key in missing)
        self._start(folder)
        for stage in stages:
            bars.add_task(stage.name, image_count)

        # Engines are generators: the shards run while their statistics are added up.
        shards = plan.shards({key.name for key in missing}) if missing else iter(())
        finished = engine.run(shards, stages, shard_folder, bars.advance if progress else None)
        statistics = add_up(stages, finished)

        manifest = gather_shards(shard_folder, plan.keys, out)
        remove_other_shards(shard_folder, {key.name for key in plan.keys})
        summary = Summary(
            **{name: manifest[name] for name in OUTCOMES},
            shards=len(plan.keys),
            already=len(plan.keys) - len(missing),
            seconds=time.perf_counter() - start,
            stages=statistics,
        )

        # A run without anything to do keeps the statistics of the one before.
        if missing or not (out / SUMMARY).exists():
            with resources.atomic_write(out / SUMMARY) as temporary:
                temporary.write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")

        if report and (missing or not (out / REPORT).exists()):
            _write_report(out, plan.images, report, summary)
        if not summary.pending:
            folder.finish()
        return summary

    def _start(self, folder: RunFolder) -> None:
        """Begin to write into the folder, and remove what a killed run left half-written."""
        folder.start()

        for name in (RECORDS, SHARD_LIST, SUMMARY, REPORT, SPENDING, _OTHER_SPENDING, SPENDING_LOCK):
            folder.own(name)
        folder.own(f"{SHARDS}/*-<hex>.parquet")
        folder.own_all(ANNOTATION_FILES)

    def stages(self, root: Path) -> list[Stage]:
        """Return the stages in order; results of models are cached under `root`."""
        expert_stages: dict[str, ExpertStage] = {}
        for expert in self.experts:
            # An upstream expert has annotations in the records only if it was selected itself.
            self._add_expert(expert, root, expert_stages).in_records = True

        # An upstream output is carried along until the last expert that depends on it.
        last_dependents: dict[str, ExpertStage] = {}
        for stage in expert_stages.values():
            if stage.upstream_key:
                expert_stages[stage.upstream_key].has_dependents = True
                last_dependents[stage.upstream_key] = stage

        for stage in last_dependents.values():
            stage.last_dependent = True

        # Match after all experts, and compose last.
        stages: list[Stage] = [*expert_stages.values()]
        if self.matcher:
            stages.append(MatchStage(self.matcher, root, self.batch_size, self.time_limit, self.max_failures))
        filters = self.filters.for_experts(self.experts)
        stages.append(ComposeStage(self.composer or RuleComposer(), filters, root, self.max_failures))
        return stages

    def _add_expert(self, expert: Expert, root: Path, stages: dict[str, ExpertStage]) -> ExpertStage:
        """Return the stage of an expert; add it after that of its upstream expert if it is missing."""
        upstream = None
        if isinstance(expert, DependentExpert):
            upstream = self._add_expert(expert.upstream, root, stages)

        stage = ExpertStage(expert, root, self.batch_size, self.time_limit, self.max_failures, upstream)
        return stages.setdefault(stage.key, stage)

    @contextmanager
    def _releasing(self, stages: Sequence[Stage]) -> Iterator[None]:
        """When the block ends, close the results and end the processes of models with a time limit."""
        try:
            yield
        finally:
            for stage in stages:
                stage.cached_model.close()
                if self.time_limit:
                    stage.release()


def _settings(stages: Sequence[Stage], shard_size: int) -> dict[str, Any]:
    """Return what decides about the records beside the images."""
    models: dict[str, Any] = {}
    for item in (item for stage in stages for item in stage.provenance):
        fields = item.model_dump(mode="json", exclude={"expert"})
        fields = {name: value for name, value in fields.items() if value}
        # Two of one name are told apart by their numbers.
        names = chain([item.expert], (f"{item.expert} {number}" for number in count(2)))
        models[next(name for name in names if name not in models)] = fields

    return {"models": models, "schema_version": SCHEMA_VERSION, "shard_size": shard_size}


def _open_accounts(stages: Sequence[Stage], out: Path) -> None:
    """Tell the models that are billed where to note what they spend: the composer, and others by name."""
    for stage in stages:
        if stage.model.is_paid:
            name = quote(stage.model.name, safe="")
            stage.model.account = out / (
                SPENDING if isinstance(stage.model, Composer) else _OTHER_SPENDING.replace("*", name)
            )


def _input_paths(images: Sequence[InputImage] | ImageListing) -> list[Path]:
    """Return the files and folders that images come from."""
    if isinstance(images, ImageListing):
        return images.paths
    return sorted({image.image.parent for image in images if isinstance(image.image, Path)})


def _describe(image_count: int, stages: Sequence[Stage], engine: Engine, shard_size: int, out: Path) -> str:
    """Return a line about the device, the models, the images and the folder of a run."""
    device = "CPU"
    # Models that compute with torch have imported it by now.
    torch = sys.modules.get("torch")
    if not isinstance(engine, LocalEngine):
        device = "other processes"
    elif torch is not None and torch.cuda.is_available():
        device = torch.cuda.get_device_name()

    names = ", ".join(stage.name for stage in stages)
    return (
        f"caption on {device}: {image_count} images with {names}, in shards of {shard_size}, into "
        f"{resources.display_path(out)}"
    )


def _check_models(stages: Sequence[Stage]) -> None:
    """Check that each stage has what it needs, before the first image is read.

    Raises:
        ValueError: the first that has not, with the name of its stage.
    """
    for stage in stages:
        try:
            stage.model.check()
        except ModuleNotFoundError:
            raise
        except Exception as error:  # models raise whatever they like
            raise ValueError(f"The stage {stage.name} cannot run, so nothing was begun: {error}") from error


def _absolute(out: Path | str) -> Path:
    """Return an output folder's absolute path, with the home folder in place of `~`."""
    return resources.to_path(out).absolute()


def _is_finished(folder: Path, key: ShardKey, retry_failed: bool) -> bool:
    entry = read_entry(folder, key)
    if entry is None or entry["pending"]:
        return False
    # A shard with failures is run again: what succeeded is cached.
    return not (retry_failed and entry["failed"])


def _write_report(out: Path, images: Iterable[InputImage], count: int, summary: Summary) -> None:
    """Write report.html about some images, failures first."""
    from monkeylib.captions.report import build_report
    from monkeylib.captions.totals import select_for_report

    # Records come in the order of the images.
    totals, records, sources = select_for_report(read_records(out / RECORDS), images, count)
    notes = [summary.sentence()]
    if summary.records > len(records):
        notes.append(f"The page shows {len(records)} of them, those with failures and problems first.")

    facts = {"seconds": f"{summary.seconds:.0f}", "US$": f"{summary.cost:.2f}"}
    build_report(records, sources, notes=notes, totals=totals, facts=facts).write(out / REPORT)
