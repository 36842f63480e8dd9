"""Predictions for examples, on disk: batched, resumable, by one process or many.

An answer is retained as long as its image's content, its question, the text of its prompt and its model are
the same. Scores are computed from the files, without a model (`evaluation.results`).

A question that the model cannot answer, such as one about a broken image, is a failure. It is recorded in the
file and counts as a wrong answer: it is scored like an empty one. So scores of different models stay over the
same questions. It is settled: a later call repeats it only if the image has changed, or with `retry_failed`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from monkeylib import inference, resources
from monkeylib.digests import FileDigests
from monkeylib.errors import choose
from monkeylib.evaluation import benchmarks, distributed
from monkeylib.evaluation.distributed import DistributedContext
from monkeylib.evaluation.documents import answer_documents
from monkeylib.evaluation.encoding_sharing import EncodingSharingRaised
from monkeylib.evaluation.examples import (
    Example,
    OpenedImages,
    Prediction,
    image_digests,
    make_batches,
    open_images,
    read_complete_lines,
)
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.images import ImageError, ImageInput, open_image
from monkeylib.model.answers import Answer
from monkeylib.monkey import Monkey
from monkeylib.profiles import Profile
from monkeylib.progress import Progress
from monkeylib.prompts import PROMPTS
from monkeylib.raised_monkey import RaisedMonkey

MAX_FAILED_SHARE = 0.1  # of the questions of a benchmark
_MIN_LIMIT = 10  # failures that are accepted of any number of questions, unless there is nothing else
_MAX_MESSAGE = 200  # characters of a model's message that are recorded

AnswerFunction = Callable[[Sequence[Example]], Sequence[str | Answer]]


class PredictionRun(NamedTuple):
    """Result of a call of `predict`.

    Attributes:
        path: the predictions file.
        generated: answers that the model gave in this call, in all processes together.
        cached: answers and settled failures that were in the file before.
        failed: examples without an answer.
        changed: predictions that were replaced, because their image, question or prompt has changed.
        others: predictions in the file that are about none of the examples.
        repaired: whether the file, or a part of it, ended in an incomplete line, as a kill leaves it.
    """

    path: Path
    generated: int
    cached: int
    failed: int = 0
    changed: int = 0
    others: int = 0
    repaired: bool = False


# --- failures ---------------------------------------------------------------------------------------------


class TooManyFailures(ValueError):
    """More questions failed than a run accepts."""


@dataclass(frozen=True)
class FailureLimit:
    """Number of failures from which a run stops.

    Attributes:
        questions: number of questions.
        share: share of them that may fail; ten failures are accepted in any case.
    """

    questions: int
    share: float = MAX_FAILED_SHARE

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"the share of questions that may fail is from 0 to 1, got {self.share}")

    def is_exceeded(self, failures: int) -> bool:
        """Return whether a run with so many failures stops."""
        return failures > max(_MIN_LIMIT, self.share * self.questions)

    def check(self, failures: int, path: Path, example: str) -> None:
        """Raise an error if there are too many failures, or nothing else.

        Args:
            failures: number of failures.
            path: the file in which they are recorded.
            example: one of them, for the message.

        Raises:
            TooManyFailures: there are.
        """
        if failures < self.questions and not self.is_exceeded(failures):
            return

        location = resources.display_path(path)
        advice = "replace the images and run it again, or repeat the questions with --retry-failed"

        if failures >= self.questions:
            raise TooManyFailures(
                f"none of the {self.questions} questions of {location} could be answered, such as {example}: "
                f"{advice}"
            )

        raise TooManyFailures(
            f"{failures} of the {self.questions} questions of {location} could not be answered, such as "
            f"{example}, and {100 * self.share:g} % may fail: {advice}, or allow more with --max-failed"
        )


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
    retry_failed: bool = False,
    max_failed: float = MAX_FAILED_SHARE,
    file_digests: FileDigests | None = None,
    own_parts: Collection[str] | None = None,
    context: DistributedContext | None = None,
) -> PredictionRun:
    """Answer examples and append each batch to a JSONL file, resuming where an earlier call stopped.

    Batches depend on the examples alone, so an interrupted run ends with the same file as an uninterrupted
    one. A line that was cut off by a kill is predicted again. Several processes divide the batches: each
    appends to a part file beside `path`, on a file system that they share, and the main process merges the
    parts. The file is then the same, byte for byte, and a run may be resumed by another number of processes.

    An example that can't be answered, as its image is broken, is recorded as a failure (`Prediction.error`).

    Args:
        model: a Monkey, or any function from a batch of examples to their answers. An attribute `name` of
            the function identifies it, `templates` has the texts of its prompts by their names, and
            `prepare_image` makes of an image what it takes in its place, while another batch is answered.
        examples: with unique ids.
        path: the predictions file.
        batch_size: examples answered at once.
        max_new_tokens: maximum length of an answer; only for a Monkey.
        progress: report progress on standard error, in the main process.
        name: identifies the model and is stored with each prediction; by default a Monkey's fingerprint of
            weights and settings.
        stale: whether predictions of another model are an error or replaced; with "replace", predictions of
            other examples go as well, else they are retained.
        retry_failed: answer examples again whose failure is recorded.
        max_failed: share of the examples that may fail, 0 to 1; ten may in any case.
        file_digests: digests of image files from earlier calls.
        own_parts: names of the part files that may be merged and removed, such as those in the record of a
            run; by default all with the name of a part of this file.
        context: the processes that divide the work; by default those that this one was started with.

    Raises:
        ValueError: no examples, ids that repeat, or a stale file.
        TooManyFailures: more examples failed than may, or all of them.
    """
    _check_ids(examples)
    limit = FailureLimit(len(examples), max_failed)

    answer = answer_function(model, max_new_tokens)
    model_name = getattr(answer, "name", "") if name is None else name

    file = _PredictionsFile(Path(path), own_parts)
    batches = make_batches(examples, batch_size)
    ordered_ids = [example.id for batch in batches for example in batch]
    context = context or distributed.join_processes()

    # One process reads the images; all have to know what an answer on disk is about.
    file_digests = FileDigests() if file_digests is None else file_digests
    digests: dict[str, str] = {}
    if context.is_main:
        digests = image_digests(examples, file_digests, progress)
    digests = context.broadcast(digests)

    # Clean up after an interrupted run. No process changes a file before all have read it.
    templates = _templates(answer, examples)
    state = file.read_state(examples, digests, templates, model_name, stale, retry_failed)
    context.barrier()
    if context.is_main:
        file.consolidate(ordered_ids, state.cached, state.others)
    context.barrier()

    # A batch with a missing answer is answered in full, as in an uninterrupted run, but for settled failures.
    pending = [batch for batch in batches if any(example.id not in state.cached for example in batch)]
    settled = {id for id, prediction in state.cached.items() if prediction.error}
    _answer_batches(
        answer,
        [[example for example in batch if example.id not in settled] for batch in context.shard(pending)],
        file.local_path(context),
        model_name=model_name,
        cached=state.cached,
        templates=templates,
        digests=digests,
        file_digests=file_digests,
        limit=limit,
        progress=progress and context.is_main,
    )

    context.barrier()
    failed: list[Prediction] = []
    if context.is_main:
        # In the order of the batches, whichever process wrote them.
        predictions = {prediction.id: prediction for prediction in file.read()[0]}
        file.consolidate(ordered_ids, predictions, state.others)
        failed = [predictions[id] for id in ordered_ids if id in predictions and predictions[id].error]

    # After the file is complete: also the answers of a run that stops here are retained.
    num_failed, example = context.broadcast((len(failed), _describe_failure(failed)))
    limit.check(num_failed, file.path, example)

    return PredictionRun(
        file.path,
        generated=sum(example.id not in settled for batch in pending for example in batch),
        cached=len(state.cached),
        failed=num_failed,
        changed=state.changed,
        others=len(state.others),
        repaired=state.is_torn,
    )


def answer_function(model: Monkey | AnswerFunction, max_new_tokens: int) -> AnswerFunction:
    """Return what answers batches of examples; a Monkey encodes each image once."""
    if isinstance(model, RaisedMonkey):
        return EncodingSharingRaised(model, max_new_tokens)
    return PrefixSharingMonkey(model, max_new_tokens) if isinstance(model, Monkey) else model


def _check_ids(examples: Sequence[Example]) -> None:
    """Raise an error if there are no examples, or if two have the same id."""
    if not examples:
        raise ValueError("There is nothing to predict: got no examples.")

    # Answers are stored by id, so a second example of the same id would be lost.
    id, count = Counter(example.id for example in examples).most_common(1)[0]
    if count > 1:
        raise ValueError(f"Ids of examples must be unique: {id!r} repeats.")


def _templates(answer: AnswerFunction, examples: Sequence[Example]) -> dict[str, str]:
    """Return the text of each prompt that the examples carry, by its name."""
    prompts = {example.prompt for example in examples}

    # As the model reads them.
    if hasattr(answer, "templates"):
        for prompt in prompts - answer.templates.keys():
            choose("prompt", prompt, answer.templates)
        return {prompt: answer.templates[prompt] for prompt in prompts}

    # Other functions may have prompts of their own.
    return {prompt: PROMPTS[prompt].text if prompt in PROMPTS else prompt for prompt in prompts}


def _describe_failure(failed: Sequence[Prediction]) -> str:
    """Return the first failure in words, empty without one."""
    return f"{failed[0].id} ({failed[0].error})" if failed else ""


def _answer_batches(
    answer: AnswerFunction,
    batches: Sequence[Sequence[Example]],
    path: Path,
    *,
    model_name: str,
    cached: Mapping[str, Prediction],
    templates: Mapping[str, str],
    digests: Mapping[str, str],
    file_digests: FileDigests,
    limit: FailureLimit,
    progress: bool,
) -> None:
    """Append the predictions that are not cached; each batch is on disk before the next one begins.

    It ends early where the limit of failures is exceeded.
    """
    if not batches:
        return

    num_failed = sum(bool(prediction.error) for prediction in cached.values())
    total = sum(map(len, batches))
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("ab"))
        bars = stack.enter_context(Progress("questions")) if progress else None
        if bars:
            bars.add_task(path.stem, total)

        prepare = getattr(answer, "prepare_image", open_image)
        for batch, images in _open_ahead(batches, file_digests, prepare):
            # Too many even if all the others have an answer.
            if limit.is_exceeded(num_failed):
                break

            for prediction in _answer_batch(answer, batch, images, model_name, templates, digests):
                # Answers that are on disk already were generated in the same batch, and are the same.
                if prediction.id not in cached:
                    file.write(prediction.to_line())
                    num_failed += bool(prediction.error)

            # On disk before the next batch: a kill loses one batch at most.
            file.flush()
            os.fsync(file.fileno())
            if bars:
                bars.advance(path.stem, len(batch))


def _open_ahead(
    batches: Sequence[Sequence[Example]], file_digests: FileDigests, prepare: Callable[[ImageInput], Any]
) -> Iterator[tuple[Sequence[Example], OpenedImages]]:
    """Yield batches with their images, those of the next one being opened and prepared while one is
    answered."""
    images = open_images(batches[0], file_digests, prepare)
    with ThreadPoolExecutor(1, thread_name_prefix="images") as pool:
        for batch, following in itertools.zip_longest(batches, batches[1:]):
            ahead = None
            if following is not None:
                ahead = pool.submit(open_images, following, file_digests, prepare)
            yield batch, images
            if ahead is not None:
                images = ahead.result()


def _answer_batch(
    answer: AnswerFunction,
    batch: Sequence[Example],
    images: OpenedImages,
    model_name: str,
    templates: Mapping[str, str],
    digests: Mapping[str, str],
) -> list[Prediction]:
    """Return the predictions for a batch; examples that can't be answered are failures.

    Args:
        images: of the batch, opened before, so that a broken one doesn't keep the others from an answer.
    """
    answers: dict[str, str | Answer] = {}
    errors = images.errors

    # Documents are asked page by page.
    documents = [example for example in images.examples if example.is_document]
    single_images = [example for example in images.examples if not example.is_document]
    for function, examples in (answer, single_images), (partial(answer_documents, answer), documents):
        if examples:
            answers_of_kind, refused = _answer_readable(function, examples)
            answers |= answers_of_kind
            errors = errors | refused

    return [
        Prediction.from_example(
            example,
            answers.get(example.id, ""),
            model_name,
            # A file may have changed since the run began.
            image_digest=images.file_digests.get(example.image_key, digests[example.image_key]),
            template=templates[example.prompt],
            error=errors.get(example.id, ""),
        )
        for example in batch
    ]


def _answer_readable(
    answer: AnswerFunction, batch: Sequence[Example]
) -> tuple[dict[str, str | Answer], dict[str, str]]:
    """Return answers by id, and by id what the model said about examples that it refused.

    A model may refuse an image that is far too wide, or an empty question.
    """
    try:
        texts = answer(batch)
        refused: dict[str, str] = {}
    except ValueError as error:
        # One after the other, to tell which.
        refused = {}
        for example in batch:
            try:
                answer([example])
            except ValueError as error_of_example:
                refused[example.id] = _describe_refusal(error_of_example)

        if not refused:  # the batch itself was wrong, not an example
            raise error

        # The others in one batch, as in a call that knows about the refused ones.
        batch = [example for example in batch if example.id not in refused]
        texts = answer(batch) if batch else []

    ids = [example.id for example in batch]
    return dict(zip(ids, texts, strict=True)), refused


def _describe_refusal(error: ValueError) -> str:
    """Return why an example was refused, on one line: by the model, or since a page can't be read."""
    if isinstance(error, ImageError):
        return f"image: {error.code}"
    return f"refused: {' '.join(str(error).split())}"[:_MAX_MESSAGE]


@dataclass
class _FileState:
    """What a predictions file and its parts hold.

    Attributes:
        cached: predictions for the present examples, by id.
        others: predictions for other examples, by id.
        changed: number of examples whose predictions are about another image, question or prompt.
        is_torn: whether a file ended in an incomplete line.
    """

    cached: dict[str, Prediction] = field(default_factory=dict)
    others: dict[str, Prediction] = field(default_factory=dict)
    changed: int = 0
    is_torn: bool = False


def part_name(name: str, rank: int) -> str:
    """Return the name of the part of a predictions file that a process writes."""
    return f"{name}.part{rank}"


class _PredictionsFile:
    """A predictions file, and the part files beside it that several processes write."""

    def __init__(self, path: Path, own_parts: Collection[str] | None = None) -> None:
        self.path = path
        self._own_parts = own_parts

    def local_path(self, context: DistributedContext) -> Path:
        """Return the file that this process appends to."""
        if context.world_size == 1:
            return self.path
        return self.path.with_name(part_name(self.path.name, context.rank))

    def parts(self) -> list[Path]:
        """Return the part files that exist, whatever number of processes wrote them."""
        folder = self.path.parent
        if not folder.is_dir():
            return []

        # Exactly their names: a file such as `textvqa.jsonl.partial` is somebody else's.
        part = re.compile(re.escape(self.path.name) + r"\.part[0-9]+")
        parts = sorted(path for path in folder.iterdir() if part.fullmatch(path.name))
        return [path for path in parts if self._own_parts is None or path.name in self._own_parts]

    def read(self) -> tuple[list[Prediction], bool]:
        """Return the predictions of the file and its parts, and whether one of them ended incompletely.

        The predictions of the parts come last: they are newer.
        """
        predictions: list[Prediction] = []
        is_torn = False
        for path in (self.path, *self.parts()):
            if path.exists():
                rows, is_torn_file = read_complete_lines(path)
                predictions += rows
                is_torn = is_torn or is_torn_file

        return predictions, is_torn

    def read_state(
        self,
        examples: Sequence[Example],
        digests: Mapping[str, str],
        templates: Mapping[str, str],
        model_name: str,
        stale: Literal["error", "replace"],
        retry_failed: bool,
    ) -> _FileState:
        """Return what the file holds of earlier runs; nothing if it is stale and to be replaced.

        Args:
            examples: the present examples.
            digests: digest of each image, by `Example.image_key`.
            templates: text of each prompt, by name.
            model_name: name of the present model.
            stale: what to do with predictions of another model.
            retry_failed: leave out failures.

        Raises:
            ValueError: a prediction of another model.
        """
        predictions, is_torn = self.read()
        by_id = {example.id: example for example in examples}
        state = _FileState(is_torn=is_torn)
        outdated: set[str] = set()

        for prediction in predictions:
            if prediction.model != model_name:
                if stale == "replace":
                    return _FileState(is_torn=is_torn)
                raise ValueError(
                    f"{self.path} holds predictions of another model or of other settings of it, such as "
                    f'{prediction.id!r}: choose another file, or start anew with stale="replace" (on the '
                    "command line, --fresh)."
                )

            example = by_id.get(prediction.id)
            if example is None:
                if stale == "error":
                    state.others[prediction.id] = prediction
                continue

            digest, template = digests[example.image_key], templates[example.prompt]
            if not prediction.answers_example(example, digest, template):
                outdated.add(prediction.id)
            elif not (retry_failed and prediction.error):
                state.cached[prediction.id] = prediction.with_example(example)

        # A kill may have left both the old and the new prediction.
        state.changed = len(outdated - state.cached.keys())
        return state

    def consolidate(
        self,
        ordered_ids: Sequence[str],
        predictions: Mapping[str, Prediction],
        others: Mapping[str, Prediction],
    ) -> None:
        """Write the predictions as one file in the order of the ids, others after them, and remove the parts.

        Where there are others, and nothing is missing, the file stays as it is.
        """
        # Examples without an answer yet are left out.
        lines = [predictions[id].to_line() for id in ordered_ids if id in predictions]
        lines += [prediction.to_line() for prediction in others.values()]
        content = b"".join(lines)
        existing = self.path.read_bytes() if self.path.exists() else b""

        has_all = bool(others) and sorted(existing.splitlines(keepends=True)) == sorted(lines)

        # The parts go last: if this is interrupted, their predictions are read again.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if content != existing and not has_all:
            with resources.atomic_write(self.path, durable=True) as temporary:
                temporary.write_bytes(content)

        for part in self.parts():
            part.unlink()


# --- predictions of the synthetic benchmarks --------------------------------------------------------------


def predict_synthetic(
    profile: Profile,
    checkpoint: str | Path,
    folder: str | Path,
    counts: Mapping[str, int],
    progress: bool = False,
) -> dict[str, PredictionRun]:
    """Answer the synthetic benchmarks with a checkpoint, one predictions file each.

    Answers on disk are not generated again; those of another checkpoint are replaced.

    Args:
        profile: sets batch size, length of answers, and the rendering of the images.
        checkpoint: folder of the model.
        folder: folder of the predictions.
        counts: examples of each split (`fine`, `large`, `general`, `caption`).

    Returns:
        The run of each benchmark by its name.
    """
    folder = resources.to_path(folder)
    monkey = inference.load_model(checkpoint)

    runs = {}
    for split, count in counts.items():
        benchmark = benchmarks.get(benchmarks.synthetic_name(split, profile.rendering))
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
