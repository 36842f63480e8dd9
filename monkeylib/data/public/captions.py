"""Captions: COCO, TextCaps, and the detailed captions that the paper generated."""

from collections.abc import Iterator
from pathlib import Path

from monkeylib.data.public.convert import Pair, PublicSet, load

_COCO = "annotations/captions_train2014.json"
_TEXTCAPS = "TextCaps_0.1_train.json"
_DETAILED = "detailed_caption.json"


def _coco(folder: Path) -> Iterator[Pair]:
    """COCO: `images` give file names, `annotations` captions, five or more a picture."""
    names = {image["id"]: image["file_name"] for image in load(folder / _COCO, "images")}
    for row in load(folder / _COCO, "annotations"):
        yield Pair(str(row["id"]), names[row["image_id"]], "", row["caption"])


def _textcaps(folder: Path) -> Iterator[Pair]:
    """TextCaps: a row of `data` is one caption; the pictures are those of TextVQA."""
    for number, row in enumerate(load(folder / _TEXTCAPS, "data")):
        yield Pair(str(row.get("caption_id", number)), f"{row['image_id']}.jpg", "", row["caption_str"])


def _detailed(folder: Path) -> Iterator[Pair]:
    """What the released description pipeline writes: a list of `img_id` and `detailed_caption`."""
    for row in load(folder / _DETAILED):
        yield Pair(str(row["img_id"]), f"{row['img_id']}.jpg", "", row["detailed_caption"])


SETS = (
    PublicSet(
        "detailed-caption",
        "https://huggingface.co/datasets/echo840/Detailed_Caption",
        "not stated; the pictures are CC3M's",
        (_DETAILED,),
        "images",
        _detailed,
        "detailed_caption",
        "names of the hub's files; read as the output of the released pipeline, whose fields are known",
    ),
    PublicSet(
        "coco-caption",
        "https://cocodataset.org/#download",
        "CC BY 4.0; the pictures under Flickr's terms",
        (_COCO,),
        "train2014",
        _coco,
        "caption",
    ),
    PublicSet(
        "textcaps",
        "https://textvqa.org/textcaps/dataset",
        "CC BY 4.0; the pictures are Open Images'",
        (_TEXTCAPS,),
        "train_images",
        _textcaps,
        "caption",
        "the field caption_id, without which rows are numbered",
    ),
)
