"""Questions about text in pictures: TextVQA, OCRVQA, AI2D."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from monkeylib.data.public.convert import Pair, PublicSet, load, most_frequent
from monkeylib.data.public.questions import with_choices

_TEXTVQA = "TextVQA_0.5.1_train.json"
_OCRVQA = "dataset.json"
_TRAIN = 1  # number of OCRVQA's training split


def _textvqa(folder: Path) -> Iterator[Pair]:
    """TextVQA: ten people's answers to each row of `data`."""
    for row in load(folder / _TEXTVQA, "data"):
        yield Pair(
            str(row["question_id"]), f"{row['image_id']}.jpg", row["question"], most_frequent(row["answers"])
        )


def _ocrvqa(folder: Path) -> Iterator[Pair]:
    """OCRVQA: book -> `imageURL`, `questions`, `answers`, `split`.

    Pictures are downloaded from the addresses by the set's own script, as ID and the address's ending.
    """
    for id, row in load(folder / _OCRVQA).items():
        if row["split"] == _TRAIN:
            image = f"{id}{PurePosixPath(urlparse(row['imageURL']).path).suffix}"
            for number, (question, answer) in enumerate(zip(row["questions"], row["answers"], strict=True)):
                yield Pair(f"{id}-{number}", image, question, answer)


def _ai2d(folder: Path) -> Iterator[Pair]:
    """AI2D: a file of questions for each diagram; the answer is the chosen text.

    Where `abcLabel` is set, the texts are letters drawn into a second set of diagrams, abc_images.
    Diagrams of the test split are left out if `ai2d_test_ids.csv` lies beside: one id a line.
    """
    listed = folder / "ai2d_test_ids.csv"
    test = set(listed.read_text(encoding="utf-8").split()) if listed.is_file() else set()
    for file in sorted((folder / "questions").glob("*.json")):
        rows = load(file)
        if rows["imageName"].partition(".")[0] in test:
            continue
        for question, row in rows["questions"].items():
            shown = "abc_images" if row["abcLabel"] else "images"
            answers = row["answerTexts"]
            yield Pair(
                row["questionId"],
                f"{shown}/{rows['imageName']}",
                with_choices(question, answers),
                answers[row["correctAnswer"]],
            )


SETS = (
    PublicSet(
        "textvqa",
        "https://textvqa.org/dataset",
        "CC BY 4.0; the pictures are Open Images'",
        (_TEXTVQA,),
        "train_images",
        _textvqa,
    ),
    PublicSet(
        "ocrvqa",
        "https://ocr-vqa.github.io",
        "not stated; the covers are their publishers'",
        (_OCRVQA,),
        "images",
        _ocrvqa,
        unverified="that split 1 is for training, and how the set's script names the pictures",
    ),
    PublicSet(
        "ai2d",
        "https://prior.allenai.org/projects/diagram-understanding",
        "CC BY-SA 4.0",
        ("questions",),
        "",
        _ai2d,
        unverified="that abcLabel tells which set of diagrams is meant, the list of test ids, the licence",
    ),
)
