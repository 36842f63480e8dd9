"""Records in JSON files: lists, or an object a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from monkeylib.data.json_rows import JsonRows, RowError
from monkeylib.data.records import BadRecord


class JsonRecords:
    """The records of one or more JSON files, each read when it is needed.

    Raises:
        ValueError: a file is empty, or a list that is not JSON.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._rows = [JsonRows(file) for file in files]
        self._first_records = np.cumsum([0, *(len(rows) for rows in self._rows)])

    def __len__(self) -> int:
        return int(self._first_records[-1])

    def __getitem__(self, number: int) -> Any:
        rows, number_in_file = self._find(number)
        try:
            return rows[number_in_file]
        except RowError as error:
            raise BadRecord(str(error)) from error

    def location(self, number: int) -> str:
        """Return the file, the number of the record in a list, and the line."""
        rows, number_in_file = self._find(number)
        line = rows.span(number_in_file).line
        if rows.is_list:
            return f"{rows.path.name}, record {number_in_file + 1} (line {line})"
        return f"{rows.path.name}, line {line}"

    def _find(self, number: int) -> tuple[JsonRows, int]:
        """Return the file of a record, and its number there."""
        file = int(np.searchsorted(self._first_records, number, side="right")) - 1
        return self._rows[file], number - int(self._first_records[file])
