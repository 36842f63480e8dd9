"""Folders that runs write into.

* `resuming` decides whether a run may resume the one that a folder holds.
* `folder` writes: `RunFolder` removes and overwrites nothing but the run's own files.
* `manifest` is `run.json`, the record of the run and the list of its files, whose names are in `names`.
* `lock` keeps a second process out.
"""

from monkeylib.runs.folder import RunFolder, clear
from monkeylib.runs.manifest import Manifest, code_version, read_manifest
from monkeylib.runs.names import HOLDER, LOCK, MANIFEST
from monkeylib.runs.resuming import RunDiffers

__all__ = [
    "HOLDER",
    "LOCK",
    "MANIFEST",
    "Manifest",
    "RunDiffers",
    "RunFolder",
    "clear",
    "code_version",
    "read_manifest",
]
