"""Conversion of public datasets: what is counted, and what raises."""

import json

import pytest

from monkeylib.data.convert import convert_dataset
from monkeylib.data.dataset_cards import training_card, training_cards
from tests.support import record_files as files

CARDS = training_cards()


@pytest.mark.parametrize("name", CARDS)
def test_missing_download_raises_with_its_home(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{name} needs .* get it from https://"):
        convert_dataset(CARDS[name], tmp_path, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_records_without_answer_or_image_are_counted(tmp_path):
    rows = [
        {"imgname": name, "query": "?", "label": label} for name, label in (("1.png", "x"), ("1.png", " "))
    ]
    rows += [{"imgname": "2.png", "query": "?", "label": "x"}]
    files.lay_out(
        tmp_path,
        {"train/train_human.json": rows, "train/train_augmented.json": []},
        {"train/png/1.png"},
    )
    conversion = convert_dataset(CARDS["chartqa"], tmp_path, tmp_path / "out.json")

    assert (conversion.num_records, conversion.left_out) == (1, {"no answer": 1, "no image": 1})
    assert len(json.loads((tmp_path / "out.json").read_text())) == 1

    # Without any usable record, no file is written.
    (tmp_path / "train/png/1.png").unlink()
    with pytest.raises(ValueError, match="no row of chartqa can be used .2 with no image, 1 with no answer."):
        convert_dataset(CARDS["chartqa"], tmp_path, tmp_path / "again.json")
    assert not list(tmp_path.glob("*again*"))


def test_unknown_dataset_raises_with_the_list():
    with pytest.raises(
        ValueError, match="no public dataset called 'imagenet': choose one of detailed-caption, coco-"
    ):
        training_card("imagenet")
