"""Conversion of a public dataset's official download into training records: the released conversations."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monkeylib import resources
from monkeylib.data.dataset_cards import DatasetCard
from monkeylib.data.layouts import LAYOUTS, QARecord, checked, require_files
from monkeylib.data.readers.forms import most_frequent
from monkeylib.image_sources import split_page
from monkeylib.prompts import SEPARATOR, build_prompt


@dataclass(frozen=True)
class Conversion:
    """Number of records written, and number of records left out for each reason."""

    num_records: int
    left_out: Counter[str]


def convert_dataset(card: DatasetCard, folder: str | Path, out: str | Path) -> Conversion:
    """Write the training records of an official download to `out`, as one JSON list.

    Records without an answer, and those whose image does not exist, are left out and counted. Images are not
    copied: records name them relative to the dataset's folder of images.

    Args:
        card: a dataset with a training part.
        folder: folder of the official download.
        out: JSON file to write.

    Raises:
        FileExistsError: there is something at `out`.
        FileNotFoundError: a file of the download is missing.
        ValueError: a file is not laid out as the official one, or no record is left.
    """
    folder, out = resources.to_path(folder), resources.to_path(out)
    part = card.train
    resources.require_new(out)
    require_files(card.name, folder, part.files, card.home)
    records = LAYOUTS[card.layout](folder, *part.files, **part.options)

    images = folder / part.images

    # An image may have many questions; its file is looked for once.
    image_exists: dict[str, bool] = {}
    left_out: Counter[str] = Counter()
    num_records = 0

    with resources.atomic_write(out) as temporary, open(temporary, "w", encoding="utf-8") as file:
        # One record a line, written as it is read: a dataset need not fit into memory.
        file.write("[")
        for record in checked(records, card.name, part.files, card.home):
            answer = training_answer(record, part.answer).strip()
            if record.image not in image_exists:
                image_exists[record.image] = split_page(images / record.image)[0].is_file()

            if not answer:
                left_out["no answer"] += 1
            elif not image_exists[record.image]:
                left_out["no image"] += 1
            else:
                if num_records:
                    file.write(",\n")
                file.write(json.dumps(_conversation(record, answer, part.prompt), ensure_ascii=False))
                num_records += 1

        file.write("]\n")

        if not num_records:
            # Raised inside of `atomic_write`, so that no empty file is left behind.
            reasons = ", ".join(f"{count} with {reason}" for reason, count in left_out.items())
            raise ValueError(
                f"no row of {card.name} can be used ({reasons or 'it holds none'}): "
                f"its images belong in {images}"
            )

    return Conversion(num_records, left_out)


def training_answer(record: QARecord, rule: str) -> str:
    """Return the one answer of a record to train on, empty if it has none.

    Args:
        record: a question with all of its answers.
        rule: "first", or "most frequent": the answer that the files themselves name as such (VQAv2's
            `multiple_choice_answer`), else the one that most people gave; of several, the first.
    """
    if not record.answers:
        return ""
    if rule == "first":
        return record.answers[0]

    # Only VQAv2 names its most frequent answer.
    return record.meta.get("frequent") or most_frequent(record.answers)


def _conversation(record: QARecord, answer: str, prompt: str) -> dict[str, Any]:
    text = build_prompt(prompt, record.full_question, SEPARATOR)

    turns = [
        {"from": "user", "value": f"<img>{record.image}</img>{text}"},
        {"from": "assistant", "value": answer},
    ]
    return {"id": record.id, "conversations": turns}
