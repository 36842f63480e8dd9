"""Records that training left out, listed on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path


class Skipped:
    """Notes bad records in a file of JSON lines, one for each, whichever process meets it."""

    def __init__(self, file: Path):
        self.file = file

    def note(self, error: Exception) -> None:
        """Add a record's error, unless it is there already."""
        if str(error) in self.listed():
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"error": str(error)}, ensure_ascii=False) + "\n"
        opened = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(
                opened, line.encode(errors="backslashreplace")
            )  # one write: whole, beside other processes
        finally:
            os.close(opened)

    def listed(self) -> list[str]:
        """The errors, each once, in the order in which they were met."""
        if not self.file.exists():
            return []
        lines = self.file.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
        return list(dict.fromkeys(json.loads(line)["error"] for line in lines))
