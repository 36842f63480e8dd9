"""Questions about documents: DocVQA, ChartQA, InfoVQA, VisualMRC, and four sets of the DUE benchmark.

DUE's documents are PDF files. Render their pages first, e.g. with `pdftoppm -r 100 -png`, as
png/NAME/0.png and so on; the first page is asked about.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from monkeylib.data.public.convert import Pair, PublicSet, first, pairs
from monkeylib.data.public.layouts import chartqa, docvqa, due, visualmrc

_DOCVQA = "train_v1.0_withQT.json"
_INFOVQA = "infographicsVQA_train_v1.0.json"
_CHARTQA = ("train/train_human.json", "train/train_augmented.json")
_VISUALMRC = "data/train.jsonl"
_DUE = "train/document.jsonl"
_DUE_HOME = "https://duebenchmark.com/data"
_DUE_UNVERIFIED = "the images' names, which are not part of the download (its PDF files lie in pdfs/)"


def _due(question: str) -> Callable[[Path], Iterator[Pair]]:
    """The first value of each key that `question` asks for."""
    return lambda folder: pairs(due(folder, _DUE, question), first)


SETS = (
    PublicSet(
        "docvqa",
        "https://rrc.cvc.uab.es/?ch=17&com=downloads",
        "for research, after registration",
        (_DOCVQA,),
        "",
        lambda folder: pairs(docvqa(folder, _DOCVQA), first),
        unverified="the licence; names differ between versions of the download (older: train_v1.0.json)",
    ),
    PublicSet(
        "chartqa",
        "https://github.com/vis-nlp/ChartQA",
        "GPL-3.0",
        _CHARTQA,
        "train/png",
        lambda folder: pairs(chartqa(folder, _CHARTQA)),
        unverified="the licence",
    ),
    PublicSet(
        "infovqa",
        "https://rrc.cvc.uab.es/?ch=17&com=downloads",
        "for research, after registration",
        (_INFOVQA,),
        "images",
        lambda folder: pairs(docvqa(folder, _INFOVQA, "image_local_name"), first),
        unverified="the licence; the folder of images is called infographicsvqa_images in some downloads",
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
        unverified=f"{_DUE_UNVERIFIED}, how truth is written in the values (taken as it is), the licence",
    ),
    PublicSet(
        "visualmrc",
        "https://github.com/nttmdlab-nlp/VisualMRC",
        "for research, on request",
        (_VISUALMRC,),
        "",
        lambda folder: pairs(visualmrc(folder, _VISUALMRC)),
        unverified="the layout as a whole, the licence",
    ),
)
