"""From examples to predictions on disk: batched, resumable, by one process or many, apart from scoring
(`scoring`)."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from monkeylib import inference, resources
from monkeylib.evaluation import benchmarks, distributed, error_gallery, results
from monkeylib.evaluation.benchmarks import Benchmark
from monkeylib.evaluation.distributed import Processes
from monkeylib.evaluation.examples import Example, Prediction, batches, whole_lines
from monkeylib.evaluation.hf_models import ChatModel
from monkeylib.evaluation.prefix_sharing import SharedEncoding, identity
from monkeylib.inference import Monkey
from monkeylib.profiles import Profile

Answerer = Callable[[Sequence[Example]], list[str]]


class Answered(NamedTuple):
    """What a call of `predict` leaves.

    Attributes:
        path: the predictions file.
        asked: questions that the call asked, with all its processes.
        kept: answers that were in the file already.
    """

    path: Path
    asked: int
    kept: int


def predict(
    model: Monkey | Answerer,
    examples: Sequence[Example],
    path: Path | str,
    *,
    batch_size: int = 16,
    max_new_tokens: int = 64,
    progress: bool = True,
    name: str | None = None,
    stale: Literal["error", "replace"] = "error",
    workers: Processes | None = None,
) -> Answered:
    """Answer examples and append each batch to a JSONL file; called again, go on where the last call stopped.

    Batches depend on the examples alone, so an interrupted run ends with the same file as one that wasn't. A
    line that was cut off by a kill is asked again. Many processes divide the batches; each appends to a part
    file beside `path`, which they all have to see, and the first puts the parts together. The file is then
    the same, byte for byte, and a run may go on with another number of processes.

    Args:
        model: a Monkey, or any function from a batch of examples to their answers. With an attribute `name`,
            that tells it from others.
        examples: with unique ids.
        path: the predictions file.
        batch_size: examples answered at once.
        max_new_tokens: length of an answer at most; only for a Monkey.
        progress: show a progress bar (the first process does).
        name: what tells this model from another, stored with each prediction; for a Monkey, a fingerprint of
            its weights and settings if not given.
        stale: what to do with a file that another model or other questions left: refuse, or start anew.
        workers: the processes that answer; those that this one was started with if not given.

    Raises:
        ValueError: no examples, ids that repeat, or a stale file.
    """
    path, made = Path(path), batches(_checked(examples), batch_size)
    answer = SharedEncoding(model, max_new_tokens) if isinstance(model, Monkey) else model
    if name is None:
        name = identity(model, max_new_tokens) if isinstance(model, Monkey) else getattr(model, "name", "")
    workers = workers or distributed.join()
    order = [example.id for batch in made for example in batch]
    done = _kept(path, examples, name, stale)
    workers.wait()  # nobody changes a file before all have read it
    path.parent.mkdir(parents=True, exist_ok=True)
    if workers.first:
        _settle(path, order, done)
    workers.wait()
    missing = [batch for batch in made if any(example.id not in done for example in batch)]
    own = path if workers.count == 1 else _part(path, workers.rank)
    _answer(answer, workers.share(missing), own, name, done, progress and workers.first)
    workers.wait()
    if workers.first:
        _settle(path, order, {row.id: row for row in _read(path)})
    workers.wait()
    return Answered(path, sum(map(len, missing)), len(done))


def _checked(examples: Sequence[Example]) -> Sequence[Example]:
    """The examples, if they can be told apart."""
    if not examples:
        raise ValueError("There is nothing to predict: got no examples.")
    identifier, count = Counter(example.id for example in examples).most_common(1)[0]
    if count > 1:
        raise ValueError(f"Ids of examples must be unique: {identifier!r} repeats.")
    return examples


def _answer(
    answer: Answerer,
    mine: Sequence[Sequence[Example]],
    path: Path,
    name: str,
    done: Mapping[str, Prediction],
    progress: bool,
) -> None:
    """Append the answers of whole batches that aren't done; each batch is on disk before the next begins."""
    if not mine:
        return
    total = sum(map(len, mine))
    with path.open("ab") as file, tqdm(total=total, desc=path.stem, disable=not progress) as bar:
        for batch in mine:
            answers = answer(batch)  # the whole batch, as in a run that wasn't interrupted
            rows = zip(batch, answers, strict=True)
            file.write(b"".join(Prediction.of(e, text, name).line for e, text in rows if e.id not in done))
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(batch))


def _part(path: Path, rank: int) -> Path:
    """Where a process of several writes."""
    return path.with_name(f"{path.name}.part{rank}")


def _parts(path: Path) -> list[Path]:
    """The part files that there are, also of processes that no longer are."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.part*"))


def _read(path: Path) -> Iterable[Prediction]:
    """The predictions of the file and its parts, in no order."""
    for file in (path, *_parts(path)):
        if file.exists():
            yield from whole_lines(file)[0]


def _kept(path: Path, examples: Sequence[Example], name: str, stale: str) -> dict[str, Prediction]:
    """What is done already, by id; nothing if it is stale and to be replaced."""
    asked, kept = {example.id: example for example in examples}, {}
    for prediction in _read(path):
        example = asked.get(prediction.id)
        if example is None or prediction != Prediction.of(example, prediction.prediction, name):
            if stale == "replace":
                return {}
            raise ValueError(
                f"{path} holds predictions of another model or other questions, such as {prediction.id!r}: "
                'choose another file, or start anew with stale="replace" (on the command line, --fresh).'
            )
        kept[prediction.id] = prediction
    return kept


def _settle(path: Path, order: Sequence[str], rows: Mapping[str, Prediction]) -> None:
    """Leave one file of whole lines in the order of the batches, and no parts."""
    content = b"".join(rows[identifier].line for identifier in order if identifier in rows)
    if (path.read_bytes() if path.exists() else b"") != content:
        with resources.atomic_write(path) as temporary:
            temporary.write_bytes(content)
    for part in _parts(path):
        part.unlink()


def predict_synthetic(
    profile: Profile, model: Path, folder: Path, counts: dict[str, int], progress: bool = False
) -> dict[str, Answered]:
    """Predictions of a checkpoint, one JSONL file per benchmark; what is there already is not asked again.

    Args:
        model: folder of the checkpoint.
        folder: where the predictions go.
        counts: how many questions of each split (`fine`, `large`, `general`, `caption`).
    """
    monkey = inference.load_model(model)
    done = {}
    for split, count in counts.items():
        entry = benchmarks.get(f"nano-{split}")
        done[entry.name] = predict(
            monkey,
            entry.load(count),
            folder / f"{entry.name}.jsonl",
            batch_size=profile.evaluation.batch_size,
            max_new_tokens=min(entry.max_new_tokens, profile.evaluation.max_new_tokens),
            progress=progress,
            stale="replace",
        )
    return done


def run(
    model: Monkey | ChatModel,
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
    """Answer benchmarks, one predictions file each; what is there already isn't asked again.

    Args:
        model: what `others.load` gave.
        benchmarks: what to ask.
        folder: where the predictions go.
        model_name: what tables call the model.
        limit: questions of each benchmark at most.
        batch_size: questions answered at once.
        fresh: replace predictions of another model or other questions.
        gallery: answers in the error gallery of each benchmark; 0 for no galleries.
        progress: show progress bars.

    Returns:
        Whether this process is the one that goes on with the folder: the first of those that worked on it.

    Raises:
        ValueError: the folder holds other predictions and `fresh` isn't set.
    """
    workers = distributed.join()
    for benchmark in benchmarks:
        examples = benchmark.load(limit)
        length = benchmark.max_new_tokens
        answered = predict(
            model.limited(length) if isinstance(model, ChatModel) else model,
            examples,
            folder / f"{benchmark.name}.jsonl",
            batch_size=batch_size,
            max_new_tokens=length,
            progress=progress,
            stale="replace" if fresh else "error",
            workers=workers,
        )
        if workers.first and gallery:
            error_gallery.write_gallery(benchmark, answered.path, examples, gallery)
    if workers.first:
        results.write_model_name(folder, model_name)
    return workers.first
