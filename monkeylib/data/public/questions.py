"""Questions about images: VQAv2, OKVQA, GQA, ScienceQA, VizWiz."""

from collections.abc import Callable, Iterator
from pathlib import Path

from monkeylib.data.public.convert import Pair, PublicSet, most_frequent, pairs
from monkeylib.data.public.layouts import coco_questions, gqa, scienceqa, vizwiz

_VQAV2 = ("v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json")
_OKVQA = ("OpenEnded_mscoco_train2014_questions.json", "mscoco_train2014_annotations.json")
_GQA = "train_balanced_questions.json"
_VIZWIZ = "Annotations/train.json"
_SCIENCE = ("problems.json", "pid_splits.json")


def _coco(questions: str, annotations: str) -> Callable[[Path], Iterator[Pair]]:
    """The answer is VQAv2's `multiple_choice_answer`, the most frequent of the ten; OKVQA's is found so."""

    def read(folder: Path) -> Iterator[Pair]:
        for row in coco_questions(folder, questions, annotations, "train2014"):
            answer = row.meta["frequent"] or most_frequent(row.answers)
            yield Pair(row.id, row.image, row.question, answer)

    return read


SETS = (
    PublicSet(
        "vqav2",
        "https://visualqa.org/download.html",
        "CC BY 4.0; the images are COCO's",
        _VQAV2,
        "train2014",
        _coco(*_VQAV2),
        unverified="the licence",
    ),
    PublicSet(
        "okvqa",
        "https://okvqa.allenai.org/download.html",
        "CC BY 4.0; the images are COCO's",
        _OKVQA,
        "train2014",
        _coco(*_OKVQA),
        unverified="the licence",
    ),
    PublicSet(
        "gqa",
        "https://cs.stanford.edu/people/dorarad/gqa/download.html",
        "CC BY 4.0; images of Visual Genome",
        (_GQA,),
        "images",
        lambda folder: pairs(gqa(folder, _GQA)),
        unverified="the licence",
    ),
    PublicSet(
        "scienceqa",
        "https://scienceqa.github.io",
        "CC BY-NC-SA 4.0",
        _SCIENCE,
        "images/train",
        lambda folder: pairs(scienceqa(folder, *_SCIENCE, "train")),
        unverified="how the paper words the choices, the licence (CC BY-SA 4.0 on the hub)",
    ),
    PublicSet(
        "vizwiz",
        "https://vizwiz.org/tasks-and-datasets/vqa",
        "CC BY 4.0",
        (_VIZWIZ,),
        "train",
        lambda folder: pairs(vizwiz(folder, _VIZWIZ)),
        unverified="the licence",
    ),
)
