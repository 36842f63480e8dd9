"""Examples of a benchmark, read from the official files of its dataset or from the released ones."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monkeylib.data.dataset_cards import DatasetCard
from monkeylib.data.json_rows import number_as_text, read_json_or_jsonl
from monkeylib.data.layouts import LAYOUTS, QARecord, checked, read_json, require_files
from monkeylib.digests import text_digest
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.metrics import registry
from monkeylib.image_sources import split_page

_HINT = "the folder of all downloads is set by MONKEYLIB_DATA"
_RELEASED_HOME = f"https://github.com/Yuliang-Liu/Monkey, section Evaluate ({_HINT})"


def official_examples(
    card: DatasetCard, folder: Path, prompt: str, limit: int | None = None
) -> list[Example]:
    """Read the test part of a dataset, always in the same order.

    Images are ordered by a hash of their names, so that the first few are a fair sample. In a benchmark of
    several tasks, the tasks take turns, and either all questions of an image are used or none. If the answers
    of the split aren't published, the examples have none.

    Args:
        card: the dataset, with the test part to read.
        folder: folder of the official download.
        prompt: name of the prompt.
        limit: maximum number of questions; None for all.

    Raises:
        FileNotFoundError: a file, or the image of a question, is missing.
        ValueError: another layout, answers to some of the questions only, or a limit that leaves out a task.
    """
    part = card.test
    name = card.name
    home = f"{card.home} ({_HINT})"

    # Images may lie in the folder itself.
    required = [*part.files, part.images] if part.images else part.files
    require_files(name, folder, required, home)

    reader = LAYOUTS[card.layout](folder, *part.files, **part.options)
    records = list(checked(reader, name, part.files, card.home))
    usable = [record for record in records if record.answers]

    # Fields of DUE's documents without a plain text are left out. The answers of other test splits may not be
    # published: their questions are answered, but not scored.
    if card.layout != "due" and not usable:
        usable = records

    if card.layout != "due" and len(usable) < len(records):
        unanswered = [record.id for record in records if not record.answers]
        raise ValueError(
            f"{name} has no answer to {len(unanswered)} of its {len(records)} questions, such as "
            f"{unanswered[0]}: its files are incomplete; get them from {home}"
        )

    if not usable:
        raise ValueError(f"{name} has no questions in {folder}: get its files from {home}")

    selected = _select(usable, registry.get(part.metrics[0]).stratum, limit)
    examples = [
        Example(
            id=record.id,
            image=folder / part.images / record.image,
            question=record.full_question,
            answers=record.answers,
            prompt=prompt,
            image_id=f"{name}/{record.image}",
            # "frequent" is for training only; empty entries say nothing.
            meta={key: value for key, value in record.meta.items() if key != "frequent" and value != ""},
            pages=tuple(folder / part.images / page for page in record.pages),
        )
        for record in selected
    ]

    # All of them, before a model spends hours on the first ones.
    require_images(name, [example.image for example in examples], f"get them from {home}")
    return examples


def _select(records: list[QARecord], stratum: str | None, limit: int | None) -> list[QARecord]:
    """Return the first `limit` records in the order of their images' hashes, the strata in turns."""
    by_image: dict[str, list[QARecord]] = {}
    for record in records:
        by_image.setdefault(record.image, []).append(record)

    # A hash mixes images whose names are sorted by topic, and is the same on every machine.
    groups = sorted(by_image.values(), key=lambda group: text_digest(group[0].name or group[0].image))

    if stratum is None:
        return [record for group in groups for record in group][:limit]
    return _select_in_turns(groups, stratum, limit)


def _select_in_turns(groups: list[list[QARecord]], stratum: str, limit: int | None) -> list[QARecord]:
    """Take a group of each stratum in turn, as long as the next group fits into the limit."""
    # Number each group within its task; sorted by that number, the tasks take turns.
    counts: dict[str, int] = {}
    turns: list[tuple[int, str, list[QARecord]]] = []
    for group in groups:
        task = group[0].meta[stratum]
        counts[task] = counts.get(task, 0) + 1
        turns.append((counts[task], task, group))

    selected: list[QARecord] = []
    for turn, _, group in sorted(turns, key=lambda entry: entry[:2]):
        if limit is None or len(selected) + len(group) <= limit:
            selected += group
        # Every task has at least one group, so the limit may end here.
        elif turn > 1:
            break
        else:  # a task would have no question at all
            least = sum(len(group) for turn, _, group in turns if turn == 1)
            raise ValueError(
                f"A limit of {limit} questions leaves out some of {len(counts)} tasks, whose scores are "
                f"added: ask {least} at least."
            )

    return selected


def released_examples(
    card: DatasetCard, folder: Path, prompt: str, limit: int | None = None
) -> list[Example]:
    """Read the file of the released evaluation: JSON lines, with the answers of VQA in a second file.

    A line is `{"image": "data/estvqa/test_image/0.jpg", "question": ..., "answer": ..., "question_id": 0}`.
    Its image is named from the folder in which the released folder `data` lies, and `answer` is a text or a
    list of texts. Datasets with the VQA score have ten people's answers in a file of COCO's layout.

    Args:
        card: a dataset that the released evaluation covers.
        folder: folder in which the released folder `data` lies.
        prompt: name of the prompt.
        limit: maximum number of lines; None for all.

    Raises:
        FileNotFoundError: a file or an image is missing.
        ValueError: a line lacks a field or an answer.
    """
    released = card.test.released
    annotations = [released.annotations] if released.annotations else []
    require_files(f"released-{card.name}", folder, [released.file, *annotations], _RELEASED_HOME)

    file = folder / released.file
    rows = list(read_json_or_jsonl(file))
    if not rows:
        raise ValueError(f"{file} is empty: get it from {_RELEASED_HOME}")
    answers = _annotated_answers(folder / released.annotations) if released.annotations else None

    # Some of the released files repeat ids: then the number of the line makes them unique.
    ids = [str(row.get("question_id")) if isinstance(row, dict) else "None" for _, row in rows]
    ids_repeat = len(set(ids)) < len(ids)

    examples = []
    for number, ((location, row), id) in enumerate(zip(rows[:limit], ids, strict=False), 1):
        answers_of_row = _released_answers(row, answers, location)
        image = _text_field(row, "image", location)
        examples.append(
            Example(
                id=f"{id}-{number}" if ids_repeat else id,
                image=folder / image,
                question=_text_field(row, "question", location),
                answers=answers_of_row,
                prompt=prompt,
                image_id=f"{card.name}/{image}",
            )
        )

    images = [example.image for example in examples]
    require_images(f"released-{card.name}", images, f"get them from {_RELEASED_HOME}")
    return examples


def _annotated_answers(file: Path) -> dict[str, tuple[str, ...]]:
    """Return the answers of all people by question id."""
    try:
        return {
            str(row["question_id"]): tuple(answer["answer"] for answer in row["answers"])
            for row in read_json(file, "annotations")
        }
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file} isn't laid out as VQA annotations ({error}): get it from {_RELEASED_HOME}"
        ) from error


def _text_field(row: Any, field: str, location: str) -> str:
    value = row.get(field) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{location}: expected a text in the field {field!r}, got {value!r:.60}")
    return value


def _released_answers(
    row: Any, annotated: Mapping[str, tuple[str, ...]] | None, location: str
) -> tuple[str, ...]:
    """Return the answers of a row, or those that the annotations hold for its question."""

    fields = row if isinstance(row, dict) else {}
    if annotated is not None:
        id = str(fields.get("question_id"))
        if id not in annotated:
            raise ValueError(f"{location}: the annotations have no question {id}")
        return annotated[id]

    value = fields.get("answer")

    # One text or number, or a list of them.
    values = value if isinstance(value, list) else [] if value is None else [value]
    answers = tuple(map(number_as_text, values))
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"{location}: expected an answer, a text or a list of texts, got {value!r:.60}")
    return answers


def require_images(name: str, files: Iterable[Path], remedy: str) -> None:
    """Check that all images exist.

    Raises:
        FileNotFoundError: some are missing; the message counts them, and ends with the remedy.
    """
    files = {split_page(file)[0] for file in files}
    missing = sorted(file for file in files if not file.is_file())
    if missing:
        raise FileNotFoundError(
            f"there is no file for {len(missing)} of the {len(files)} images of {name}, such as {missing[0]}"
            f": {remedy}"
        )
