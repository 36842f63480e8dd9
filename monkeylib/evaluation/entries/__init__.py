"""The paper's 18 benchmarks, declared in YAML, one file for each group of its tables."""

from pathlib import Path

import yaml
from pydantic import ValidationError

from monkeylib.errors import first_problem
from monkeylib.evaluation.entries.schema import Entry, Figure, Kind, Prompts, Released

__all__ = ["Entry", "Figure", "Kind", "Prompts", "Released", "load"]

_FILES = ("captions", "general", "scene_text", "documents")


def load(files: list[Path] | None = None) -> list[Entry]:
    """The entries, in the order of the paper's tables, or those of other YAML files.

    Raises:
        ValueError: an entry doesn't fit the schema, in one sentence that names it.
    """
    found = []
    for file in files or [Path(__file__).parent / f"{name}.yaml" for name in _FILES]:
        for row in yaml.safe_load(file.read_text(encoding="utf-8")):
            try:
                found.append(Entry.model_validate(row))
            except ValidationError as error:
                raise ValueError(f"{file.name}, entry {row.get('name')}: {first_problem(error)}") from error
    return found
