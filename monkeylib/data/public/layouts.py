"""How the official files of public sets are laid out: read once, for training and for evaluation.

Each reader takes a folder and the names of files in it, and yields `Asked`: an image, a question, and every
answer that the files hold. What an answer means is the set's own: VQA sets give ten people's, DocVQA several
that all are right, DUE all parts of one.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from monkeylib.data.public.diagrams import draw_letters
from monkeylib.data.public.rows import Asked, lines, load

MME_PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_IMAGES = (".jpg", ".jpeg", ".png")


def coco_captions(folder: Path, file: str) -> Iterator[Asked]:
    """COCO: `images` give file names, `annotations` one caption a row, five or more an image."""
    names = {image["id"]: image["file_name"] for image in load(folder / file, "images")}
    for row in load(folder / file, "annotations"):
        yield Asked(str(row["id"]), names[row["image_id"]], "", (row["caption"],))


def karpathy(folder: Path, file: str, split: str) -> Iterator[Asked]:
    """Karpathy's splits of Flickr30K: `images` with `filename`, `split` and five `sentences`, each `raw`."""
    for row in load(folder / file, "images"):
        if row["split"] == split:
            captions = tuple(sentence["raw"] for sentence in row["sentences"])
            yield Asked(str(row["imgid"]), row["filename"], "", captions)


def textcaps(folder: Path, file: str) -> Iterator[Asked]:
    """TextCaps: a row of `data` is one caption; the images are TextVQA's. `reference_strs` in a row, the
    same in all rows of an image, are left aside. Rows without the field `caption_id` are numbered."""
    for number, row in enumerate(load(folder / file, "data")):
        name = row.get("image_name", row["image_id"])
        yield Asked(str(row.get("caption_id", number)), f"{name}.jpg", "", (row["caption_str"],))


def coco_questions(folder: Path, questions: str, annotations: str, images: str) -> Iterator[Asked]:
    """VQAv2's layout, which OKVQA shares: questions in one file, ten people's answers in another.

    Args:
        folder: of both files.
        questions: rows of `questions`.
        annotations: rows of `annotations`; VQAv2's hold the most frequent answer as well.
        images: COCO's name of the split, "train2014".
    """
    asked = {row["question_id"]: row["question"] for row in load(folder / questions, "questions")}
    for row in load(folder / annotations, "annotations"):
        yield Asked(
            str(row["question_id"]),
            f"COCO_{images}_{row['image_id']:012d}.jpg",
            asked[row["question_id"]],
            tuple(one["answer"] for one in row["answers"]),
            meta={"frequent": row.get("multiple_choice_answer", ""), "kind": row.get("answer_type", "")},
        )


def gqa(folder: Path, file: str) -> Iterator[Asked]:
    """GQA: question id -> `imageId`, `question`, and `answer`, the short one."""
    for id, row in load(folder / file).items():
        yield Asked(id, f"{row['imageId']}.jpg", row["question"], (row["answer"],))


def vizwiz(folder: Path, file: str) -> Iterator[Asked]:
    """VizWiz: ten people's answers; questions that cannot be answered stay, as "unanswerable"."""
    for number, row in enumerate(load(folder / file)):
        answers = tuple(one["answer"] for one in row["answers"])
        yield Asked(str(number), row["image"], row["question"], answers)


def scienceqa(folder: Path, problems: str, splits: str, split: str) -> Iterator[Asked]:
    """ScienceQA: multiple choice; those questions of a split that have an image, at ID/image.png."""
    rows = load(folder / problems)
    for id in load(folder / splits, split):
        row = rows[id]
        if row["image"]:
            yield _chosen(id, f"{id}/{row['image']}", row["question"], row["choices"], row["answer"])


def ai2d(folder: Path, test: bool) -> Iterator[Asked]:
    """AI2D: a file of questions for each diagram, in `questions`.

    Where `abcLabel` is set, the texts are letters, which are drawn into copies of the diagrams, abc_images.
    `ai2d_test_ids.csv` lists the diagrams of the test split, one id a line; without it, all are training.
    """
    listed = folder / "ai2d_test_ids.csv"
    held_out = set(listed.read_text(encoding="utf-8").split()) if listed.is_file() else set()
    for file in sorted((folder / "questions").glob("*.json")):
        rows = load(file)
        if (rows["imageName"].partition(".")[0] in held_out) != test:
            continue
        for question, row in rows["questions"].items():
            image = f"{'abc_images' if row['abcLabel'] else 'images'}/{rows['imageName']}"
            places = folder / "annotations" / file.name
            if row["abcLabel"] and not (folder / image).exists() and places.is_file():
                draw_letters(folder / "images" / rows["imageName"], load(places, "text"), folder / image)
            yield _chosen(row["questionId"], image, question, row["answerTexts"], row["correctAnswer"])


def _chosen(id: str, image: str, question: str, choices: Sequence[str], answer: int) -> Asked:
    if not 0 <= answer < len(choices):
        raise IndexError(f"question {id} has {len(choices)} choices, and its answer is number {answer}")
    meta = {"choices": list(choices), "answer": answer}
    return Asked(id, image, question, (choices[answer],), tuple(choices), meta)


def textvqa(folder: Path, file: str) -> Iterator[Asked]:
    """TextVQA: ten people's answers to each row of `data`."""
    for row in load(folder / file, "data"):
        image = f"{row['image_id']}.jpg"
        yield Asked(str(row["question_id"]), image, row["question"], tuple(row["answers"]))


def ocrvqa(folder: Path, file: str, split: int) -> Iterator[Asked]:
    """OCRVQA: book -> `imageURL`, `questions`, `answers`, `split` (1 is for training).

    Images are downloaded from the addresses by the set's own script, as ID and the address's ending.
    """
    for id, row in load(folder / file).items():
        if row["split"] == split:
            image = f"{id}{PurePosixPath(urlparse(row['imageURL']).path).suffix}"
            for number, (question, answer) in enumerate(zip(row["questions"], row["answers"], strict=True)):
                yield Asked(f"{id}-{number}", image, question, (answer,))


def stvqa(folder: Path, file: str) -> Iterator[Asked]:
    """ST-VQA (task 3): rows of `data` with `file_path`, `question_id`, `question` and a list of answers."""
    for row in load(folder / file, "data"):
        yield Asked(str(row["question_id"]), row["file_path"], row["question"], _listed(row["answers"]))


def estvqa(folder: Path, file: str) -> Iterator[Asked]:
    """EST-VQA: a list of images, each with `image` and an `annotation` of questions with `answer`."""
    for number, row in enumerate(load(folder / file)):
        for place, pair in enumerate(row["annotation"]):
            id = f"{row.get('id', number)}-{place}"
            yield Asked(id, row["image"], pair["question"], _listed(pair["answer"]))


def docvqa(folder: Path, file: str, image: str = "image") -> Iterator[Asked]:
    """DocVQA and InfographicVQA: rows of `data` with `questionId` and several answers that all are right.

    `image` is the field that names the image: "image" (documents/NAME.png, a folder called spdocvqa_images
    in newer downloads, which has to be renamed), or "image_local_name".
    Published test files have no answers: then none are given.
    """
    for row in load(folder / file, "data"):
        yield Asked(str(row["questionId"]), row[image], row["question"], _listed(row.get("answers", ())))


def chartqa(folder: Path, files: Sequence[str]) -> Iterator[Asked]:
    """ChartQA: a list of `imgname`, `query` and `label`; people's questions and a model's in two files."""
    for file in files:
        for number, row in enumerate(load(folder / file)):
            made = "augmented" if "augmented" in file else "human"
            id = f"{Path(file).stem}-{number}"
            yield Asked(id, row["imgname"], row["query"], (row["label"],), meta={"family": made})


def visualmrc(folder: Path, file: str) -> Iterator[Asked]:
    """VisualMRC: a line per page, with whole sentences as answers."""
    for row in lines(folder / file):
        for number, pair in enumerate(row["qa_data"]):
            answers = (pair["answer"]["text"],)
            yield Asked(f"{row['id']}-{number}", row["image_filename"], pair["question"]["text"], answers)


def due(folder: Path, file: str, question: str) -> Iterator[Asked]:
    """DUE: a line per document, `annotations` with a `key` and `values`; the page png/NAME/0.png.

    The key is a question (WTQ), a statement (TableFact) or the name of a field (DeepForm, KLC), which
    `question` puts into words with {key}. A value is a text with `value_variants` of its writing, kept in
    `meta`; values with `children` instead of a text give none. A document's page is rendered by hand: the
    download holds PDF files.
    """
    for row in lines(folder / file):
        name = row["name"].removesuffix(".pdf")
        for number, annotation in enumerate(row["annotations"]):
            values = [value for value in annotation["values"] if "value" in value]
            variants = [list(value.get("value_variants", [])) for value in values]
            yield Asked(
                f"{name}-{number}",
                f"{name}/0.png",
                question.format(key=annotation["key"].replace("_", " ")),
                tuple(value["value"] for value in values),
                meta={"key": annotation["key"], "variants": variants},
            )


def mme(folder: Path) -> Iterator[Asked]:
    """MME: a folder for each of 14 tasks, an image with a text file of the same name beside it, or both in
    `images` and `questions_answers_YN`; a line is a question, a tab, and Yes or No.

    Raises:
        ValueError: a line is something else, an image is missing, or there is no task at all.
    """
    tasks = [task for task in (*MME_PERCEPTION, *MME_COGNITION) if (folder / task).is_dir()]
    if not tasks:
        raise ValueError(f"{folder} has none of MME's tasks: expected folders such as existence and count")
    for task in tasks:
        split = (folder / task / "questions_answers_YN").is_dir()
        texts, images = ("questions_answers_YN", "images") if split else ("", "")
        for file in sorted((folder / task / texts).glob("*.txt")):
            shown = folder / task / images
            named = (shown / (file.stem + ending) for ending in _IMAGES)
            image = next((path for path in named if path.is_file()), shown / f"{file.stem}.jpg")
            rows = [row for row in file.read_text(encoding="utf-8").splitlines() if row.strip()]
            for number, row in enumerate(rows):
                question, tab, answer = row.rpartition("\t")
                if not tab or answer.strip().lower() not in ("yes", "no"):
                    raise ValueError(f"{file}: expected a question, a tab and Yes or No, got {row!r:.80}")
                id = f"{task}/{file.stem}/{number}"
                name = image.relative_to(folder).as_posix()
                yield Asked(id, name, question.strip(), (answer.strip(),), meta={"task": task})


def _listed(answers: Any) -> tuple[str, ...]:
    """Answers as a tuple; a text alone is one."""
    return (answers,) if isinstance(answers, str) else tuple(answers)
