"""A folder as a user of the library may have it: images of documents, and a JSON file of questions.

The documents are synthetic ones of the test split, which no shipped model has seen. The question wants two
facts in one line, which no shipped model was trained to give. Notebook A3 trains on such a folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from monkeylib import resources
from monkeylib.data.synthetic import Sample, make_sample
from monkeylib.data.synthetic.sample_files import synthetic_sample
from monkeylib.profiles import Profile

QUESTION = "shop and total?"
TRAIN, HELD_OUT = "train.json", "held-out.json"

# Number of the first document: no test set and no shipped sample has such a number.
FIRST_DOCUMENT = 91_000


def write_folder(profile: Profile, folder: Path, train: int = 32, held_out: int = 8) -> Path:
    """Write documents as PNG, and their questions as `train.json` and `held-out.json`, into a new folder.

    The first document that is held out is the shipped `receipt.png`. A folder that exists is returned as it
    is.

    Args:
        profile: whose images have the size of the documents.
        folder: to be made.
        train, held_out: number of documents.

    Returns:
        The folder.
    """
    if folder.exists():
        return folder

    documents = _documents(profile.image_size)
    with resources.create_folder(folder) as new_folder:
        for file, count in ((HELD_OUT, held_out), (TRAIN, train)):
            rows = []
            for name, sample in (next(documents) for _ in range(count)):
                sample.image.save(new_folder / name)
                rows.append({"image": name, "question": QUESTION, "answer": _answer(sample)})
            (new_folder / file).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return folder


def _documents(size: tuple[int, int]) -> Iterator[tuple[str, Sample]]:
    """Yield names and samples of documents that have a shop and a total, without end."""
    receipt = synthetic_sample("receipt.png", size)
    if _answer(receipt):
        yield "receipt.png", receipt

    number = FIRST_DOCUMENT
    while True:
        sample = make_sample(number, "test", size, "document")
        if _answer(sample):
            yield f"{number}.png", sample
        number += 1


def _answer(sample: Sample) -> str:
    """Return shop and total of a document in one line; empty if it has not both."""
    answers = {question.question: question.answer for question in sample.questions}
    shop, total = answers.get("what shop is this?"), answers.get("what is the total?")
    return f"{shop}: {total}" if shop and total else ""
