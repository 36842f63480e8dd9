"""Captions: COCO, TextCaps, and the detailed captions that the paper generated."""

from collections.abc import Iterator
from pathlib import Path

from monkeylib.data.public.convert import Pair, PublicSet, pairs
from monkeylib.data.public.layouts import coco_captions, textcaps
from monkeylib.data.public.rows import load

_COCO = "annotations/captions_train2014.json"
_TEXTCAPS = "TextCaps_0.1_train.json"
_DETAILED = "detailed_caption.json"


def _detailed(folder: Path) -> Iterator[Pair]:
    """What the released description pipeline writes: a list of `img_id` and `detailed_caption`."""
    for row in load(folder / _DETAILED):
        yield Pair(str(row["img_id"]), f"{row['img_id']}.jpg", "", row["detailed_caption"])


SETS = (
    PublicSet(
        "detailed-caption",
        "https://huggingface.co/datasets/echo840/Detailed_Caption",
        "not stated; the images are CC3M's",
        (_DETAILED,),
        "images",
        _detailed,
        "detailed_caption",
        "names of the hub's files; read as the output of the released pipeline, whose fields are known",
    ),
    PublicSet(
        "coco-caption",
        "https://cocodataset.org/#download",
        "CC BY 4.0; the images under Flickr's terms",
        (_COCO,),
        "train2014",
        lambda folder: pairs(coco_captions(folder, _COCO)),
        "caption",
        "the licence",
    ),
    PublicSet(
        "textcaps",
        "https://textvqa.org/textcaps/dataset",
        "CC BY 4.0; the images are Open Images'",
        (_TEXTCAPS,),
        "train_images",
        lambda folder: pairs(textcaps(folder, _TEXTCAPS)),
        "caption",
        "the field caption_id, without which rows are numbered, the licence",
    ),
)
