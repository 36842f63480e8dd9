"""Predictions for examples, on disk: batched, resumable, by one process or many.

Scores are computed from the files, without a model (`evaluation.results`).
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from monkeylib import inference, resources
from monkeylib.evaluation import benchmarks, distributed, error_gallery, results
from monkeylib.evaluation.benchmarks import Benchmark
from monkeylib.evaluation.distributed import DistributedContext
from monkeylib.evaluation.examples import Example, Prediction, make_batches, read_complete_lines
from monkeylib.evaluation.hf_models import HFChatModel
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.inference import Monkey
from monkeylib.profiles import Profile

AnswerFunction = Callable[[Sequence[Example]], list[str]]


class PredictionRun(NamedTuple):
    """Result of a call of `predict`.

    Attributes:
        path: the predictions file.
        generated: answers that the model gave in this call, in all processes together.
        cached: answers that were in the file before.
    """

    path: Path
    generated: int
    cached: int


# --- predictions of one file ------------------------------------------------------------------------------


def predict(
    model: Monkey | AnswerFunction,
    examples: Sequence[Example],
    path: Path | str,
    *,
    batch_size: int = 16,
    max_new_tokens: int = 64,
    progress: bool = True,
    name: str | None = None,
    stale: Literal["error", "replace"] = "error",
    context: DistributedContext | None = None,
) -> PredictionRun:
    """Answer examples and append each batch to a JSONL file, resuming where an earlier call stopped.

    Batches depend on the examples alone, so an interrupted run ends with the same file as an uninterrupted
    one. A line that was cut off by a kill is predicted again. Several processes divide the batches: each
    appends to a part file beside `path`, on a file system that they share, and the main process merges the
    parts. The file is then the same, byte for byte, and a run may be resumed by another number of processes.

    Args:
        model: a Monkey, or any function from a batch of examples to their answers. An attribute `name` of
            the function identifies it.
        examples: with unique ids.
        path: the predictions file.
        batch_size: examples answered at once.
        max_new_tokens: maximum length of an answer; only for a Monkey.
        progress: show a progress bar, in the main process.
        name: identifies the model and is stored with each prediction; by default a Monkey's fingerprint of
            weights and settings.
        stale: whether a file with predictions of another model or other examples is an error or replaced.
        context: the processes that divide the work; by default those that this one was started with.

    Raises:
        ValueError: no examples, ids that repeat, or a stale file.
    """
    _check_ids(examples)

    answer = PrefixSharingMonkey(model, max_new_tokens) if isinstance(model, Monkey) else model
    model_name = getattr(answer, "name", "") if name is None else name

    file = _PredictionsFile(Path(path))
    batches = make_batches(examples, batch_size)
    ordered_ids = [example.id for batch in batches for example in batch]
    context = context or distributed.join_processes()

    # Clean up after an interrupted run. No process changes a file before all have read it.
    cached = file.read_cached(examples, model_name, stale)
    context.barrier()
    if context.is_main:
        file.consolidate(ordered_ids, cached)
    context.barrier()

    # A batch with a missing answer is answered in full, as in an uninterrupted run.
    pending = [batch for batch in batches if any(example.id not in cached for example in batch)]
    _answer_batches(
        answer,
        context.shard(pending),
        file.local_path(context),
        model_name=model_name,
        cached=cached,
        progress=progress and context.is_main,
    )

    context.barrier()
    if context.is_main:
        # In the order of the batches, whichever process wrote them.
        file.consolidate(ordered_ids, {prediction.id: prediction for prediction in file.read()})

    context.barrier()
    return PredictionRun(file.path, generated=sum(map(len, pending)), cached=len(cached))


def _check_ids(examples: Sequence[Example]) -> None:
    """Raise an error if there are no examples, or if two have the same id."""
    if not examples:
        raise ValueError("There is nothing to predict: got no examples.")

    # Answers are stored by id, so a second example of the same id would be lost.
    id, count = Counter(example.id for example in examples).most_common(1)[0]
    if count > 1:
        raise ValueError(f"Ids of examples must be unique: {id!r} repeats.")


def _answer_batches(
    answer: AnswerFunction,
    batches: Sequence[Sequence[Example]],
    path: Path,
    *,
    model_name: str,
    cached: Mapping[str, Prediction],
    progress: bool,
) -> None:
    """Append the answers that are not cached; each batch is on disk before the next one begins."""
    if not batches:
        return

    total = sum(map(len, batches))
    with path.open("ab") as file, tqdm(total=total, desc=path.stem, disable=not progress) as bar:
        for batch in batches:
            answers = answer(batch)
            for example, text in zip(batch, answers, strict=True):
                # Answers that are on disk already were generated in the same batch, and are the same.
                if example.id not in cached:
                    file.write(Prediction.from_example(example, text, model_name).to_line())

            # On disk before the next batch: a kill loses one batch at most.
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(batch))


class _PredictionsFile:
    """A predictions file, and the part files beside it that several processes write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def local_path(self, context: DistributedContext) -> Path:
        """Return the file that this process appends to."""
        if context.world_size == 1:
            return self.path
        return self.path.with_name(f"{self.path.name}.part{context.rank}")

    def parts(self) -> list[Path]:
        """Return the part files that exist, whatever number of processes wrote them."""
        return sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.part*"))

    def read(self) -> Iterator[Prediction]:
        """Yield the predictions of the file and its parts, in no particular order."""
        for path in (self.path, *self.parts()):
            if path.exists():
                yield from read_complete_lines(path)

    def read_cached(
        self, examples: Sequence[Example], model_name: str, stale: Literal["error", "replace"]
    ) -> dict[str, Prediction]:
        """Return the predictions of earlier runs by id; none if they are stale and to be replaced.

        Raises:
            ValueError: a prediction of another model or another example.
        """
        by_id = {example.id: example for example in examples}
        cached: dict[str, Prediction] = {}

        for prediction in self.read():
            # A prediction holds its example and its model, so a stale one differs from what would be written.
            example = by_id.get(prediction.id)
            is_stale = example is None or prediction != Prediction.from_example(
                example, prediction.prediction, model_name
            )
            if is_stale and stale == "replace":
                return {}

            if is_stale:
                raise ValueError(
                    f"{self.path} holds predictions of another model or other questions, such as "
                    f'{prediction.id!r}: choose another file, or start anew with stale="replace" (on the '
                    "command line, --fresh)."
                )

            cached[prediction.id] = prediction

        return cached

    def consolidate(self, ordered_ids: Sequence[str], predictions: Mapping[str, Prediction]) -> None:
        """Write the predictions as one file in the order of the ids, and remove the parts."""
        # Examples without an answer yet are left out.
        lines = [predictions[id].to_line() for id in ordered_ids if id in predictions]
        content = b"".join(lines)
        existing = self.path.read_bytes() if self.path.exists() else b""

        # The parts go last: if this is interrupted, their predictions are read again.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if content != existing:
            with resources.atomic_write(self.path) as temporary:
                temporary.write_bytes(content)

        for part in self.parts():
            part.unlink()


# --- predictions of many benchmarks -----------------------------------------------------------------------


def predict_benchmarks(
    model: Monkey | HFChatModel,
    benchmarks: Sequence[Benchmark],
    folder: Path,
    *,
    model_name: str,
    limit: int | None = None,
    batch_size: int = 16,
    fresh: bool = False,
    gallery: int = 0,
    progress: bool = False,
) -> bool:
    """Answer benchmarks, one predictions file each; answers on disk are not generated again.

    Args:
        model: a model as `hf_models.load_image_text_model` returns it.
        benchmarks: the benchmarks.
        folder: folder of the predictions.
        model_name: name of the model in tables.
        limit: maximum number of examples of each benchmark.
        batch_size: examples answered at once.
        fresh: replace predictions of another model or other examples.
        gallery: wrong answers in the error gallery of each benchmark; 0 for no galleries.
        progress: show progress bars.

    Returns:
        Whether this is the main process, which alone should work on with the folder.

    Raises:
        ValueError: the folder holds other predictions, and `fresh` is not set.
    """
    context = distributed.join_processes()
    is_main = context.is_main

    for benchmark in benchmarks:
        examples = benchmark.load(limit)

        # A Monkey gets the limit with each call, a chat model holds it.
        if isinstance(model, HFChatModel):
            model = model.with_max_new_tokens(benchmark.max_new_tokens)

        run = predict(
            model,
            examples,
            folder / f"{benchmark.name}.jsonl",
            batch_size=batch_size,
            max_new_tokens=benchmark.max_new_tokens,
            progress=progress,
            stale="replace" if fresh else "error",
            context=context,
        )
        if is_main and gallery:
            error_gallery.write_gallery(benchmark, run.path, examples, gallery)

    if is_main:
        results.write_model_name(folder, model_name)
    return is_main


def predict_synthetic(
    profile: Profile, checkpoint: Path, folder: Path, counts: Mapping[str, int], progress: bool = False
) -> dict[str, PredictionRun]:
    """Answer the synthetic benchmarks with a checkpoint, one predictions file each.

    Answers on disk are not generated again; those of another checkpoint are replaced.

    Args:
        profile: sets batch size and length of answers.
        checkpoint: folder of the model.
        folder: folder of the predictions.
        counts: examples of each split (`fine`, `large`, `general`, `caption`).

    Returns:
        The run of each benchmark by its name.
    """
    monkey = inference.load_model(checkpoint)

    runs = {}
    for split, count in counts.items():
        benchmark = benchmarks.get(f"nano-{split}")
        runs[benchmark.name] = predict(
            monkey,
            benchmark.load(count),
            folder / f"{benchmark.name}.jsonl",
            batch_size=profile.evaluation.batch_size,
            max_new_tokens=min(benchmark.max_new_tokens, profile.evaluation.max_new_tokens),
            progress=progress,
            stale="replace",
        )

    return runs
