"""Evaluation of a model on benchmarks, as a run in a folder: checked as a whole, answered, and recorded.

Everything that can be wrong is checked before the model is loaded: the benchmarks' files, images and answers,
the model's folder, and the folder of the run. `run.json` then records what the answers come from.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from monkeylib import resources, signals
from monkeylib.digests import FileDigests, json_digest
from monkeylib.evaluation import distributed, error_gallery, hf_models, submissions
from monkeylib.evaluation.benchmarks import BENCHMARKS, Benchmark
from monkeylib.evaluation.distributed import DistributedContext
from monkeylib.evaluation.examples import Example, Prediction, read_predictions
from monkeylib.evaluation.hf_models import HFChatModel
from monkeylib.evaluation.predict import (
    MAX_FAILED_SHARE,
    FailureLimit,
    PredictionRun,
    TooManyFailures,
    part_name,
    predict,
)
from monkeylib.evaluation.prediction_folders import QUESTION_FILES, SCORES_FILE
from monkeylib.evaluation.results import check_field
from monkeylib.monkey import Monkey
from monkeylib.progress import say
from monkeylib.prompts import PROMPTS
from monkeylib.runs import RunFolder, read_manifest
from monkeylib.tiling import parse_grid

_KIND = "evaluation"

# Files of a model's folder that decide about its answers; others may lie beside them.
_MODEL_SUFFIXES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".tiktoken", ".yaml"}
_MODEL_NAMES = {"merges.txt", "vocab.txt"}


@dataclass(frozen=True)
class EvaluationJob:
    """What is to be evaluated, and how.

    Attributes:
        model: folder of the model, or its name on a hub.
        model_name: name of the model in tables.
        benchmarks: the benchmarks.
        folder: folder of the predictions.
        prompt: name of the prompt in place of the benchmarks'; empty for theirs.
        limit: maximum number of examples of each benchmark. Predictions for others stay in the folder.
        batch_size: examples answered at once.
        fresh: replace the run that the folder holds, whatever its settings.
        retry_failed: answer examples again whose failure is recorded.
        max_failed: share of the examples of a benchmark that may fail.
        skip_unusable: leave out benchmarks whose files are incomplete, instead of raising an error.
        grid: another grid of tiles than the model's, such as "2x3" or "auto"; a model of transformers is
            raised to it.
        device: where to run; by default this process's own GPU if there is one.
        dtype: data type of the weights, such as "bfloat16"; as saved if None.
        bits: quantise the language model to 4 or 8 bits.
        exact: prepare images as the released code does, or in bytes; as saved if None.
        by: field of the questions that scores are grouped by; empty for none. Some must have it.
        gallery: wrong answers in the error gallery of each benchmark; 0 for no galleries.
        progress: show progress bars.
    """

    model: str
    model_name: str
    benchmarks: Sequence[Benchmark]
    folder: Path
    prompt: str = ""
    limit: int | None = None
    batch_size: int = 16
    fresh: bool = False
    retry_failed: bool = False
    max_failed: float = MAX_FAILED_SHARE
    skip_unusable: bool = False
    grid: str = ""
    device: str = ""
    dtype: str | None = None
    bits: int | None = None
    exact: bool | None = None
    by: str = ""
    gallery: int = 0
    progress: bool = False


@dataclass
class EvaluationResult:
    """What a job has done.

    Attributes:
        ids: ids of the examples of each benchmark that is complete.
        error: why the job has stopped before its end; None if it hasn't.
    """

    ids: dict[str, list[str]] = field(default_factory=dict)
    error: TooManyFailures | None = None


def run_job(job: EvaluationJob) -> EvaluationResult | None:
    """Answer the questions of benchmarks, one predictions file each; answers on disk are not generated again.

    Processes that torchrun has started divide the questions among them.

    Returns:
        The result; None in other processes than the main one, which alone should work on with the folder.

    Raises:
        FileNotFoundError: files of a benchmark, or the model, are missing.
        FileExistsError: the folder holds files of somebody else.
        BlockingIOError: another job works in the folder.
        ValueError: the folder holds predictions of another model or prompt, and the job isn't `fresh`, or a
            benchmark is incomplete.
    """
    context = distributed.join_processes()
    # Once, for all who use it.
    job = replace(job, folder=resources.to_path(job.folder))

    # One process checks, and holds the folder; the others share it.
    opened = context.run_on_main(lambda: _check(job))
    names, run = opened if opened is not None else ([], None)
    names = context.broadcast(names)
    usable = [benchmark for benchmark in job.benchmarks if benchmark.name in names]

    with run if run is not None else contextlib.nullcontext():
        model = hf_models.load_image_text_model(
            job.model,
            device=job.device or None,
            grid=job.grid,
            dtype=job.dtype,
            bits=job.bits,
            exact=job.exact,
        )
        context.run_on_main(lambda: _start(run, job, model, context))
        context.run_on_main(lambda: _announce(job, usable, model, context))
        with signals.say_when_interrupted(signals.GOES_ON):
            result = _predict_all(job, usable, model, run, context)

    return result if context.is_main else None


# --- before the model is loaded


def _check(job: EvaluationJob) -> tuple[list[str], RunFolder]:
    """Check the whole job, and open its folder.

    Returns:
        Names of the benchmarks that can be used, and the folder.
    """
    FailureLimit(1, job.max_failed)  # a share between 0 and 1
    if job.grid:
        parse_grid(job.grid)
    hf_models.require_model(job.model)

    problems: dict[str, Exception] = {}
    metas: list[Mapping[str, Any]] = []
    for benchmark in job.benchmarks:
        try:
            # Loaded again when its turn comes: all benchmarks at once may not fit into memory.
            examples = benchmark.load(job.limit)
            metas += [example.meta for example in examples if job.by]
        except (ValueError, OSError) as error:
            problems[benchmark.name] = error

    names = [benchmark.name for benchmark in job.benchmarks if benchmark.name not in problems]
    if problems and not (job.skip_unusable and names):
        # All of them in one message, so that the user mends them at one time.
        errors = list(problems.values())
        raise type(errors[0])("; ".join(map(str, errors))) if len(errors) > 1 else errors[0]
    for name, error in problems.items():
        say(f"{name} is left out: {error}")

    for benchmark in job.benchmarks:
        if benchmark.remark:
            say(f"{benchmark.name}: {benchmark.remark}")

    if job.by:
        check_field(job.by, metas)
    if not job.fresh:
        _require_same_files(job)

    run = RunFolder.open(job.folder, _KIND, _fingerprint(job), inputs=[Path(job.model)], fresh=job.fresh)
    for remark in run.remarks:
        say(remark)
    return names, run


def _question_files(job: EvaluationJob) -> dict[str, str]:
    """Return the files of one's own questions: other benchmarks are known by their names."""
    return {
        benchmark.name: str(Path(benchmark.source).resolve())
        for benchmark in job.benchmarks
        if benchmark.name not in BENCHMARKS
    }


def _require_same_files(job: EvaluationJob) -> None:
    """Check that the folder holds no answers to another file of the same name, which would be replaced.

    Raises:
        ValueError: it does, and that file is still there.
    """
    manifest = read_manifest(job.folder)
    earlier_files = manifest.notes.get(QUESTION_FILES, {}) if manifest else {}
    for name, file in _question_files(job).items():
        earlier = earlier_files.get(name, file)
        if earlier != file and Path(earlier).exists():
            raise ValueError(
                f"{resources.display_path(job.folder)} holds the answers to another file of this name, "
                f"{resources.display_path(earlier)}: name another folder with --out, or rename the file"
            )


def _fingerprint(job: EvaluationJob) -> dict[str, Any]:
    """Return what all predictions of a folder have in common. Each prediction names the rest itself."""
    fields = {"model": {"weights": _model_digest(job.model)}, "prompt": job.prompt or "of each benchmark"}
    # What is not given is as the model says.
    given = {"grid": job.grid or None, "dtype": job.dtype, "bits": job.bits, "exact": job.exact}
    return {**fields, **{name: value for name, value in given.items() if value is not None}}


def _model_digest(name: str) -> str:
    """Return the digest of a model's files, or its name on a hub."""
    folder = Path(name)
    if not folder.is_dir():
        return name

    # The adapters of a raised model lie in a folder each.
    files = [
        file
        for file in sorted([*folder.iterdir(), *folder.glob("tile-*/*")])
        if file.is_file() and (file.suffix in _MODEL_SUFFIXES or file.name in _MODEL_NAMES)
    ]
    digests = FileDigests.in_cache().digests(files)
    return json_digest({file.relative_to(folder).as_posix(): digest for file, digest in digests.items()})


# --- with the model


def _start(
    run: RunFolder, job: EvaluationJob, model: Monkey | HFChatModel, context: DistributedContext
) -> None:
    """Begin or resume the run, and record what its answers come from."""
    run.start()

    run.own(SCORES_FILE)

    # Monkey and chat models both hold the model of transformers.
    network = model.model
    run.note(
        model=job.model_name,
        model_path=resources.recorded_path(job.model) if Path(job.model).exists() else job.model,
        weights=run.fingerprint["model"]["weights"],
        revision=getattr(network.config, "_commit_hash", None),
        prompt=job.prompt or "of each benchmark",
        grid=job.grid or "of the model",
        dtype=str(network.dtype).removeprefix("torch."),
        device=str(network.device),
        processes=context.world_size,
        batch_size=job.batch_size,
        limit=job.limit,
        **{QUESTION_FILES: {**run.manifest.notes.get(QUESTION_FILES, {}), **_question_files(job)}},
    )


def _announce(
    job: EvaluationJob,
    benchmarks: Sequence[Benchmark],
    model: Monkey | HFChatModel,
    context: DistributedContext,
) -> None:
    """Write the first line of a job: its devices, model, benchmarks and folder."""
    if not job.progress:
        return

    device = model.model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    listed = ", ".join(benchmark.name for benchmark in benchmarks)
    limit = f", up to {job.limit} questions each," if job.limit else ""
    print(
        f"evaluate on {context.world_size} x {name}: {job.model_name} on {listed}{limit} in batches of "
        f"{job.batch_size}, into {resources.display_path(job.folder)}",
        file=sys.stderr,
        flush=True,
    )


def _predict_all(
    job: EvaluationJob,
    benchmarks: Sequence[Benchmark],
    model: Monkey | HFChatModel,
    run: RunFolder | None,
    context: DistributedContext,
) -> EvaluationResult:
    """Answer the benchmarks one after the other, and record each."""
    result = EvaluationResult()
    num_generated = 0
    file_digests = FileDigests.in_cache()

    for benchmark in benchmarks:
        examples = benchmark.load(job.limit)

        # A Monkey gets the limit with each call, a chat model holds it.
        if isinstance(model, HFChatModel):
            model = model.with_max_new_tokens(benchmark.max_new_tokens)

        page = error_gallery.page_name(benchmark) if job.gallery else ""
        further_files = [*([page] if page else []), *_submission_names(benchmark, examples)]
        own_files = context.run_on_main(
            lambda name=benchmark.name, files=further_files: _own_files(run, name, files, context)
        )
        began = time.monotonic()
        try:
            predictions = predict(
                model,
                examples,
                job.folder / f"{benchmark.name}.jsonl",
                batch_size=job.batch_size,
                max_new_tokens=benchmark.max_new_tokens,
                progress=job.progress,
                retry_failed=job.retry_failed,
                max_failed=job.max_failed,
                file_digests=file_digests,
                own_parts=context.broadcast(own_files),
                context=context,
            )
        except TooManyFailures as error:  # in all processes alike
            result.error = error
            return result

        num_generated += predictions.generated
        if run is not None:
            ids = {example.id for example in examples}
            rows = [row for row in read_predictions(predictions.path) if row.id in ids]
            _record(run, benchmark, predictions, rows, time.monotonic() - began)
            _report(benchmark, predictions, rows)

            print(f"answers: {resources.display_path(predictions.path)}")
            if page and any(row.answers for row in rows):
                error_gallery.write_gallery(benchmark, rows, examples, run.path / page, job.gallery)
            if submissions.needs_submission(benchmark, rows):
                submissions.report_submission(benchmark, rows, run.path)
            result.ids[benchmark.name] = [example.id for example in examples]

    if run is not None:
        run.finish()
        if not num_generated:
            say("every question had its answer already: nothing was generated")
    return result


def _own_files(
    run: RunFolder, name: str, further_files: Sequence[str], context: DistributedContext
) -> list[str]:
    """Note the files of a benchmark before its first question: one that is in the way ends the job.

    Args:
        run: the run.
        name: name of the benchmark.
        further_files: names of its gallery's page and of its submission files.
        context: the processes, which write a part each.

    Returns:
        Names of all files of the run; those of parts that other processes wrote before are among them.
    """
    file = f"{name}.jsonl"
    parts = [part_name(file, rank) for rank in range(context.world_size)]
    run.own_all([file, *(parts if context.world_size > 1 else []), *further_files])
    return run.manifest.files


def _submission_names(benchmark: Benchmark, examples: Sequence[Example]) -> list[str]:
    """Return the names of the submission files that the answers to examples go into."""
    return submissions.file_names(benchmark) if submissions.needs_submission(benchmark, examples) else []


def _record(
    run: RunFolder,
    benchmark: Benchmark,
    predictions: PredictionRun,
    rows: Sequence[Prediction],
    seconds: float,
) -> None:
    """Record a complete benchmark: its prompt, its answers, and the seconds of all calls that ended."""
    records = dict(run.manifest.notes.get("benchmarks", {}))
    earlier = records.get(benchmark.name, {})

    # A call that only reads answers from disk says nothing about the model's speed.
    generated = earlier.get("generated", 0) + predictions.generated
    seconds = earlier.get("seconds", 0.0) + (seconds if predictions.generated else 0.0)

    tokens = [row.tokens for row in rows if row.tokens is not None]
    records[benchmark.name] = {
        "metrics": list(benchmark.metrics),
        "prompt": benchmark.prompt,
        "prompt_text": sorted({row.template for row in rows}) or [PROMPTS[benchmark.prompt].text],
        "max_new_tokens": benchmark.max_new_tokens,
        "questions": len(rows),
        "failed": predictions.failed,
        "empty": sum(row.is_empty for row in rows),
        "cut": sum(row.is_cut for row in rows),
        "tokens": sum(tokens),
        "generated": generated,
        "seconds": round(seconds, 3),
        "questions_per_second": round(generated / seconds, 3) if seconds else None,
    }

    total_seconds = sum(record["seconds"] for record in records.values())
    total_generated = sum(record["generated"] for record in records.values())
    run.note(
        benchmarks=records,
        tokens=sum(record["tokens"] for record in records.values()),
        seconds=round(total_seconds, 3),
        questions_per_second=round(total_generated / total_seconds, 3) if total_seconds else None,
    )


def _report(benchmark: Benchmark, predictions: PredictionRun, rows: Sequence[Prediction]) -> None:
    """Tell the user what is special about a benchmark's predictions."""
    name = benchmark.name
    if predictions.repaired:
        say(f"{name}: the last line was incomplete, as a kill leaves it, and has been predicted again")
    if predictions.changed:
        say(
            f"{name}: {predictions.changed} of {len(rows)} questions have been answered again, since their "
            "image, their text or the prompt has changed"
        )
    if predictions.others:
        say(
            f"{name}: {len(rows)} of {len(rows) + predictions.others} predictions are scored; the others, "
            "such as those beyond a limit, are retained"
        )

    failed = [row for row in rows if row.error]
    if failed:
        say(
            f"{name}: {len(failed)} of {len(rows)} questions could not be answered and count as wrong, such "
            f"as {failed[0].id} ({failed[0].error}): replace the images and run it again, or repeat the "
            "questions with --retry-failed"
        )
    if not any(row.answers for row in rows):
        say(f"{name}: the questions are answered, but not scored: the answers of this split aren't published")
