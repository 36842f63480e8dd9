"""How a public set becomes the released conversations JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monkeylib import resources
from monkeylib.data.public.rows import Asked, checked, require
from monkeylib.prompts import SEPARATOR, build_prompt


@dataclass(frozen=True)
class Pair:
    """An image, a question ("" for captions) and its answer, as a set has them."""

    id: str
    image: str
    question: str
    answer: str


@dataclass(frozen=True)
class PublicSet:
    """A public set.

    Attributes:
        name: as in the mixture of the paper.
        home: where the official files are.
        licence: of the annotations; images may have their own.
        files: the files that are read, from the folder of the download.
        images: folder of the images in it, which records name them from.
        pairs: what the files hold.
        prompt: name of the prompt.
        unverified: what could not be checked of all this.
    """

    name: str
    home: str
    licence: str
    files: tuple[str, ...]
    images: str
    pairs: Callable[[Path], Iterator[Pair]]
    prompt: str = "vqa"
    unverified: str = ""


@dataclass(frozen=True)
class Conversion:
    """How many records were written, and how many rows were left out for which reason."""

    written: int
    left_out: Counter[str]


def convert(entry: PublicSet, folder: Path, out: Path) -> Conversion:
    """Write the records of a set's official download to `out`, as one JSON list.

    A row without an answer or whose image isn't there is left out and counted.

    Raises:
        FileNotFoundError: a file of the download is missing.
        ValueError: a file isn't laid out as the official one, or no row is left.
    """
    require(entry.name, folder, entry.files, entry.home)
    images, left_out, written = folder / entry.images, Counter(), 0
    there: dict[str, bool] = {}
    with resources.atomic_write(out) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for pair in checked(entry.pairs(folder), entry.name, entry.files, entry.home):
            if pair.image not in there:
                there[pair.image] = (images / pair.image).is_file()
            reason = "no answer" if not pair.answer.strip() else "no image" * (not there[pair.image])
            if reason:
                left_out[reason] += 1
                continue
            file.write(",\n" * bool(written) + json.dumps(_record(pair, entry.prompt), ensure_ascii=False))
            written += 1
        file.write("]\n")
        if not written:
            reasons = (
                ", ".join(f"{count} with {reason}" for reason, count in left_out.items()) or "it holds none"
            )
            raise ValueError(f"no row of {entry.name} can be used ({reasons}): its images belong in {images}")
    return Conversion(written, left_out)


def most_frequent(answers: Sequence[str]) -> str:
    """Of several people's answers the one most gave, the earliest of several; "" of none."""
    return Counter(answers).most_common(1)[0][0] if answers else ""


def pairs(rows: Iterable[Asked], answer: Callable[[Sequence[str]], str] = most_frequent) -> Iterator[Pair]:
    """One pair to train on of each row; `answer` picks one of its answers, by default the most frequent."""
    for row in rows:
        question = with_choices(row.question, row.choices) if row.choices else row.question
        yield Pair(row.id, row.image, question, answer(row.answers))


def first(answers: Sequence[str]) -> str:
    """The first answer, "" of none."""
    return answers[0] if answers else ""


def with_choices(question: str, choices: Sequence[str]) -> str:
    """A question and what to choose from: "which? A. this B. that"."""
    return " ".join([question, *(f"{chr(65 + n)}. {choice}" for n, choice in enumerate(choices))])


def _record(pair: Pair, prompt: str) -> dict[str, Any]:
    said = f"<img>{pair.image}</img>{build_prompt(prompt, pair.question, SEPARATOR)}"
    turns = [{"from": "user", "value": said}, {"from": "assistant", "value": pair.answer.strip()}]
    return {"id": pair.id, "conversations": turns}
