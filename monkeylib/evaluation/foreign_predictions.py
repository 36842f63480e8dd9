"""Predictions that any tool has written, read for scoring.

A file of JSON, JSON lines, CSV, TSV or parquet has a row for each question. Its fields may have the names
that common tools give them:

- the id: `question_id`, `questionId`, `id`, `index`, `doc_id`; `image` for VizWiz;
- the prediction: `prediction`, `pred`, `predicted_answer`, `model_answer`, `response`, `output`,
  `filtered_resps` and `resps` (lmms-eval), `text` (LLaVA), else `answer`;
- the accepted answers: `answers`, `ground_truth`, `gt`, `gt_answers`, `targets`, `target`, `references`,
  `reference`, `annotation` (the released code), `labels`, `label`, else `answer`.

Further fields are kept, and scores can be grouped by them. Files without answers, such as those for test
servers, are scored against the questions of a benchmark (`match`). Files of monkeylib are told by their
fields.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from monkeylib import resources
from monkeylib.data.json_rows import number_as_text
from monkeylib.data.readers import read_rows
from monkeylib.data.readers.base import split_list
from monkeylib.evaluation.benchmarks import Benchmark
from monkeylib.evaluation.examples import Example, Prediction, read_predictions
from monkeylib.evaluation.own_benchmarks import describing_fields
from monkeylib.progress import say

_ID_FIELDS = ("question_id", "questionId", "id", "index", "doc_id")
_PREDICTION_FIELDS = (
    "prediction", "pred", "predicted_answer", "model_answer", "response", "output", "filtered_resps", "resps",
    "text",
)  # fmt: skip
_ANSWER_FIELDS = (
    "answers", "ground_truth", "ground_truths", "gt", "gt_answer", "gt_answers", "targets", "target",
    "references", "reference", "annotation", "labels", "label",
)  # fmt: skip
# Of a row that monkeylib has written.
_OWN_FIELDS = {"id", "image", "question", "answers", "prompt", "prediction", "model", "meta"}
NO_PREDICTION = "no prediction"  # the error of a question that has none


def read_any_predictions(path: str | Path) -> list[Prediction]:
    """Read the predictions in a file, whichever tool has written it; their answers are empty if it has none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of predictions, a line is incomplete, or a question has two predictions.
    """
    path = resources.to_path(path)
    rows = read_rows(path)
    first_place, first_row = next(rows, ("", None))
    if not first_place:
        raise ValueError(f"there are no predictions in {resources.display_path(path)}: it is empty")
    if first_place.startswith("line") and _is_own(first_row):
        return _merge_repeated(read_predictions(path), path)

    predictions = []
    for number, (place, row) in enumerate(chain([(first_place, first_row)], rows), 1):
        if not isinstance(row, dict):
            raise ValueError(f"{place}: expected a prediction, an object with fields, got {row!r:.60}")
        predictions.append(_read_row(row, place, number))

    return _merge_repeated(predictions, path)


def match(predictions: Sequence[Prediction], benchmark: Benchmark, path: Path) -> list[Prediction]:
    """Return predictions for all questions of a benchmark, with its answers; what does not match is said.

    A question without a prediction counts as wrong, and predictions for no question are left out.

    Args:
        predictions: what `read_any_predictions` returns.
        benchmark: the benchmark.
        path: the file, for messages.

    Raises:
        ValueError: no prediction is for a question of the benchmark.
    """
    examples = benchmark.load(None)
    by_id = {prediction.id: prediction for prediction in predictions}
    keys = {example.id: example.id for example in examples}
    if not by_id.keys() & keys.values():
        # VizWiz has no ids of questions, but one question about each image.
        keys = {example.id: PurePosixPath(example.image_key).name for example in examples}

    missing = [example.id for example in examples if keys[example.id] not in by_id]
    unknown = sorted(by_id.keys() - set(keys.values()))
    if len(missing) == len(examples):
        raise ValueError(
            f"no prediction of {resources.display_path(path)} is for a question of {benchmark.name}: its ids "
            f"are such as {unknown[0]!r}, those of the questions such as {examples[0].id!r}"
        )

    if missing:
        say(
            f"{path.name}: {len(missing)} of the {len(examples)} questions of {benchmark.name} have no "
            f"prediction and count as wrong, such as {missing[0]}"
        )
    if unknown:
        say(
            f"{path.name}: {len(unknown)} predictions are for no question of {benchmark.name} and are left "
            f"out, such as {unknown[0]}"
        )
    return [_match_example(example, by_id.get(keys[example.id])) for example in examples]


def _match_example(example: Example, prediction: Prediction | None) -> Prediction:
    if prediction is None:
        return Prediction.from_example(example, "", "", error=NO_PREDICTION)
    return Prediction.from_example(example, prediction.prediction, prediction.model, error=prediction.error)


def _is_own(row: Any) -> bool:
    """Return whether a row was written by monkeylib: other tools may have fields of the same names."""
    return isinstance(row, dict) and row.keys() >= _OWN_FIELDS and isinstance(row["id"], str)


def _read_row(row: Mapping[str, Any], place: str, number: int) -> Prediction:
    """Read a row of another tool.

    Raises:
        ValueError: it has no prediction, or something else than a text in its place.
    """
    prediction_field = next((field for field in _PREDICTION_FIELDS if field in row), None)
    answer_field = next((field for field in _ANSWER_FIELDS if row.get(field) is not None), None)
    # The one that is left.
    if "answer" in row and prediction_field is None:
        prediction_field = "answer"
    elif "answer" in row and answer_field is None:
        answer_field = "answer"

    if prediction_field is None:
        raise ValueError(
            f"{place} has no prediction: expected a field such as prediction, response or answer, got "
            f"{', '.join(map(str, row)) or 'none'}"
        )

    id_field = next((field for field in (*_ID_FIELDS, "image") if row.get(field) is not None), None)
    id = str(number) if id_field is None else str(row[id_field])
    image = row.get("image", row.get("image_id"))
    question = row.get("question")
    used = [field for field in (prediction_field, answer_field, id_field) if field]

    return Prediction(
        id=id,
        image=str(image) if isinstance(image, str | int) else id,
        question=question if isinstance(question, str) else "",
        answers=[] if answer_field is None else list(_read_answers(row[answer_field], answer_field, place)),
        prompt="",
        prediction=_read_prediction(row[prediction_field], prediction_field, place),
        model=str(row.get("model", row.get("model_id", ""))),
        meta=describing_fields(row, [*used, "image_id", "model", "model_id", "answer_id"]),
    )


def _read_prediction(value: Any, field: str, place: str) -> str:
    """Return a prediction as a text; nothing is an empty one."""
    if value is None:
        return ""
    # lmms-eval has a list for each filter, here of one.
    if isinstance(value, list) and len(value) == 1:
        return _read_prediction(value[0], field, place)

    text = str(value).lower() if isinstance(value, bool) else number_as_text(value)
    if not isinstance(text, str):
        raise ValueError(f"{place}, field {field}: expected a text, got {value!r:.60}")
    return text


def _read_answers(value: Any, field: str, place: str) -> tuple[str, ...]:
    """Return accepted answers: one, a list, or objects with an `answer` as in the annotations of VQA."""
    values = value if isinstance(value, list) else [value]
    values = [entry.get("answer") if isinstance(entry, dict) else entry for entry in values]
    # Nothing is no answer: empty predictions would be right.
    texts = tuple(_read_prediction(entry, field, place) for entry in values if entry is not None)
    return split_list(texts)


def _merge_repeated(predictions: Sequence[Prediction], path: Path) -> list[Prediction]:
    """Return each prediction once. Where a run was killed, the newer one of monkeylib's own counts.

    Raises:
        ValueError: a question has two different predictions of another tool, or two questions have one id.
    """
    by_id: dict[str, Prediction] = {}
    repeated: list[str] = []
    for prediction in predictions:
        earlier = by_id.get(prediction.id)
        if earlier is not None:
            repeated.append(prediction.id)
            is_own = bool(prediction.prompt)
            if not is_own and earlier.prediction != prediction.prediction:
                raise ValueError(
                    f"question {prediction.id} has two predictions in {resources.display_path(path)}, "
                    f"{earlier.prediction!r:.40} and {prediction.prediction!r:.40}: leave one of them out"
                )
            if not is_own and _question_of(earlier) != _question_of(prediction):
                raise ValueError(
                    f"two questions have the id {prediction.id} in {resources.display_path(path)}: give each "
                    "an id of its own, such as a question_id"
                )
        by_id[prediction.id] = prediction

    if repeated:
        say(f"{path.name}: {len(repeated)} predictions are repeated and count once, such as {repeated[0]}")
    return list(by_id.values())


def _question_of(prediction: Prediction) -> tuple[str, str, list[str]]:
    return prediction.image, prediction.question, prediction.answers
