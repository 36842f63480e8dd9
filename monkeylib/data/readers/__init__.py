"""Readers of training data: JSON files, tables and WebDataset shards, each read into `Record`s."""

from pathlib import Path

from monkeylib.data.readers import json_files, tables, webdataset
from monkeylib.data.readers.base import DatasetRecords
from monkeylib.data.schema import DatasetEntry

READERS = {
    "conversations": json_files.read_conversations,
    "evaluation": json_files.read_evaluation,
    "llava": json_files.read_llava,
    "datasets": tables.read_table,
    "webdataset": webdataset.read_shards,
}

__all__ = ["READERS", "DatasetRecords", "read_dataset"]


def read_dataset(entry: DatasetEntry, root: Path) -> DatasetRecords:
    """Index a dataset; errors of single records are raised when the records are read.

    Args:
        entry: the dataset, as a mixture states it.
        root: folder that relative paths start from.

    Raises:
        FileNotFoundError: there is nothing at the dataset's path.
        ValueError: a file is empty or not of the format.
    """
    return READERS[entry.format](entry, root)
