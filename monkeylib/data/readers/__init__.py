"""Readers of training data: JSON files, tables and WebDataset shards, each read into `Record`s."""

from collections.abc import Callable, Mapping
from pathlib import Path

from monkeylib.data.readers import json_files, tables, webdataset
from monkeylib.data.readers.base import DatasetRecords
from monkeylib.data.schema import DatasetEntry

__all__ = ["READERS", "DatasetRecords"]

# Readers by format. A reader takes a dataset as a mixture states it, and the folder that relative paths start
# from, and indexes the dataset; errors of single records are raised when the records are read. It raises
# `FileNotFoundError` where there is nothing at the path, and `ValueError` for a file that is empty or not of
# the format.
READERS: Mapping[str, Callable[[DatasetEntry, Path], DatasetRecords]] = {
    "conversations": json_files.read_conversations,
    "evaluation": json_files.read_evaluation,
    "llava": json_files.read_llava,
    "datasets": tables.read_table,
    "webdataset": webdataset.read_shards,
}
