"""Questions about text in images: TextVQA, OCRVQA, AI2D."""

from monkeylib.data.public.convert import PublicSet, pairs
from monkeylib.data.public.layouts import ai2d, ocrvqa, textvqa

_TEXTVQA = "TextVQA_0.5.1_train.json"
_OCRVQA = "dataset.json"
_TRAIN = 1  # number of OCRVQA's training split

SETS = (
    PublicSet(
        "textvqa",
        "https://textvqa.org/dataset",
        "CC BY 4.0; the images are Open Images'",
        (_TEXTVQA,),
        "train_images",
        lambda folder: pairs(textvqa(folder, _TEXTVQA)),
    ),
    PublicSet(
        "ocrvqa",
        "https://ocr-vqa.github.io",
        "not stated; the covers are their publishers'",
        (_OCRVQA,),
        "images",
        lambda folder: pairs(ocrvqa(folder, _OCRVQA, _TRAIN)),
        unverified="the licence (a public loader names Apache-2.0)",
    ),
    PublicSet(
        "ai2d",
        "https://prior.allenai.org/projects/diagram-understanding",
        "CC BY-SA 4.0",
        ("questions",),
        "",
        lambda folder: pairs(ai2d(folder, test=False)),
        unverified="the licence (the archive has a license.txt)",
    ),
)
