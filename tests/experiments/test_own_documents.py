"""A folder of documents with questions about them."""

import json

import pytest

from monkeylib.data.mixture import load_mixture
from monkeylib.experiments import own_documents
from monkeylib.images import open_image
from monkeylib.profiles import load_profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("documents") / "mine"
    return own_documents.write_folder(load_profile("nano"), path, train=3, held_out=2)


def test_records_are_read_as_those_of_a_user(folder):
    mixture = load_mixture(folder / own_documents.TRAIN)
    assert len(mixture) == 3
    for number in range(3):
        ((prompt, answer),) = mixture[number].turns
        assert own_documents.QUESTION in prompt
        shop, total = answer.split(": ")
        assert shop and float(total) > 0


def test_no_document_is_in_both_files(folder):
    train, held_out = (
        [row["image"] for row in json.loads((folder / name).read_text())]
        for name in (own_documents.TRAIN, own_documents.HELD_OUT)
    )
    assert not set(train) & set(held_out)
    assert held_out[0] == "receipt.png"
    assert sorted(train + held_out) == sorted(file.name for file in folder.glob("*.png"))
    assert open_image(folder / "receipt.png").size == load_profile("nano").image_size


def test_answers_are_the_facts_of_the_document(folder):
    receipt = json.loads((folder / own_documents.HELD_OUT).read_text())[0]
    assert receipt == {"image": "receipt.png", "question": "shop and total?", "answer": "sunrise 47: 49.35"}


def test_folder_that_is_there_stays(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    own_documents.write_folder(load_profile("nano"), folder, train=1, held_out=1)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
