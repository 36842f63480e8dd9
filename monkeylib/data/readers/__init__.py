"""Readers: one file per format, all giving `Record`s."""

from pathlib import Path

from monkeylib.data.readers import conversations, evaluation, llava, tables, webdataset
from monkeylib.data.readers.base import SetRecords
from monkeylib.data.schema import DataSet

READERS = {
    "conversations": conversations.read,
    "evaluation": evaluation.read,
    "llava": llava.read,
    "datasets": tables.read,
    "webdataset": webdataset.read,
}

__all__ = ["READERS", "SetRecords", "read"]


def read(entry: DataSet, root: Path) -> SetRecords:
    """The records of a set; what is wrong with single records is said when they are asked for.

    Args:
        entry: the set.
        root: folder that relative paths begin at.

    Raises:
        FileNotFoundError: there is nothing at the set's path.
        ValueError: a file is empty or not of the format.
    """
    return READERS[entry.format](entry, root)
