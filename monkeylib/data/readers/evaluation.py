"""The released evaluation data: JSON lines of `{"image", "question", "answer", "question_id"}`.

`answer` is a text or a list of texts that all count as right; the most frequent one is trained on.
"""

from pathlib import Path

from monkeylib.data.readers.base import Row, SetRecords, locate
from monkeylib.data.readers.json_files import JsonRows
from monkeylib.data.records import Record
from monkeylib.data.schema import DataSet


def read(entry: DataSet, root: Path) -> SetRecords:
    """The records of one or more files."""
    return SetRecords(entry, root, JsonRows(locate(entry, root)), parse)


def parse(row: Row) -> Record:
    """A record, its question in the set's prompt."""
    images = row.paths(row.field("image"), "image")
    prompt = row.prompt(row.field("question"), "question")
    answer = row.answer(row.field("answer"), "answer")
    return row.record(images, [(prompt, answer)], row.value.get("question_id"))
