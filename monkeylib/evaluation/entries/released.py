"""Examples from the files of the released evaluation: JSON lines, and VQA annotations beside them.

A row is `{"image": "data/estvqa/test_image/0.jpg", "question": ..., "answer": ..., "question_id": 0}`; its
image is named from the folder in which the release's `data` lies. `answer` is a text or a list of texts.
Files with the VQA score have ten people's answers in a second file, COCO's layout.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monkeylib.data.public.rows import lines, load, require
from monkeylib.evaluation.entries.official import FOLDER, images
from monkeylib.evaluation.entries.schema import Entry
from monkeylib.evaluation.examples import Example

HOME = f"https://github.com/Yuliang-Liu/Monkey, section Evaluate ({FOLDER})"


def examples(entry: Entry, folder: Path, prompt: str, limit: int | None = None) -> list[Example]:
    """What the released file asks, the first `limit` rows.

    Args:
        entry: a benchmark that the release has code for.
        folder: where the release's folder `data` lies.
        prompt: name of the prompt.
        limit: rows at most; None for all.

    Raises:
        FileNotFoundError: a file or an image isn't there.
        ValueError: a row lacks a field, or an answer.
    """
    source = entry.released
    files = [source.file, *([source.annotations] if source.annotations else [])]
    require(f"released-{entry.name}", folder, files, HOME)
    rows = list(lines(folder / source.file))
    if not rows:
        raise ValueError(f"{folder / source.file} is empty: get it from {HOME}")
    answers = _annotated(folder / source.annotations) if source.annotations else {}
    ids = [row.get("question_id") if isinstance(row, dict) else None for row in rows]
    numbered = len(set(map(str, ids))) < len(ids)
    found = []
    for number, row in enumerate(rows[:limit], 1):
        place = f"line {number} of {folder / source.file}"
        id = f"{ids[number - 1]}-{number}" if numbered else str(ids[number - 1])
        given = _answers(row, answers if source.annotations else None, place)
        image = _text(row, "image", place)
        found.append(
            Example(
                id=id,
                image=folder / image,
                question=_text(row, "question", place),
                answers=given,
                prompt=prompt,
                image_id=f"{entry.name}/{image}",
            )
        )
    images(f"released-{entry.name}", [example.image for example in found], HOME)
    return found


def _annotated(file: Path) -> dict[str, tuple[str, ...]]:
    """Question id -> everyone's answers."""
    try:
        return {
            str(row["question_id"]): tuple(one["answer"] for one in row["answers"])
            for row in load(file, "annotations")
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} isn't laid out as VQA annotations ({error}): get it from {HOME}") from error


def _text(row: Any, field: str, place: str) -> str:
    value = row.get(field) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place}: expected a text in the field {field!r}, got {value!r:.60}")
    return value


def _answers(row: Any, annotated: Mapping[str, tuple[str, ...]] | None, place: str) -> tuple[str, ...]:
    """The answers of a row, or those that people gave to its question."""
    if annotated is not None:
        id = str(row.get("question_id") if isinstance(row, dict) else None)
        if id not in annotated:
            raise ValueError(f"{place}: the annotations have no question {id}")
        return annotated[id]
    value = row.get("answer") if isinstance(row, dict) else None
    listed = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not listed or not all(isinstance(answer, str) for answer in listed):
        raise ValueError(f"{place}: expected an answer, a text or a list of texts, got {value!r:.60}")
    return listed
