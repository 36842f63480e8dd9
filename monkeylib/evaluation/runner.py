"""From examples to predictions on disk: batched, resumable, apart from scoring (`scoring`)."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from monkeylib.evaluation.examples import Example, Prediction, batches, whole_lines
from monkeylib.evaluation.shared import SharedEncoding, identity
from monkeylib.inference import Monkey

Answerer = Callable[[Sequence[Example]], list[str]]


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
) -> Path:
    """Answer examples and append each batch to a JSONL file; called again, go on where the last call stopped.

    Batches depend on the examples alone, so an interrupted run ends with the same file as one that wasn't. A
    line that was cut off by a kill is removed first.

    Args:
        model: a Monkey, or any function from a batch of examples to their answers.
        examples: with unique ids.
        path: the predictions file.
        batch_size: examples answered at once.
        max_new_tokens: length of an answer at most; only for a Monkey.
        progress: show a progress bar.
        name: what tells this model from another, stored with each prediction; for a Monkey, a fingerprint of
            its weights and settings if not given.
        stale: what to do with a file that another model or other questions left: refuse, or start anew.

    Returns:
        `path`.

    Raises:
        ValueError: no examples, ids that repeat, or a stale file.
    """
    path, ids = Path(path), [example.id for example in examples]
    if not ids:
        raise ValueError("There is nothing to predict: got no examples.")
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"Ids of examples must be unique: {next(i for i in ids if ids.count(i) > 1)!r} repeats."
        )
    answer = SharedEncoding(model, max_new_tokens) if isinstance(model, Monkey) else model
    if name is None:
        name = identity(model, max_new_tokens) if isinstance(model, Monkey) else ""
    done = _resume(path, examples, name, stale)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("ab") as file,
        tqdm(total=len(ids), initial=len(done), desc=path.stem, disable=not progress) as bar,
    ):
        for batch in batches(examples, batch_size):
            missing = [example.id not in done for example in batch]
            if any(missing):
                answers = answer(batch)  # the whole batch, as in a run that wasn't interrupted
                rows = zip(batch, answers, missing, strict=True)
                file.write(b"".join(Prediction.of(e, text, name).line for e, text, wanted in rows if wanted))
                file.flush()
                os.fsync(file.fileno())
                bar.update(sum(missing))
    return path


def _resume(path: Path, examples: Sequence[Example], name: str, stale: str) -> set[str]:
    """Ids that are done already; the file is cut back to its whole lines, or removed if it is stale."""
    if not path.exists():
        return set()
    predictions, length = whole_lines(path)
    asked = {example.id: example for example in examples}
    for prediction in predictions:
        example = asked.get(prediction.id)
        if example is None or prediction != Prediction.of(example, prediction.prediction, name):
            if stale == "replace":
                path.unlink()
                return set()
            raise ValueError(
                f"{path} holds predictions of another model or other questions, such as {prediction.id!r}: "
                'choose another file, or start anew with stale="replace".'
            )
    os.truncate(path, length)
    return {prediction.id for prediction in predictions}
