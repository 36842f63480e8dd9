"""How a public set becomes the released conversations JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monkeylib import paths
from monkeylib.prompts import build_prompt


@dataclass(frozen=True)
class Pair:
    """A picture, a question ("" for captions) and its answer, as a set has them."""

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
        licence: of the annotations; pictures may have their own.
        files: the files that are read, from the folder of the download.
        images: folder of the pictures in it, which records name them from.
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

    A row without an answer or whose picture isn't there is left out and counted.

    Raises:
        FileNotFoundError: a file of the download is missing.
        ValueError: a file isn't laid out as the official one, or no row is left.
    """
    for file in entry.files:
        if not (folder / file).exists():
            raise FileNotFoundError(f"{entry.name} needs {folder / file}: get it from {entry.home}")
    images, left_out, written = folder / entry.images, Counter(), 0
    there: dict[str, bool] = {}
    with paths.replacing(out) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for pair in _checked(entry, folder):
            if pair.image not in there:
                there[pair.image] = (images / pair.image).is_file()
            reason = "no answer" if not pair.answer.strip() else "no picture" * (not there[pair.image])
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
            raise ValueError(
                f"no row of {entry.name} can be used ({reasons}): its pictures belong in {images}"
            )
    return Conversion(written, left_out)


def load(path: Path, *fields: str) -> Any:
    """The content of a JSON file, or of its nested fields.

    Raises:
        ValueError: it isn't JSON, or has no such field.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch it anew") from error
    for field in fields:
        if not isinstance(value, dict) or field not in value:
            raise ValueError(f"{path} has no field {field!r}: expected the official layout")
        value = value[field]
    return value


def lines(path: Path) -> Iterator[Any]:
    """The objects of a JSON lines file.

    Raises:
        ValueError: a line is no JSON.
    """
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} of {path} is not JSON ({error}): fetch it anew") from error


def most_frequent(answers: list[str]) -> str:
    """Of several people's answers the one most gave, the earliest of several; "" of none."""
    return Counter(answers).most_common(1)[0][0] if answers else ""


def _checked(entry: PublicSet, folder: Path) -> Iterator[Pair]:
    """The pairs, with an error of the layout as one sentence."""
    count = 0
    try:
        for pair in entry.pairs(folder):
            count += 1
            for field, value in vars(pair).items():
                if not isinstance(value, str):
                    raise TypeError(f"{field} is {value!r}, not a text")
            yield pair
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{entry.name} is not laid out as the official download after {count} rows ({what}): "
            f"compare {', '.join(entry.files)} with {entry.home}"
        ) from error


def _record(pair: Pair, prompt: str) -> dict[str, Any]:
    said = f"<img>{pair.image}</img> {build_prompt(prompt, pair.question)}"
    turns = [{"from": "user", "value": said}, {"from": "assistant", "value": pair.answer.strip()}]
    return {"id": pair.id, "conversations": turns}
