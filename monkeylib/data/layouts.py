"""Readers of the official files of public datasets, used for training and for evaluation.

Each reader takes the folder of a download and the names of files in it, and yields a `QARecord` for each
question, with every answer that the files hold. What several answers mean differs between datasets: VQA sets
give those of ten people, DocVQA gives several that are all correct, DUE gives the parts of one answer.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from PIL import ImageDraw, ImageFont

from monkeylib import resources
from monkeylib.data.json_rows import number_as_text, read_json_or_jsonl
from monkeylib.images import ImageError, list_pages, open_image

MME_PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_CHINESE = re.compile("[\u4e00-\u9fa5]")
_SMALLEST_LETTER = 6  # points


@dataclass(frozen=True)
class QARecord:
    """A question about an image with its answers, as the official files of a dataset state it.

    Attributes:
        id: unique within the dataset.
        image: path relative to the dataset's folder of images.
        question: empty for captions.
        answers: all answers; of a multiple choice the text of the correct one.
        choices: options of a multiple choice, in their order.
        meta: what else metrics need: the number of the correct choice, the task, the key of a field.
        pages: all pages of a document, of which `image` is the first; empty where the image is all.
        name: name of the image that is the same in all versions of the download; by default `image`.
    """

    id: str
    image: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    pages: tuple[str, ...] = ()
    name: str = ""

    @property
    def full_question(self) -> str:
        """The question followed by its choices: "which? A. this B. that"."""
        lettered = (f"{chr(ord('A') + n)}. {choice}" for n, choice in enumerate(self.choices))
        return " ".join([self.question, *lettered])


# --- files ----------------------------------------------------------------------------------------


def read_json(path: Path, *fields: str) -> Any:
    """Return the content of a JSON file, or of its nested fields.

    Raises:
        ValueError: the file is not JSON, or has no such field.
    """
    try:
        # As bytes: a byte order mark says which encoding of Unicode it is.
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): download it again") from error

    for name in fields:
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"{path} has no field {name!r}: expected the official layout")
        value = value[name]

    return value


def require_files(name: str, folder: Path, files: Sequence[str], home: str) -> None:
    """Check that the files of a download exist.

    Raises:
        FileNotFoundError: a file is missing; the message says where to get it.
    """
    for file in files:
        if not (folder / file).exists():
            raise FileNotFoundError(f"{name} needs {folder / file}: get it from {home}")


def checked(records: Iterable[QARecord], name: str, files: Sequence[str], home: str) -> Iterator[QARecord]:
    """Yield the records of a dataset, after checking that their fields are texts; answers may be numbers.

    Raises:
        ValueError: a field is not a text, or the files lack one that the reader expects.
    """
    # Counts rows, so that the error can say where the file departs from the official layout.
    count = 0
    try:
        for record in records:
            count += 1
            record = replace(record, answers=tuple(map(number_as_text, record.answers)))
            _check_texts(record)
            yield record
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        # A KeyError only holds the name of the missing field.
        problem = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{name} is not laid out as the official download after {count} rows ({problem}): "
            f"compare {', '.join(files)} with {home}"
        ) from error


def _check_texts(record: QARecord) -> None:
    for name in ("id", "image", "question", "answers", "choices"):
        value = getattr(record, name)
        for text in value if isinstance(value, tuple) else (value,):
            if not isinstance(text, str):
                raise TypeError(f"{name} is {text!r}, not a text")


# --- captions -------------------------------------------------------------------------------------


def detailed_captions(folder: Path, file: str) -> Iterator[QARecord]:
    """Read the output of the released caption pipeline: a list of `img_id` and `detailed_caption`."""
    for row in read_json(folder / file):
        yield QARecord(str(row["img_id"]), f"{row['img_id']}.jpg", "", (row["detailed_caption"],))


def coco_captions(folder: Path, file: str) -> Iterator[QARecord]:
    """Read COCO: file names in `images`, one caption a row in `annotations`, five or more an image."""
    names = {image["id"]: image["file_name"] for image in read_json(folder / file, "images")}

    for row in read_json(folder / file, "annotations"):
        yield QARecord(str(row["id"]), names[row["image_id"]], "", (row["caption"],))


def karpathy(folder: Path, file: str, split: str) -> Iterator[QARecord]:
    """Read a split by Karpathy: `images` with `filename`, `split` and five `sentences`, each `raw`."""
    for row in read_json(folder / file, "images"):
        if row["split"] == split:
            captions = tuple(sentence["raw"] for sentence in row["sentences"])
            yield QARecord(str(row["imgid"]), row["filename"], "", captions)


def textcaps(folder: Path, file: str, by_image: bool = False) -> Iterator[QARecord]:
    """Read TextCaps: each row of `data` is one caption of one of TextVQA's images.

    The field `reference_strs`, which repeats all captions of an image in each of its rows, is not used. Rows
    without the field `caption_id` are numbered.

    Args:
        folder: folder of the download.
        file: name of the annotation file.
        by_image: yield one record for each image, with all of its captions.
    """
    captions_of: dict[str, list[str]] = {}

    for number, row in enumerate(read_json(folder / file, "data")):
        image = f"{row.get('image_name', row['image_id'])}.jpg"
        if by_image:
            captions_of.setdefault(image, []).append(row["caption_str"])
        else:
            yield QARecord(str(row.get("caption_id", number)), image, "", (row["caption_str"],))

    # Empty unless grouped by image.
    for image, captions in captions_of.items():
        yield QARecord(Path(image).stem, image, "", tuple(captions))


# --- general questions ----------------------------------------------------------------------------


def coco_questions(
    folder: Path, questions: str, annotations: str | None = None, *, coco_split: str
) -> Iterator[QARecord]:
    """Read VQAv2 or OKVQA: questions in one file, the answers of ten people in another.

    Args:
        folder: folder of both files.
        questions: file with rows of `questions`.
        annotations: file with rows of `annotations`. VQAv2's hold the most frequent answer, too. Its test
            splits have none.
        coco_split: COCO's name of the split in the names of its images, such as "train2014".
    """

    # COCO pads numbers of images to twelve digits.
    def image_of(row: Mapping[str, Any]) -> str:
        return f"COCO_{coco_split}_{row['image_id']:012d}.jpg"

    question_rows = read_json(folder / questions, "questions")
    if annotations is None:
        for row in question_rows:
            yield QARecord(str(row["question_id"]), image_of(row), row["question"], ())
        return

    question_of = {row["question_id"]: row["question"] for row in question_rows}
    for row in read_json(folder / annotations, "annotations"):
        yield QARecord(
            id=str(row["question_id"]),
            image=image_of(row),
            question=question_of[row["question_id"]],
            answers=tuple(answer["answer"] for answer in row["answers"]),
            meta={"frequent": row.get("multiple_choice_answer", "")}
            | _present(row, "answer_type", "question_type"),
        )


def gqa(folder: Path, file: str) -> Iterator[QARecord]:
    """Read GQA: a map from question ids to `imageId`, `question` and the short `answer`."""
    for id, row in read_json(folder / file).items():
        meta = _present(row.get("types") or {}, "structural", "semantic", "detailed")
        yield QARecord(id, f"{row['imageId']}.jpg", row["question"], (row["answer"],), meta=meta)


def vizwiz(folder: Path, file: str, answers: bool = True) -> Iterator[QARecord]:
    """Read VizWiz: the answers of ten people; questions without an answer have "unanswerable".

    Args:
        folder: folder of the download.
        file: name of the annotation file.
        answers: whether the file has answers; that of the test split has none.
    """
    for number, row in enumerate(read_json(folder / file)):
        answers_of_people = tuple(answer["answer"] for answer in row["answers"]) if answers else ()
        meta = _present(row, "answer_type", "answerable")
        yield QARecord(str(number), row["image"], row["question"], answers_of_people, meta=meta)


def scienceqa(folder: Path, problems: str, splits: str, split: str, hint: bool = False) -> Iterator[QARecord]:
    """Read the questions of a split of ScienceQA that have an image, at ID/image.png: multiple choice.

    Args:
        folder: folder of the download.
        problems: file of all questions by id.
        splits: file of the ids in each split.
        split: name of the split.
        hint: put "Context: " and the hint of a question before it if it has one, as LLaVA and lmms-eval do.
    """
    rows = read_json(folder / problems)

    for id in read_json(folder / splits, split):
        row = rows[id]
        # More than half of the questions have no image.
        if row["image"]:
            question = row["question"]
            if hint and row.get("hint", "").strip():
                question = f"Context: {row['hint']}\n{question}"

            image = f"{id}/{row['image']}"
            meta = _present(row, "subject", "topic", "category", "skill", "grade")
            yield _multiple_choice(id, image, question, row["choices"], row["answer"], meta)


def mme(folder: Path, *tasks: str) -> Iterator[QARecord]:
    """Read MME: a folder for each task, in which each image has a text file of the same name.

    Images and texts lie side by side, or in the folders `images` and `questions_answers_YN` of the task. Each
    line of a text is a question, a tab, and Yes or No.

    Raises:
        ValueError: a line is something else.
    """
    for task in tasks:
        texts = images = folder / task
        if (folder / task / "questions_answers_YN").is_dir():
            texts = folder / task / "questions_answers_YN"
            images = folder / task / "images"

        for file in sorted(texts.glob("*.txt")):
            candidates = [images / (file.stem + suffix) for suffix in _IMAGE_SUFFIXES]
            image = next((path for path in candidates if path.is_file()), candidates[0])

            # Some files end in blank lines.
            rows = [row for row in file.read_text(encoding="utf-8").splitlines() if row.strip()]

            for number, row in enumerate(rows):
                # The last tab separates them: a question may hold tabs itself.
                question, tab, answer = row.rpartition("\t")
                if not tab or answer.strip().lower() not in ("yes", "no"):
                    raise ValueError(f"{file}: expected a question, a tab and Yes or No, got {row!r:.80}")
                yield QARecord(
                    id=f"{task}/{file.stem}/{number}",
                    image=image.relative_to(folder).as_posix(),
                    question=question.strip(),
                    answers=(answer.strip(),),
                    meta={"task": task},
                )


# --- scene text and diagrams ----------------------------------------------------------------------


def textvqa(folder: Path, file: str, answers: bool = True) -> Iterator[QARecord]:
    """Read TextVQA: the answers of ten people in each row of `data`.

    Args:
        folder: folder of the download.
        file: name of the annotation file.
        answers: whether the file has answers; that of the test split has none.
    """
    for row in read_json(folder / file, "data"):
        image = f"{row['image_id']}.jpg"
        answers_of_people = tuple(row["answers"]) if answers else ()
        yield QARecord(str(row["question_id"]), image, row["question"], answers_of_people)


def ocrvqa(folder: Path, file: str, split: int) -> Iterator[QARecord]:
    """Read OCR-VQA: a map from books to `imageURL`, `questions`, `answers` and `split` (1 is training).

    The dataset's own script downloads the images and names each by its id and the suffix of its address.
    """
    for id, row in read_json(folder / file).items():
        if row["split"] == split:
            # The suffix without the query of the address: ".gif" of "51.gif?x=1".
            image = f"{id}{PurePosixPath(urlparse(row['imageURL']).path).suffix}"
            for number, (question, answer) in enumerate(zip(row["questions"], row["answers"], strict=True)):
                yield QARecord(f"{id}-{number}", image, question, (answer,))


def stvqa(folder: Path, file: str) -> Iterator[QARecord]:
    """Read ST-VQA (task 3): rows of `data` with `file_path`, `question_id`, `question` and `answers`."""
    for row in read_json(folder / file, "data"):
        answers = _as_tuple(row["answers"])
        meta = _present(row, "dataset")
        yield QARecord(str(row["question_id"]), row["file_path"], row["question"], answers, meta=meta)


def estvqa(folder: Path, file: str) -> Iterator[QARecord]:
    """Read EST-VQA: a list of images, each with `image` and an `annotation` of questions with `answer`.

    As in the official script, a question is Chinese if it holds a Chinese character.
    """
    for row_number, row in enumerate(read_json(folder / file)):
        for number, pair in enumerate(row["annotation"]):
            # One record a question: an image of EST-VQA may have several.
            id = f"{row.get('id', row_number)}-{number}"
            language = "Chinese" if _CHINESE.search(pair["question"]) else "English"
            yield QARecord(
                id,
                row["image"],
                pair["question"],
                _as_tuple(pair["answer"]),
                meta={"language": language},
            )


def ai2d(
    folder: Path, questions: str, test_ids: str = "ai2d_test_ids.csv", *, test: bool
) -> Iterator[QARecord]:
    """Read AI2D: multiple choice about diagrams, one file of questions for each diagram.

    Where `abcLabel` is set, the texts of the diagram are replaced by letters. The download holds the letters
    and their boxes but not these images, so they are drawn into copies of the diagrams, in `abc_images`.

    Args:
        folder: folder of the download.
        questions: folder of the files of questions.
        test_ids: file of the diagrams of the test split, one id a line. Without it, all are training.
        test: yield the test split, otherwise the training split.
    """
    listing = folder / test_ids
    ids_of_test = set(listing.read_text(encoding="utf-8").split()) if listing.is_file() else set()

    for file in sorted((folder / questions).glob("*.json")):
        content = read_json(file)
        name = content["imageName"]

        # The listing has ids without suffix: "42" for 42.png.
        if (name.partition(".")[0] in ids_of_test) != test:
            continue

        for question, row in content["questions"].items():
            # Diagrams with letters are drawn once, when their first question is read.
            image = f"{'abc_images' if row['abcLabel'] else 'images'}/{name}"
            annotation = folder / "annotations" / file.name
            if row["abcLabel"] and not (folder / image).exists() and annotation.is_file():
                draw_letters(folder / "images" / name, read_json(annotation, "text"), folder / image)

            yield _multiple_choice(
                row["questionId"], image, question, row["answerTexts"], row["correctAnswer"]
            )


def draw_letters(image: Path, texts: dict[str, dict[str, Any]], out: Path) -> None:
    """Write a copy of a diagram of AI2D in which each text is covered by its letter.

    Args:
        image: file of the diagram.
        texts: `text` of its annotation: each has a `rectangle`, two corners in pixels, and its
            `replacementText`.
        out: PNG file to write.
    """
    diagram = open_image(image)
    draw = ImageDraw.Draw(diagram)
    for text in texts.values():
        (left, top), (right, bottom) = text["rectangle"]
        draw.rectangle((left, top, right, bottom), fill="white")

        # The letter is as high as the box, or as wide if that is less.
        font = ImageFont.load_default(max(_SMALLEST_LETTER, min(right - left, bottom - top)))
        centre = ((left + right) / 2, (top + bottom) / 2)
        draw.text(centre, text["replacementText"], fill="black", font=font, anchor="mm")

    with resources.atomic_write(out) as temporary:
        diagram.save(temporary, "PNG")


# --- documents ------------------------------------------------------------------------------------


def docvqa(folder: Path, file: str, image: str, image_folders: Sequence[str]) -> Iterator[QARecord]:
    """Read DocVQA or InfographicVQA: rows of `data` with `questionId` and several correct answers.

    The published files of the test splits have no answers; their records have none either.

    Args:
        folder: folder of the download.
        file: name of the annotation file.
        image: field that names the image: "image" or "image_local_name". DocVQA writes "documents/NAME.png"
            there, also where the folder of images is called spdocvqa_images.
        image_folders: names that the folder of images has in the versions of the download.
    """
    images = _existing_folder(folder, image_folders)
    for row in read_json(folder / file, "data"):
        name = PurePosixPath(row[image]).name
        yield QARecord(
            id=str(row["questionId"]),
            image=f"{images}/{name}",
            question=row["question"],
            answers=_as_tuple(row.get("answers", ())),
            meta=_present(row, "question_types", "answer_type", "operation/reasoning"),
            name=name,
        )


def chartqa(folder: Path, *files: str) -> Iterator[QARecord]:
    """Read ChartQA: lists of `imgname`, `query` and `label`, human and generated questions in two files."""
    for file in files:
        family = "augmented" if "augmented" in file else "human"
        for number, row in enumerate(read_json(folder / file)):
            id = f"{Path(file).stem}-{number}"
            yield QARecord(id, row["imgname"], row["query"], (row["label"],), meta={"family": family})


def visualmrc(folder: Path, file: str) -> Iterator[QARecord]:
    """Read VisualMRC: one line for each page, with sentences as answers."""
    for _, row in read_json_or_jsonl(folder / file):
        for number, pair in enumerate(row["qa_data"]):
            answers = (pair["answer"]["text"],)
            yield QARecord(f"{row['id']}-{number}", row["image_filename"], pair["question"]["text"], answers)


def due(folder: Path, file: str, question: str, canonical: str | None = None) -> Iterator[QARecord]:
    """Read a dataset of DUE: one line for each document, with `annotations` of a `key` and its `values`.

    A value is a text with `value_variants` of its spelling, which are kept in `meta`. Values with `children`
    instead of a text give no answer. The download holds PDF files, whose pages are drawn when they are
    needed; pages that have been drawn already, as png/NAME/0.png and so on, take precedence.

    Args:
        folder: folder of the download.
        file: name of the annotation file.
        question: template of the question. The {key} is a question itself (WTQ), a statement (TableFact) or
            the name of a field (DeepForm, KLC), which is given in words: "address__post_town" as "address
            post town".
        canonical: folder of the tagged files of WikiTableQuestions, which aren't part of DUE. Where they lie,
            the canonical forms of the answers are added to `meta`.
    """
    canonical_forms = _canonical_forms(folder / canonical) if canonical else {}

    for _, row in read_json_or_jsonl(folder / file):
        name = row["name"].removesuffix(".pdf")
        pages = _document_pages(folder, name)

        for number, annotation in enumerate(row["annotations"]):
            key = annotation["key"]
            words = key if question == "{key}" else " ".join(key.replace("_", " ").split())

            # Values with children, such as the rows of a table, have no text.
            values = [value for value in annotation["values"] if "value" in value]
            variants = [list(value.get("value_variants", [])) for value in values]
            answers = tuple(value["value"] for value in values)
            meta = {"key": key, "variants": variants}
            if forms := canonical_forms.get((key, answers)):
                meta["canonical"] = forms

            yield QARecord(
                id=f"{name}-{number}",
                image=pages[0],
                question=question.format(key=words),
                answers=answers,
                meta=meta,
                pages=pages,
                name=name,
            )


def _canonical_forms(folder: Path) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """Return the canonical forms of answers, by question and answers, from the files `*.tagged` of a folder.

    They are WikiTableQuestions' own: tab-separated columns below a line of names, lists joined by "|", and
    line breaks, bars and backslashes in a text written as "\\n", "\\p" and "\\\\".

    Raises:
        ValueError: a file lacks one of the columns.
    """
    forms = {}
    for path in sorted(folder.glob("*.tagged")):
        names, *rows = (line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line)
        for column in ("utterance", "targetValue", "targetCanon"):
            if column not in names:
                raise ValueError(
                    f"{path} lacks the column {column}: expected a tagged file of WikiTableQuestions."
                )

        for row in rows:
            cells = dict(zip(names, row, strict=False))
            answers, canonical = (
                [_unescape(value) for value in cells[column].split("|")]
                for column in ("targetValue", "targetCanon")
            )
            if len(answers) == len(canonical):
                forms[_unescape(cells["utterance"]), tuple(answers)] = canonical

    return forms


def _unescape(text: str) -> str:
    escapes = {"n": "\n", "p": "|", "\\": "\\"}
    return re.sub(r"\\([np\\])", lambda match: escapes[match[1]], text)


def _canonical_answers(folder: Path, names: Sequence[str]) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """Return the canonical forms of answers by question and answers, from the first file that is there."""
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return {}

    # Not csv: quotes have no meaning in these files.
    header, *lines = file.read_text(encoding="utf-8").splitlines()
    columns = header.split("\t")
    rows = (dict(zip(columns, line.split("\t"), strict=False)) for line in lines)
    return {
        (_unescape(row["utterance"]), _split_values(row["targetValue"])): list(
            _split_values(row["targetCanon"])
        )
        for row in rows
    }


def _split_values(text: str) -> tuple[str, ...]:
    return tuple(map(_unescape, text.split("|")))


def _unescape(text: str) -> str:
    """Return a text of WikiTableQuestions without its escapes."""
    escapes = {"\\n": "\n", "\\p": "|", "\\\\": "\\"}
    return re.sub(r"\\[np\\]", lambda match: escapes[match[0]], text)


def _document_pages(folder: Path, name: str) -> tuple[str, ...]:
    """Return the pages of a document of DUE, relative to the folder of the download."""
    images = [path for path in (folder / "png" / name).glob("*.png") if path.stem.isdecimal()]
    if images:
        images.sort(key=lambda path: int(path.stem))
        return tuple(path.relative_to(folder).as_posix() for path in images)

    document = f"{_existing_folder(folder, ('pdf', 'pdfs'))}/{name}.pdf"
    try:
        pages = list_pages(folder / document)
    except ImageError:
        # What is missing is counted by the caller, and what is damaged is a failure of its questions.
        return (document,)
    return tuple(path.relative_to(folder).as_posix() for path in pages)


# --- helpers --------------------------------------------------------------------------------------


def _multiple_choice(
    id: str,
    image: str,
    question: str,
    choices: Sequence[str],
    answer: int,
    meta: Mapping[str, Any] | None = None,
) -> QARecord:
    if not 0 <= answer < len(choices):
        raise IndexError(f"question {id} has {len(choices)} choices, and its answer is number {answer}")

    meta = {**(meta or {}), "choices": list(choices), "answer": answer}
    return QARecord(id, image, question, (choices[answer],), tuple(choices), meta)


def _present(row: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    """Return the fields of a row that say something, which scores can be grouped by; lists become texts."""
    values = {field: row.get(field) for field in fields}
    return {
        field: ", ".join(map(str, value)) if isinstance(value, list) else value
        for field, value in values.items()
        if value not in (None, "", [])
    }


def _existing_folder(folder: Path, names: Sequence[str]) -> str:
    """Return the first of several names that is a folder, else the first name."""
    return next((name for name in names if (folder / name).is_dir()), names[0])


def _as_tuple(answers: Any) -> tuple[str, ...]:
    """Return answers as a tuple; a single text or number becomes a tuple of one."""
    return tuple(answers) if isinstance(answers, list | tuple) else (answers,)


_READERS: tuple[Callable[..., Iterator[QARecord]], ...] = (
    detailed_captions, coco_captions, karpathy, textcaps,
    coco_questions, gqa, vizwiz, scienceqa, mme,
    textvqa, ocrvqa, stvqa, estvqa, ai2d,
    docvqa, chartqa, visualmrc, due,
)  # fmt: skip
LAYOUTS = {reader.__name__: reader for reader in _READERS}
