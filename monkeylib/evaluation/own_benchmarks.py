"""A benchmark of one's own: a file of questions about images with answers, or a mixture's validation records.

The file may have any form that training reads (`monkeylib.data.readers`): JSON, JSON lines, CSV, TSV or
parquet with the fields `image`, `question`, `answer` or `answers`, perhaps `id` and others, or conversations:

    {"image": "a.png", "question": "how much is the juice?", "answers": ["1.86"], "shop": "corner"}

Images are named from the file's folder. Fields beside these are kept: scores can be grouped by them. Of a PDF
or TIFF file without the number of a page, all pages are read. Of a conversation, the first question is asked.
With a list `choices`, a question is a multiple choice, whose answer is one of them or its letter; it is
scored by `--metrics multiple_choice`, best with `--prompt choice`.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monkeylib import resources
from monkeylib.data.json_rows import number_as_text
from monkeylib.data.mixture import load_mixture
from monkeylib.data.readers import open_dataset
from monkeylib.data.readers.base import split_list, takes_question
from monkeylib.data.readers.tables import is_saved_folder
from monkeylib.data.records import BadRecord, Record
from monkeylib.data.schema import DatasetEntry
from monkeylib.errors import choose
from monkeylib.evaluation.benchmark_files import require_images
from monkeylib.evaluation.benchmarks import BENCHMARKS, Benchmark
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.metrics import registry
from monkeylib.image_sources import is_data_uri
from monkeylib.images import ImageError, list_pages
from monkeylib.messages import ImageSource
from monkeylib.prompts import PROMPTS
from monkeylib.redaction import redact

QUESTION_METRICS = ("anls", "exact_match")
CAPTION_METRICS = ("cider_d",)
PROMPT = "vqa"

_MAX_NEW_TOKENS = 100  # as the released code for documents, and enough for a caption
_MIXTURES = (".yaml", ".yml")
_DOCUMENTS = (".pdf", ".tif", ".tiff")
# Fields that are no description of a question.
_OWN_FIELDS = {
    "id", "question_id", "questionId", "key", "image", "images", "question", "answer", "answers",
    "conversations", "messages", "texts", "prompt", "completion", "system", "tools",
}  # fmt: skip


def is_own_data(path: str | Path) -> bool:
    """Return whether a path is that of a benchmark of one's own, and no folder of downloads."""
    path = resources.to_path(path)
    # A pipe is no folder either, and is refused when it is read.
    return (path.exists() and not path.is_dir()) or is_saved_folder(path)


def own_benchmark(path: str | Path, metrics: Sequence[str] = (), prompt: str = "") -> Benchmark:
    """Return the benchmark of a file, a folder that `datasets` has saved, or a mixture's validation records.

    Args:
        path: the file or folder; a mixture is a YAML file.
        metrics: names of metrics, the main one first; by default `anls` and `exact_match`, or `cider_d` with
            a prompt that takes no question.
        prompt: name of the prompt, by default `vqa`. Conversations of the released data hold their prompts.

    Raises:
        ValueError: there is no such prompt or metric.
    """
    path = resources.to_path(path)
    prompt = choose("prompt", prompt or PROMPT, PROMPTS)
    default_metrics = QUESTION_METRICS if takes_question(prompt) else CAPTION_METRICS
    names = tuple(registry.get(name).name for name in metrics or default_metrics)

    # The name of its files beside those of other benchmarks.
    name = re.sub(r"[^\w.-]+", "-", path.stem)
    if name in BENCHMARKS:
        name = f"own-{name}"

    def load(limit: int | None = None) -> list[Example]:
        return _load_examples(path, name, names, prompt, limit)

    return Benchmark(
        name=name,
        title=path.name,
        kind="general",
        load=load,
        metrics=names,
        max_new_tokens=_MAX_NEW_TOKENS,
        size=None,
        licence="",
        source=str(path),
        prompt=prompt,
        split="of the file",
        remark=f"the prompt is {prompt} ({PROMPTS[prompt].text!r}) and the metrics are {', '.join(names)}; "
        "--prompt and --metrics take others. Of a conversation, the first question counts",
    )


def _load_examples(
    path: Path, name: str, metrics: Sequence[str], prompt: str, limit: int | None
) -> list[Example]:
    """Read the first questions of a file, in its order; with a limit, what comes behind it is not read.

    Raises:
        FileNotFoundError: the file or an image is missing.
        ValueError: records that can't be used, no validation records, or questions that a metric can't score.
    """
    examples: list[Example] = []
    problems: list[str] = []
    for example in _read_examples(path, name, prompt, unique_ids=limit is None):
        if limit is not None and len(examples) == limit:
            break
        if isinstance(example, BadRecord):
            problems.append(str(example))
        else:
            examples.append(example)

    if problems:
        raise ValueError(
            f"{len(problems)} records of {resources.display_path(path)} cannot be used, such as {problems[0]}"
        )
    files = [example.image for example in examples if isinstance(example.image, Path)]
    require_images(name, files, f"put them there, or correct their names in {resources.display_path(path)}")
    _check_metrics(examples, metrics, name)
    return examples


def read_questions(path: str | Path, prompt: str = "") -> dict[str, str]:
    """Return the text of all questions of a file by their ids, also of those whose images are gone.

    Args:
        path: as for `own_benchmark`.
        prompt: as for `own_benchmark`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no records.
    """
    path = resources.to_path(path)
    examples = _read_examples(path, own_benchmark(path).name, prompt or PROMPT)
    return {example.id: example.question for example in examples if isinstance(example, Example)}


def _read_examples(
    path: Path, name: str, prompt: str, unique_ids: bool = False
) -> Iterator[Example | BadRecord]:
    """Yield the first question of each record of a file, or what is wrong with the record.

    Args:
        path: the file.
        name: name of the benchmark.
        prompt: name of the prompt.
        unique_ids: compare the ids of all records before the first is yielded, and not only as they come.
    """
    numbers: dict[str, int] = {}  # of examples with each id: in a mixture, ids may repeat
    is_mixture = path.suffix.lower() in _MIXTURES

    for record, fields in _read_records(path, name, prompt, unique_ids):
        if isinstance(record, BadRecord):
            yield record
            continue

        try:
            example = _to_example(record, fields, name, path)
        except BadRecord as error:
            yield error
            continue

        number = numbers[example.id] = numbers.get(example.id, 0) + 1
        if number == 1:
            yield example
        elif is_mixture:
            yield replace(example, id=f"{example.id}-{number}")
        else:
            yield BadRecord(f"{record.location}, field id: {example.id!r} is the id of another record, too")


def _read_records(
    path: Path, name: str, prompt: str, unique_ids: bool
) -> Iterator[tuple[Record | BadRecord, Mapping[str, Any]]]:
    """Yield the records of a file with all of their fields; those of a mixture have no others."""
    if path.suffix.lower() in _MIXTURES:
        validation = load_mixture(path).validation
        if validation is None:
            raise ValueError(f"the mixture {path.name} has no `validation`: evaluation needs its records")
        for number in range(len(validation)):
            yield _read(validation, number), {}
        return

    entry = DatasetEntry(
        name=name, path=path.name, prompt=prompt, min_images=1, max_images=1, unique_ids=unique_ids
    )
    records = open_dataset(entry, path.parent)
    for number in range(len(records)):
        record = _read(records, number)
        yield record, {} if isinstance(record, BadRecord) else records.fields(number)


def _read(records: Any, number: int) -> Record | BadRecord:
    try:
        return records[number]
    except BadRecord as error:
        return error


def _to_example(record: Record, fields: Mapping[str, Any], name: str, path: Path) -> Example:
    """Return the first question of a record.

    Raises:
        BadRecord: it is not about one image, the image is an address, or its list of answers is empty.
    """
    if len(record.images) != 1:
        raise BadRecord(f"{record.location}: expected a question about one image, got {len(record.images)}")

    (image,) = record.images
    # Every question about it would fail.
    if isinstance(image, str) and not is_data_uri(image):
        raise BadRecord(
            f"{record.location}: {redact(image)} is an address: download the image and name its file"
        )

    prompt, answer = record.turns[0]
    is_only = len(record.turns) == 1
    # The records of a mixture come from several datasets, and have no further fields here.
    is_of_mixture = record.dataset != name
    answers = split_list(record.answers if record.answers and is_only else (answer,))
    if not answers:
        raise BadRecord(f"{record.location}: expected an answer, got an empty list")

    example = Example(
        id=f"{record.dataset}/{record.id}" if is_of_mixture else record.id,
        image=image,
        # Without a prompt of its own, the text is one, with the blank behind the image.
        question=prompt if record.prompt is None else record.questions[0],
        answers=answers,
        prompt="exact" if record.prompt is None else record.prompt,
        image_id=f"{name}/{_relative(image, path.parent)}" if isinstance(image, str | Path) else "",
        meta={"dataset": record.dataset} if is_of_mixture else describing_fields(fields),
        pages=_pages(image),
    )
    choices = _read_choices(fields.get("choices"))
    return _with_choices(example, choices, record.location) if choices else example


def _read_choices(value: Any) -> tuple[str, ...]:
    """Return the texts of a list, in a table as a text; none of fewer than two, and of anything else."""
    values = value if isinstance(value, list) else split_list((value,)) if isinstance(value, str) else ()
    choices = tuple(map(number_as_text, values))
    return choices if len(choices) > 1 and all(isinstance(choice, str) for choice in choices) else ()


def _with_choices(example: Example, choices: tuple[str, ...], location: str) -> Example:
    """Return a question as a multiple choice: "which? A. this B. that", with what `multiple_choice` needs.

    Raises:
        BadRecord: the answer is none of the choices, neither their text nor their letter.
    """
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    (answer, *others) = example.answers
    if others or answer not in (*choices, *letters):
        raise BadRecord(
            f"{location}, field answer: expected one of the choices or its letter, got "
            f"{', '.join(example.answers)!r:.60}"
        )

    correct = choices.index(answer) if answer in choices else letters.index(answer)
    lettered = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    return replace(
        example,
        question=" ".join([example.question, *lettered]),
        answers=(choices[correct],),
        meta={**example.meta, "choices": list(choices), "answer": correct},
    )


def _relative(image: str | Path, folder: Path) -> str:
    """Return the name of an image as the file has it."""
    file = Path(image)
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(image)


def _pages(image: ImageSource) -> tuple[Path, ...]:
    """Return the pages of a document of several; none of any other image."""
    if not isinstance(image, Path) or image.suffix.lower() not in _DOCUMENTS:
        return ()
    try:
        pages = list_pages(image)
    except ImageError:  # said when its question's turn comes
        return ()
    return tuple(pages) if len(pages) > 1 else ()


def describing_fields(fields: Mapping[str, Any], left_out: Sequence[str] = ()) -> dict[str, Any]:
    """Return the fields beside question, image and answer that are texts, numbers, or lists of them."""
    described = {}
    for name, value in fields.items():
        if name in _OWN_FIELDS or name in left_out:
            continue
        if _is_plain(value) or (isinstance(value, list) and all(map(_is_plain, value))):
            described[name] = value
    return described


def _is_plain(value: Any) -> bool:
    """Return whether a value is a text or a number; NaN, with which pandas fills gaps, is none."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _check_metrics(examples: Sequence[Example], metrics: Sequence[str], name: str) -> None:
    """Check that the metrics can score the questions, before a model spends hours on them.

    Raises:
        ValueError: one can't.
    """
    answers = [example.answers for example in examples]
    metas = [example.meta for example in examples]
    for metric in metrics:
        # CIDEr-D scores any captions, and takes long.
        if metric in CAPTION_METRICS:
            continue
        try:
            registry.get(metric).scores([""] * len(examples), answers, metas)
        except ValueError as error:
            raise ValueError(f"{name} cannot be scored by {metric}: {error}") from error
