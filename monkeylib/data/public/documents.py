"""Questions about documents: DocVQA, ChartQA, InfoVQA, VisualMRC, and four sets of the DUE benchmark.

DUE's documents are PDF files. Render their pages first, e.g. with `pdftoppm -r 100 -png`, as
png/NAME/0.png and so on; the first page is asked about.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from monkeylib.data.public.convert import Pair, PublicSet, lines, load

_DOCVQA = "train_v1.0_withQT.json"
_INFOVQA = "infographicsVQA_train_v1.0.json"
_CHARTQA = ("train/train_human.json", "train/train_augmented.json")
_VISUALMRC = "data/train.jsonl"
_DUE = "train/document.jsonl"
_DUE_HOME = "https://duebenchmark.com/data"
_DUE_UNVERIFIED = "the pictures' names, which are not part of the download"


def _docvqa(folder: Path) -> Iterator[Pair]:
    """DocVQA: rows of `data` with several answers that all are right; the first is taken. `image` is
    documents/NAME.png."""
    for row in load(folder / _DOCVQA, "data"):
        yield Pair(str(row["questionId"]), row["image"], row["question"], row["answers"][0])


def _infovqa(folder: Path) -> Iterator[Pair]:
    """InfographicVQA: as DocVQA, its pictures named by `image_local_name`."""
    for row in load(folder / _INFOVQA, "data"):
        yield Pair(str(row["questionId"]), row["image_local_name"], row["question"], row["answers"][0])


def _chartqa(folder: Path) -> Iterator[Pair]:
    """ChartQA: people's questions, then those made by a model."""
    for file in _CHARTQA:
        for number, row in enumerate(load(folder / file)):
            yield Pair(f"{Path(file).stem}-{number}", row["imgname"], row["query"], row["label"])


def _visualmrc(folder: Path) -> Iterator[Pair]:
    """VisualMRC: a line per page, with whole sentences as answers."""
    for row in lines(folder / _VISUALMRC):
        for number, pair in enumerate(row["qa_data"]):
            yield Pair(
                f"{row['id']}-{number}",
                row["image_filename"],
                pair["question"]["text"],
                pair["answer"]["text"],
            )


def _due(question: str) -> Callable[[Path], Iterator[Pair]]:
    """DUE: a line per document, `annotations` with a `key` and `values`.

    The key is a question (WTQ), a statement (TableFact) or the name of a field (DeepForm, KLC), which
    `question` puts into words with {key}. Values without a plain text (DeepForm's `children`) give none.
    """

    def pairs(folder: Path) -> Iterator[Pair]:
        for row in lines(folder / _DUE):
            name = row["name"].removesuffix(".pdf")
            for number, annotation in enumerate(row["annotations"]):
                asked = question.format(key=annotation["key"].replace("_", " "))
                answer = next((value["value"] for value in annotation["values"] if "value" in value), "")
                yield Pair(f"{name}-{number}", f"{name}/0.png", asked, answer)

    return pairs


SETS = (
    PublicSet(
        "docvqa",
        "https://rrc.cvc.uab.es/?ch=17&com=downloads",
        "for research, after registration",
        (_DOCVQA,),
        "",
        _docvqa,
        unverified="the name of the annotation file, which differs between versions",
    ),
    PublicSet(
        "chartqa",
        "https://github.com/vis-nlp/ChartQA",
        "GPL-3.0",
        _CHARTQA,
        "train/png",
        _chartqa,
    ),
    PublicSet(
        "infovqa",
        "https://rrc.cvc.uab.es/?ch=17&com=downloads",
        "for research, after registration",
        (_INFOVQA,),
        "images",
        _infovqa,
        unverified="the name of the annotation file, which differs between versions",
    ),
    PublicSet(
        "deepform",
        _DUE_HOME,
        "CC BY-NC 4.0",
        (_DUE,),
        "png",
        _due("What is the value for the {key}?"),
        unverified=f"{_DUE_UNVERIFIED}, the paper's wording of the question, the licence",
    ),
    PublicSet(
        "klc",
        _DUE_HOME,
        "public domain and open government",
        (_DUE,),
        "png",
        _due("What is the value for the {key}?"),
        unverified=f"{_DUE_UNVERIFIED}, the paper's wording of the question, the licence",
    ),
    PublicSet(
        "wtq",
        _DUE_HOME,
        "CC BY-SA 4.0",
        (_DUE,),
        "png",
        _due("{key}"),
        unverified=f"{_DUE_UNVERIFIED}, the licence",
    ),
    PublicSet(
        "tablefact",
        _DUE_HOME,
        "CC BY 4.0",
        (_DUE,),
        "png",
        _due("{key}"),
        unverified=f"{_DUE_UNVERIFIED}, how truth is written in the values (taken as it is)",
    ),
    PublicSet(
        "visualmrc",
        "https://github.com/nttmdlab-nlp/VisualMRC",
        "for research, on request",
        (_VISUALMRC,),
        "",
        _visualmrc,
        unverified="the names data/train.jsonl and of the pictures' folder",
    ),
)
