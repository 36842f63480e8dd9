"""`monkeylib caption`: caption images in detail, with experts and a composer."""

import dataclasses
import shlex
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from monkeylib import resources
from monkeylib.cli import options
from monkeylib.progress import say, say_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from monkeylib.captions.engines import Engine
    from monkeylib.captions.exports import ExportStatistics
    from monkeylib.captions.input_images import InputImage
    from monkeylib.captions.summary import Summary

# Exit codes beside 0 (all images have been through all stages) and 2 (an error).
FAILED_IMAGES = 3  # finished; some images failed, and would fail again
PENDING = 4  # the next run tries some images again

# More of them are in the files; the terminal shows the first.
_PRINTED_CAPTIONS = 20
_SEARCHED_RECORDS = 10_000  # for those without a caption: a second
_PRINTED_FAILURES = 3

Experts = Annotated[
    str,
    typer.Option(
        help="A set of experts (cpu, demonstration, paper, vision), names, or both, separated by commas: "
        "`monkeylib experts` lists them."
    ),
]
MatcherName = Annotated[
    str,
    typer.Option(
        help="Scores the texts of regions: a name, none, or auto for the matcher of the expert set."
    ),
]
ComposerName = Annotated[str, typer.Option(help="Writes the captions: rules, chat or smollm2.")]
Captions = Annotated[
    Path | None,
    typer.Option(
        help="File of original captions by image name (JSON, JSONL, CSV, TSV, parquet), or CC3M's list. "
        "Without it, those of .txt files beside the images."
    ),
]
Overlap = Annotated[
    Literal["correct", "released"],
    typer.Option(
        help="IoU by which boxes of the same text are compared: correct, or as in the released code."
    ),
]
SmallestSegment = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Smallest share of the image that a segment may cover; default: by expert."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per batch.")]
ShardSize = Annotated[int, typer.Option(min=1, help="Images per shard; a shard is committed as a whole.")]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        help="Seconds that an expert may take for a batch. A batch that fails is split into images."
    ),
]
LowMemory = Annotated[bool, typer.Option("--low-memory", help="Keep at most one model in memory.")]
EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Run in this process, or on a Ray cluster with a shared folder."),
]
Workers = Annotated[
    str,
    typer.Option(
        help="Ray: processes per stage, such as 4, or 1,blip2=2-6 with bounds; by default as many as fill "
        "the cluster."
    ),
]
Gpus = Annotated[str, typer.Option(help="Ray: GPUs per process of a stage, such as blip2=0.5.")]
Cpus = Annotated[
    float | None,
    typer.Option(min=0.01, help="Ray: CPUs per process; by default one, or less if the cluster has too few."),
]
Address = Annotated[str | None, typer.Option(help="Ray: address of a running cluster.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try images again that failed in an earlier run for good.")
]
MaxFailures = Annotated[
    int,
    typer.Option(min=0, help="Failures that end the run where a stage hardly ever succeeds; 0 for no limit."),
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Replace the records in the folder, also those of other images and models; cached results stay.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check everything, print what the run will take and cost for all images, and write nothing.",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print a line of JSON in place of captions: counts of images, the files, and each stage's time "
        "and cost.",
    ),
]
ReportSize = Annotated[int, typer.Option(min=0, help="Images in report.html; 0 writes no report.")]
Export = Annotated[
    Literal["llava", "messages", "webdataset", "parquet", "released"] | None,
    typer.Option(help="Write the captions as training data too, into OUT/exports/FORMAT, with a data card."),
]
ExportStatus = Annotated[
    Literal["ok", "partial"],
    typer.Option(help="Captions to export: ok where every stage succeeded, partial also where one failed."),
]
ExportChecks = Annotated[
    Literal["passed", "any"], typer.Option(help="Captions to export: those that passed their checks, or any.")
]
MinGrounding = Annotated[
    float,
    typer.Option(min=0, max=1, help="Export captions of which at least this share of words is grounded."),
]
MinConfirmed = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Export captions whose experts' statements a second one confirms to this share."
    ),
]
ReviewFile = Annotated[
    Path | None,
    typer.Option(
        "--reviews", help="Export captions as people accepted, corrected or rejected them in report.html."
    ),
]


def caption(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images, documents (PDF, TIFF), WebDataset's tar files, tables with images (parquet, saved "
            "datasets), and folders of all of these."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output folder, with the cached results of every model.")],
    experts: Experts = "cpu",
    matcher: MatcherName = "auto",
    composer: ComposerName = "rules",
    captions: Captions = None,
    overlap: Overlap = "correct",
    smallest_segment: SmallestSegment = None,
    batch_size: BatchSize = 8,
    shard_size: ShardSize = 4000,
    time_limit: TimeLimit = None,
    low_memory: LowMemory = False,
    engine: EngineName = "local",
    workers: Workers = "",
    gpus: Gpus = "",
    cpus: Cpus = None,
    address: Address = None,
    retry_failed: RetryFailed = False,
    max_failures: MaxFailures = 20,
    report: ReportSize = 100,
    export: Export = None,
    export_status: ExportStatus = "ok",
    export_checks: ExportChecks = "passed",
    min_grounding: MinGrounding = 0.0,
    min_confirmed: MinConfirmed = 0.0,
    reviews: ReviewFile = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Caption images in detail. Run it again to continue where it stopped.

    Exit code 0: every image has been through all stages. 2: an error. 3: finished, but some images failed
    for good, such as broken files (--retry-failed tries them again). 4: not finished, run it again.
    """
    from monkeylib.captions.composers import load_composer
    from monkeylib.captions.experts import load_experts, load_matcher
    from monkeylib.captions.experts import smallest_segment as expert_limit
    from monkeylib.captions.filtering import Filter
    from monkeylib.captions.input_images import list_images
    from monkeylib.captions.pipeline import REPORT, Pipeline

    out = resources.to_path(out)
    images = [resources.to_path(path) for path in images]
    original_captions = resources.to_path(captions) if captions else None
    inputs = list_images(images, original_captions, without=out)
    for remark in inputs.remarks():
        say(remark)

    # What is exported is checked before the models run.
    selection = {
        "statuses": ("ok", "partial") if export_status == "partial" else ("ok",),
        "with_problems": export_checks == "any",
        "grounding": min_grounding,
        "confirmed": min_confirmed,
    }
    export_reviews = _read_reviews(reviews, export)

    names = [name.strip() for name in experts.split(",")]
    if smallest_segment is None:
        smallest_segment = expert_limit(names)

    # Experts load their weights at the first batch, so wrong arguments are reported at once.
    pipeline = Pipeline(
        experts=load_experts(names),
        matcher=load_matcher(matcher, experts),
        composer=load_composer(composer),
        filters=Filter(overlap=overlap, smallest_segment=smallest_segment),
        batch_size=batch_size,
        time_limit=time_limit,
        max_failures=max_failures,
    )

    if dry_run:
        with options.lines_of_json_alone(json):
            sentences = pipeline.estimate(inputs, out, shard_size=shard_size)
        if json:
            options.print_json({"images": len(inputs), "estimate": sentences})
        else:
            print("\n".join(sentences))
        return

    is_ray = engine == "ray"
    with options.lines_of_json_alone(json):
        summary = pipeline.run(
            inputs,
            out,
            engine=_ray_engine(workers, gpus, cpus, address) if is_ray else _local_engine(low_memory),
            shard_size=shard_size,
            retry_failed=retry_failed,
            report=report,
            fresh=fresh,
            progress=True,
        )

    # The exit code comes last, so that captions and report are there despite failures.
    page = out / REPORT if report else None
    if not json:
        _print_captions(out, summary)
        if page is not None:
            print(f"report: {resources.display_path(page)}")
    statistics = _export(out, inputs, export, selection, export_reviews) if export else None
    if json:
        options.print_json(_json_fields(out, summary, page, export, statistics))
    elif statistics is not None:
        print(_export_sentences(out, export, statistics))
    if summary.failed:
        say_error(_failure_sentence(out, summary))
        raise typer.Exit(PENDING if summary.pending else FAILED_IMAGES)


def _local_engine(low_memory: bool) -> "Engine":
    from monkeylib.captions.engines import LocalEngine

    return LocalEngine(low_memory)


def _ray_engine(workers: str, gpus: str, cpus: float | None, address: str | None) -> "Engine":
    from monkeylib.captions.ray_engine import RayEngine

    # "1,blip2=4": the number without a name is for all other stages.
    counts: dict[str, Any] = _parse_stages(workers, "--workers", _parse_bounds)
    default_workers = counts.pop("", None)
    shares = _parse_stages(gpus, "--gpus")
    if "" in shares:
        raise ValueError("--gpus names a stage for each share, as in blip2=0.5,sam=0.5")

    return RayEngine(
        workers=counts,
        default_workers=default_workers,
        cpus=cpus,
        gpus=shares,
        address=address,
    )


def _parse_stages(text: str, option: str, parse: "Callable[[str], Any]" = float) -> dict[str, Any]:
    """Return the numbers by stage name of "1,blip2=4"; the one without a name is under ""."""
    numbers = {}
    for part in text.split(","):
        if not part:
            continue
        # "blip2=4" -> "blip2" and "4"; "1" -> "" and "1"
        name, _, number = part.rpartition("=")
        try:
            numbers[name.strip()] = parse(number)
        except ValueError as error:
            raise ValueError(f"{option} takes numbers, as in 1,blip2=4: got {part!r}") from error

    return numbers


def _parse_bounds(text: str) -> int | tuple[int, int]:
    """Return the number of "4", or the bounds of "2-6"."""
    least, dash, most = text.partition("-")
    return (int(least), int(most)) if dash else int(least)


def _read_reviews(path: Path | None, export: str | None) -> Any:
    """Return the reviews for an export.

    Raises:
        ValueError: there are reviews, but nothing is exported.
    """
    from monkeylib.captions.reviews import read_reviews

    if path is None:
        return {}
    if not export:
        raise ValueError("--reviews says what is exported: name a format with --export")
    return read_reviews(resources.to_path(path))


def _export(
    out: Path, images: "Iterable[InputImage]", export: Any, selection: dict[str, Any], reviews: Any
) -> "ExportStatistics":
    """Write the captions as training data, and return what there is of them."""
    from monkeylib.captions import exports
    from monkeylib.captions.record_files import RECORDS, read_records

    folder = _export_folder(out, export)
    return exports.export_captions(
        read_records(out / RECORDS), images, folder, export, exports.Selection(**selection), reviews=reviews
    )


def _export_folder(out: Path, export: str) -> Path:
    return out / "exports" / export


def _export_sentences(out: Path, export: str, statistics: "ExportStatistics") -> str:
    """Return sentences about exported captions, with the command that trains on them."""
    from monkeylib.captions import exports

    left_out = statistics.describe_left_out()
    shown = resources.display_path(_export_folder(out, export))
    command = f"monkeylib train --data {shlex.quote(f'{shown}/{exports.MIXTURE}')}"
    return (
        f"export: {shown}: {statistics.exported} captions{f', left out: {left_out}' if left_out else ''}\n"
        f"train on them: {resources.as_typed(command)} --base MODEL --steps N"
    )


def _json_fields(
    out: Path,
    summary: "Summary",
    page: Path | None,
    export: str | None,
    statistics: "ExportStatistics | None",
) -> dict[str, Any]:
    """Return what `--json` prints: the summary of a run, and the files that it has written.

    Args:
        out: the folder of the run.
        summary: of the run.
        page: the report; None without one.
        export: format of the exported captions; None if there are none.
        statistics: what was exported.
    """
    from monkeylib.captions import exports
    from monkeylib.captions.record_files import RECORDS

    exported = None
    if export is not None and statistics is not None:
        exported = {
            "format": export,
            "mixture": resources.display_path(_export_folder(out, export) / exports.MIXTURE),
            "exported": statistics.exported,
            "left_out": dict(statistics.left_out),
        }

    fields = dataclasses.asdict(summary)
    stages = [{**stage, "cost": round(stage["cost"], 6)} for stage in fields.pop("stages")]
    return {
        "records_file": resources.display_path(out / RECORDS),
        **fields,
        "cost": round(summary.cost, 6),
        "stages": stages,
        "report": None if page is None else resources.display_path(page),
        "export": exported,
    }


def _print_captions(out: Path, summary: "Summary") -> None:
    """Print the first captions, how many images have none, and, on a terminal, a table of the stages."""
    from rich.console import Console

    from monkeylib import tables
    from monkeylib.captions.record_files import RECORDS, read_records

    for record in islice(read_records(out / RECORDS), _PRINTED_CAPTIONS):
        if record.detailed_caption:
            print(f"{record.name}: {record.detailed_caption}")

    if summary.records > _PRINTED_CAPTIONS:
        print(f"and {summary.records - _PRINTED_CAPTIONS} more in {resources.display_path(out / RECORDS)}")

    print(summary.sentence())
    if 0 < summary.undescribed <= _PRINTED_CAPTIONS and summary.records <= _SEARCHED_RECORDS:
        records = read_records(out / RECORDS)
        names = [record.name for record in records if not record.failures and not record.detailed_caption]
        reason = "since nothing that the experts have found has passed the filter"
        print(f"without a description, {reason}: {', '.join(names)}")
    if summary.already == summary.shards:
        print("All of this was there already: nothing was done.")
    elif sys.stderr.isatty():
        title = f"{summary.records} images in {summary.seconds:.0f} s, US$ {summary.cost:.2f}"
        if summary.already:
            title += f"; {summary.already} of {summary.shards} shards were captioned before"
        tables.print_table(summary.rows(), title, Console(stderr=True))


def _failure_sentence(out: Path, summary: "Summary") -> str:
    """Return how many images failed, the first of them, and what to do."""
    from monkeylib.captions.record_files import failed_records

    # What can still succeed is named first.
    failures = []
    for record in failed_records(out):
        for failure in record.failures:
            if failure.is_retried or not summary.pending:
                failures.append(f"{record.name}: {failure.error}")
        if len(failures) >= _PRINTED_FAILURES:
            break

    if summary.pending:
        settled = summary.failed - summary.pending
        start = f"not finished, run it again to go on: {summary.pending} images are still to be done"
        start += f", {settled} more failed for good" if settled else ""
    else:
        start = f"finished, but {summary.failed} of {summary.records} images failed for good "
        start += "(--retry-failed tries them again)"
    return f"{start}: {'; '.join(failures[:_PRINTED_FAILURES])}"
