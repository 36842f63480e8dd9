"""What models have said, kept on disk by model, version, settings and what they were asked about.

A rerun asks only what is missing. An entry appears whole or not at all, so any number of processes may write
to one store; one that can't be read counts as missing.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from monkeylib import paths
from monkeylib.captions.annotations import Provenance

Said = TypeVar("Said")


def digest(*parts: object) -> str:
    """SHA-256 of JSON values, the same for the same values whatever the order of their keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def folder_of(root: Path, provenance: Provenance) -> Path:
    """Where what a model said at a version and with settings is kept."""
    name, version = (quote(part, safe=" +@=,") for part in (provenance.expert, provenance.version))
    return root / name / f"{version}-{digest(provenance.settings)[:8]}"


@dataclass(frozen=True)
class Store:
    """Entries of one model, at `home`, by keys that are SHA-256 sums."""

    home: Path

    def get(self, key: str, parse: Callable[[bytes], Said]) -> Said | None:
        """What was said, or None where nothing is kept that `parse` accepts."""
        try:
            return parse(self._path(key).read_bytes())
        except (OSError, ValueError):
            return None

    def put(self, key: str, text: str) -> None:
        """Keep what was said, in place of what was kept."""
        with paths.replacing(self._path(key)) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _path(self, key: str) -> Path:
        return self.home / key[:2] / f"{key}.json"
