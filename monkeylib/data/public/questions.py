"""Questions about pictures: VQAv2, OKVQA, GQA, ScienceQA, VizWiz."""

from collections.abc import Callable, Iterator
from pathlib import Path

from monkeylib.data.public.convert import Pair, PublicSet, load, most_frequent

_VQAV2 = ("v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json")
_OKVQA = ("OpenEnded_mscoco_train2014_questions.json", "mscoco_train2014_annotations.json")
_GQA = "train_balanced_questions.json"
_VIZWIZ = "Annotations/train.json"
_SCIENCE = ("problems.json", "pid_splits.json")


def _coco_questions(questions: str, annotations: str) -> Callable[[Path], Iterator[Pair]]:
    """VQAv2's layout, which OKVQA shares: questions in one file, ten people's answers in another.

    The answer is VQAv2's `multiple_choice_answer`, the most frequent of the ten; OKVQA's is found likewise.
    """

    def pairs(folder: Path) -> Iterator[Pair]:
        asked = {row["question_id"]: row["question"] for row in load(folder / questions, "questions")}
        for row in load(folder / annotations, "annotations"):
            answer = row.get("multiple_choice_answer") or most_frequent(
                [one["answer"] for one in row["answers"]]
            )
            image = f"COCO_train2014_{row['image_id']:012d}.jpg"
            yield Pair(str(row["question_id"]), image, asked[row["question_id"]], answer)

    return pairs


def _gqa(folder: Path) -> Iterator[Pair]:
    """GQA: question id -> `imageId`, `question`, and `answer`, the short one."""
    for id, row in load(folder / _GQA).items():
        yield Pair(id, f"{row['imageId']}.jpg", row["question"], row["answer"])


def _vizwiz(folder: Path) -> Iterator[Pair]:
    """VizWiz: ten people's answers; questions that cannot be answered stay, as "unanswerable"."""
    for number, row in enumerate(load(folder / _VIZWIZ)):
        answers = [one["answer"] for one in row["answers"]]
        yield Pair(str(number), row["image"], row["question"], most_frequent(answers))


def _scienceqa(folder: Path) -> Iterator[Pair]:
    """ScienceQA: multiple choice; only questions of the training split that have a picture.

    The choices follow the question by their letters, and the answer is the chosen text. How the paper worded
    them isn't known.
    """
    problems = load(folder / _SCIENCE[0])
    for id in load(folder / _SCIENCE[1], "train"):
        row = problems[id]
        if row["image"]:
            question = with_choices(row["question"], row["choices"])
            yield Pair(id, f"{id}/{row['image']}", question, row["choices"][row["answer"]])


def with_choices(question: str, choices: list[str]) -> str:
    """A question and what to choose from: "which? A. this B. that"."""
    return " ".join([question, *(f"{chr(65 + n)}. {choice}" for n, choice in enumerate(choices))])


SETS = (
    PublicSet(
        "vqav2",
        "https://visualqa.org/download.html",
        "CC BY 4.0; the pictures are COCO's",
        _VQAV2,
        "train2014",
        _coco_questions(*_VQAV2),
    ),
    PublicSet(
        "okvqa",
        "https://okvqa.allenai.org/download.html",
        "CC BY 4.0; the pictures are COCO's",
        _OKVQA,
        "train2014",
        _coco_questions(*_OKVQA),
        unverified="the licence",
    ),
    PublicSet(
        "gqa",
        "https://cs.stanford.edu/people/dorarad/gqa/download.html",
        "CC BY 4.0; pictures of Visual Genome",
        (_GQA,),
        "images",
        _gqa,
        unverified="the licence",
    ),
    PublicSet(
        "scienceqa",
        "https://scienceqa.github.io",
        "CC BY-NC-SA 4.0",
        _SCIENCE,
        "images/train",
        _scienceqa,
        unverified="that pictures lie in images/train/ID, the licence (CC BY-SA 4.0 on the hub)",
    ),
    PublicSet(
        "vizwiz",
        "https://vizwiz.org/tasks-and-datasets/vqa",
        "CC BY 4.0",
        (_VIZWIZ,),
        "train",
        _vizwiz,
    ),
)
