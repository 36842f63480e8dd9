"""`monkeylib caption`: describe images with experts."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from monkeylib import resources

if TYPE_CHECKING:
    from monkeylib.captions.engines import Engine
    from monkeylib.captions.input_images import InputImage
    from monkeylib.captions.pipeline import Pipeline, Summary

_SHOWN = 20  # descriptions that are printed
_SAID = 3  # failures that are named


Experts = Annotated[str, typer.Option(help="A set (cpu, paper, paper-grit), or names with commas.")]
MatcherName = Annotated[
    str, typer.Option(help="Judge of the regions' texts: a name, 'none', or 'auto' for the set's own.")
]
ComposerName = Annotated[str, typer.Option(help="Writer of the descriptions: rules, chat or smollm2.")]
Captions = Annotated[
    Path | None, typer.Option(help="Original captions: JSON, JSONL, CSV or TSV with names and captions.")
]
Overlap = Annotated[
    Literal["correct", "release"], typer.Option(help="How boxes of the same text are compared.")
]
SmallestSegment = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Share of the image that a segment has to cover; by default the experts' own."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images that an expert gets at once.")]
ShardSize = Annotated[int, typer.Option(min=1, help="Images that are committed together.")]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        help="Seconds that an expert may take for a batch, or for an image asked alone; more is a failure."
    ),
]
LowMemory = Annotated[bool, typer.Option("--low-memory", help="Keep no more than one model loaded.")]
EngineName = Annotated[
    Literal["local", "ray"], typer.Option(help="This process, or a Ray cluster with a shared folder.")
]
Workers = Annotated[str, typer.Option(help="Ray: processes of each stage, as in 4 or 1,blip2=4,pp-ocr=8.")]
Gpus = Annotated[str, typer.Option(help="Ray: share of a GPU of a stage's processes, as in blip2=0.5.")]
Cpus = Annotated[
    float | None,
    typer.Option(min=0.01, help="Ray: CPUs that each process asks for; by default what fits, one at most."),
]
Address = Annotated[str | None, typer.Option(help="Ray: address of a running cluster.")]
ReportSize = Annotated[int, typer.Option(min=0, help="Images on the page report.html; 0 writes none.")]


def caption(
    images: Annotated[list[Path], typer.Argument(help="Images, and folders of images.")],
    out: Annotated[Path, typer.Option(help="Folder of the records and of what each expert found.")],
    experts: Experts = "cpu",
    matcher: MatcherName = "auto",
    composer: ComposerName = "rules",
    captions: Captions = None,
    overlap: Overlap = "correct",
    smallest_segment: SmallestSegment = None,
    batch_size: BatchSize = 8,
    shard_size: ShardSize = 1000,
    time_limit: TimeLimit = None,
    low_memory: LowMemory = False,
    engine: EngineName = "local",
    workers: Workers = "1",
    gpus: Gpus = "",
    cpus: Cpus = None,
    address: Address = None,
    report: ReportSize = 100,
) -> None:
    """Describe images with experts; called again, it does only what is missing."""
    from monkeylib.captions import input_images

    chosen = input_images.find_images(images)
    if captions:
        chosen = input_images.attach_captions(chosen, captions)
    describer = _pipeline(experts, matcher, composer, overlap, smallest_segment, batch_size, time_limit)
    runs = _engine(engine, low_memory, workers, gpus, cpus, address)
    summary = describer.run(chosen, out, engine=runs, shard_size=shard_size, progress=sys.stderr.isatty())
    _say(out, summary, chosen[:report])


def _pipeline(
    experts: str,
    matcher: str,
    composer: str,
    overlap: Literal["correct", "release"],
    smallest_segment: float | None,
    batch_size: int,
    time_limit: float | None,
) -> "Pipeline":
    from monkeylib.captions import composers
    from monkeylib.captions import experts as known
    from monkeylib.captions.filtering import Filter
    from monkeylib.captions.pipeline import Pipeline

    names = experts.split(",") if "," in experts else experts
    smallest = known.smallest_segment(names) if smallest_segment is None else smallest_segment
    return Pipeline(
        experts=known.load_experts(names),
        matcher=known.load_matcher(matcher, experts),
        composer=composers.load_composer(composer),
        filters=Filter(overlap=overlap, smallest_segment=smallest),
        batch_size=batch_size,
        time_limit=time_limit,
    )


def _engine(
    engine: str, low_memory: bool, workers: str, gpus: str, cpus: float | None, address: str | None
) -> "Engine":
    from monkeylib.captions.engines import LocalEngine, RayEngine

    if engine == "local":
        return LocalEngine(low_memory)
    counts, shares = _by_stage(workers, "--workers"), _by_stage(gpus, "--gpus")
    if "" in shares:
        raise ValueError("--gpus names a stage for each share, as in blip2=0.5,sam=0.5")
    everyone = int(counts.pop("", 1))
    return RayEngine({name: int(n) for name, n in counts.items()}, everyone, cpus, shares, address)


def _by_stage(text: str, option: str) -> dict[str, float]:
    """Numbers by stage name from "1,blip2=4"; the one without a name under ""."""
    found = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.rpartition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError as error:
            raise ValueError(f"{option} takes numbers, as in 1,blip2=4: got {part!r}") from error
    return found


def _say(out: Path, summary: "Summary", sources: "list[InputImage]") -> None:
    """Print descriptions and what they took, write the report, and end with what failed."""
    from itertools import islice

    from rich.console import Console

    from monkeylib import tables
    from monkeylib.captions import report
    from monkeylib.captions.record_files import read_records
    from monkeylib.captions.shards import RECORDS

    for record in islice(read_records(out / RECORDS), _SHOWN):
        if record.detailed_caption:
            print(f"{record.name}: {record.detailed_caption}")
    if summary.records > _SHOWN:
        print(f"and {summary.records - _SHOWN} more in {resources.display_path(out / RECORDS)}")
    if sys.stderr.isatty():
        title = f"{summary.records} images in {summary.seconds:.0f} s, US$ {summary.cost:.2f}"
        tables.print_table(summary.rows(), title, Console(stderr=True))
    if sources:
        records = list(islice(read_records(out / RECORDS), len(sources)))
        page = report.build_report(records, sources).write(out / "report.html")
        print(f"report: {resources.display_path(page)}")
    failed = [f"{r.name}: {f.error}" for r in read_records(out / RECORDS) for f in r.failures]
    if failed:
        more = f"; and {len(failed) - _SAID} more" if len(failed) > _SAID else ""
        raise ValueError(
            f"{len(failed)} of the steps failed, a new call tries them again: "
            f"{'; '.join(failed[:_SAID])}{more}"
        )
