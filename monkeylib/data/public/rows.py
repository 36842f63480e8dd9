"""Rows of the official files of public sets: what all of them have, and the checks that all of them pass."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Read = TypeVar("Read")


@dataclass(frozen=True)
class Asked:
    """A question about an image, as a set's files have it.

    Attributes:
        id: unique within the set.
        image: named from the set's folder of images.
        question: "" where a caption is asked for.
        answers: texts; of a multiple choice the chosen one.
        choices: what to choose from, in its order.
        meta: what else scores need: the chosen number, the task, the key of a field.
    """

    id: str
    image: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


def load(path: Path, *fields: str) -> Any:
    """The content of a JSON file, or of its nested fields.

    Raises:
        ValueError: it isn't JSON, or has no such field.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch it anew") from error
    for name in fields:
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"{path} has no field {name!r}: expected the official layout")
        value = value[name]
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


def require(name: str, folder: Path, files: Sequence[str], home: str) -> None:
    """`FileNotFoundError` with the set's source where a file of its download is missing."""
    for file in files:
        if not (folder / file).exists():
            raise FileNotFoundError(f"{name} needs {folder / file}: get it from {home}")


def checked(rows: Iterable[Read], name: str, files: Sequence[str], home: str) -> Iterator[Read]:
    """The rows as they are, if their fields are texts.

    Raises:
        ValueError: one sentence that names the set, where a field isn't a text or is missing in the files.
    """
    count = 0
    try:
        for row in rows:
            count += 1
            for field_name, value in vars(row).items():
                for text in value if isinstance(value, tuple) else (value,):
                    if not isinstance(text, str | Mapping):
                        raise TypeError(f"{field_name} is {text!r}, not a text")
            yield row
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{name} is not laid out as the official download after {count} rows ({what}): "
            f"compare {', '.join(files) or 'its files'} with {home}"
        ) from error
