"""Checkpoints of a training run: when they are saved, how they are written, and which ones can be read.

They lie in the run's folder as `checkpoints/step-000012.ckpt`: a file, or of FSDP a folder with a file of
each process. The last two are kept, and the one with the lowest validation loss, which
`checkpoints/best.json` names.
"""

from __future__ import annotations

import errno
import json
import math
import pickle
import re
import time
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from monkeylib import digests, resources
from monkeylib.errors import is_out_of_memory
from monkeylib.runs import RunFolder
from monkeylib.training.strategies import DIGESTS_FILE, LEFTOVER_ENDS, SHARD_FILES, ShardedStrategy

FOLDER, BEST_FILE = "checkpoints", "best.json"

# Besides the best one.
LAST_COUNT = 2

# In errors of PyTorch's writer of files.
_WRITER_WORDS = ("inline_container", "PytorchStreamWriter", "unexpected pos")

# What every checkpoint holds, besides the weights and the state of the optimiser.
_ENTRIES = {"global_step", "loops", "callbacks", "profile"}

# What the file `.metadata` of a sharded checkpoint consists of, besides dtypes.
_METADATA_NAMES = {
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath", "WindowsPath"},
    "torch": {"Size"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.serialization": {"_get_layout"},
}


# --- files


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the path of the checkpoint after an optimiser step."""
    return run / FOLDER / f"step-{step:06}.ckpt"


def list_checkpoints(run: str | Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first, whether they can be read or not."""
    run = resources.to_path(run)
    paths = [path for path in (run / FOLDER).glob("step-*.ckpt") if _step_of(path) is not None]
    return sorted(paths, key=_step_of)


def _step_of(path: Path) -> int | None:
    match = re.fullmatch(r"step-(\d+)\.ckpt", path.name)
    return int(match[1]) if match else None


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, None if it is whole.

    A file carries a checksum of each tensor, and a folder the digests of its files.

    Raises:
        MemoryError: there is too little memory to read it.
        OSError: it cannot be read now, which says nothing about what is in it.
    """
    try:
        return _damage_of_folder(path) if path.is_dir() else _damage_of_file(path)
    except OSError as error:
        # A broken file may name a position before its beginning.
        if error.errno == errno.EINVAL:
            return "it is cut off or no checkpoint"

        raise OSError(
            f"the checkpoint {resources.display_path(path)} cannot be read ({error.strerror or error}), "
            "though it may be whole: check the disk and its rights, and run it again"
        ) from error


def _damage_of_folder(folder: Path) -> str | None:
    file = folder / DIGESTS_FILE
    if not file.is_file():
        return f"it has no {DIGESTS_FILE}"

    try:
        expected = dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError:
        return f"its {DIGESTS_FILE} is broken"

    for name, digest in expected.items():
        part = folder / Path(name).name
        if not part.is_file():
            return f"its file {name} is missing"
        if digests.file_digest(part) != digest:
            return f"its file {name} is broken"

    # PyTorch unpickles this file as it is, whatever it names.
    try:
        with (folder / ".metadata").open("rb") as opened:
            _MetadataUnpickler(opened).load()
    except OSError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return "its file .metadata is not one of PyTorch's"
    return None


class _MetadataUnpickler(pickle.Unpickler):
    """Reads what a sharded checkpoint says about its tensors, and refuses to name anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class or function that a file names.

        Raises:
            pickle.UnpicklingError: such a file has no need of it.
        """
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not (is_dtype or name in _METADATA_NAMES.get(module, ())):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def _damage_of_file(file: Path) -> str | None:
    if file.stat().st_size == 0:
        return "it is empty"

    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
        if broken is not None:
            return "its checksums do not fit"
        # Tensors are left on the disk.
        content = torch.load(file, map_location="meta", mmap=True, weights_only=True)
    except OSError:
        raise
    # Whatever the bytes look like to the readers of zip files and of pickles.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # The checksums fit: it is the system that fails.
        if "unable to mmap" in str(error) or "unable to open file" in str(error):
            raise OSError(str(error).split(": ")[-1]) from error
        return "it is cut off or no checkpoint"

    if not isinstance(content, dict) or not content.keys() >= _ENTRIES | {"state_dict"}:
        return "it is not of a training run"
    return None


def find_last_checkpoint(run: Path) -> Path | None:
    """Return the last checkpoint of a run that can be read, None if the run has saved none.

    Those after it are named in a warning. Only the first process reads them: the strategies have the others
    load what it has found.

    Raises:
        OSError: the disk does not give a checkpoint, which may be whole.
        ValueError: there are checkpoints, but all of them are broken.
    """
    paths = list_checkpoints(run)
    if rank_zero_only.rank != 0:
        return paths[-1] if paths else None

    problems: list[str] = []
    for path in reversed(paths):
        damage = find_damage(path)
        if damage is None:
            if problems:
                warnings.warn(
                    f"{'; '.join(problems)}: {resources.display_path(path)} is used instead",
                    stacklevel=2,
                )
            return path
        problems.append(f"the checkpoint {resources.display_path(path)} cannot be used, since {damage}")

    if problems:
        raise ValueError(
            f"{'; '.join(problems)}: put a copy of one back, or name another folder to train from the start"
        )
    return None


def find_best_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint of the lowest validation loss, None if the run has none."""
    file = run / FOLDER / BEST_FILE
    if not file.is_file():
        return None

    try:
        path = checkpoint_path(run, int(json.loads(file.read_text(encoding="utf-8"))["step"]))
    except (ValueError, TypeError, KeyError):
        return None
    return path if path.exists() else None


def file_names(step: int, sharded: bool = False) -> list[str]:
    """Return the names, in the manifest of a run, of what is written for a checkpoint."""
    name = checkpoint_path(Path(), step).as_posix()
    if not sharded:
        return [name]

    beside = [(Path(FOLDER) / f".{Path(name).name}.{end}").as_posix() for end in LEFTOVER_ENDS]
    return [name, *(f"{folder}/{file}" for folder in (name, *beside) for file in SHARD_FILES)]


def owned_checkpoints(run: RunFolder) -> list[Path]:
    """Return the paths of the checkpoints that a run has written or has begun to write, the oldest first.

    The checkpoints that a user has put there are not among them.
    """
    paths = {run.path / name for name in run.manifest.files if PurePosixPath(name).parent.name == FOLDER}
    paths |= {path for path in list_checkpoints(run.path) if run.owns(path.relative_to(run.path).as_posix())}
    return sorted((path for path in paths if _step_of(path) is not None), key=_step_of)


def remove_checkpoints(run: RunFolder, keep: Iterable[Path | None]) -> None:
    """Remove all checkpoints that a run has written but some, and what is half-written of them."""
    obsolete = [path for path in owned_checkpoints(run) if path not in set(keep)]
    run.remove_all(name for path in obsolete for name in file_names(_step_of(path), sharded=True))


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their destination, to the disk itself, and then gives them their name.

    Lightning's own first makes a copy in memory and another one in the folder of temporary files. Where that
    is on another file system, a kill destroys the previous checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint tensor by tensor.

        What lay at its path is as it was if this fails.

        Raises:
            OSError: the file could not be written.
            RuntimeError: the weights could not be read from their device.
        """
        with resources.atomic_write(Path(path), durable=True) as temporary, temporary.open("xb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # PyTorch hides what stopped it in the middle of a file.
                if error.__context__ is not None:
                    raise error.__context__ from None
                if is_out_of_memory(error) or not any(words in str(error) for words in _WRITER_WORDS):
                    raise
                raise OSError(str(error)) from error


# --- when to save


class SaveCheckpoints(L.Callback):
    """Save after the first step, every so many steps or minutes, at the lowest validation loss, and at the
    end.

    Saving after the first step makes a full or read-only disk stop the run at once.

    A step that is validated is saved after its validation. A run that is killed during the validation
    repeats the step, and validates it.

    Args:
        run: folder of the run, which has been started.
        every_steps: optimiser steps.
        every_minutes: minutes since the last checkpoint, whichever comes first; None: steps alone.
    """

    def __init__(self, run: RunFolder, every_steps: int, every_minutes: float | None = None):
        self.run, self.every_steps, self.every_minutes = run, every_steps, every_minutes
        self.best_loss, self.best_step = math.inf, None
        self.is_due = False
        self.saved_step: int | None = None
        self.saved_at = time.monotonic()
        self.unread: set[Path] = set()

    def state_dict(self) -> dict[str, Any]:
        """Return the lowest validation loss so far, and its step."""
        return {"best": self.best_loss, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the lowest validation loss, unless its checkpoint is gone."""
        step = state_dict["best_step"]
        if step is not None and checkpoint_path(self.run.path, step).exists():
            self.best_loss, self.best_step = state_dict["best"], step

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the clock; a resumed run has the step where it stopped."""
        self.saved_step, self.saved_at = trainer.global_step or None, time.monotonic()
        # Later ones are broken, or the run would have resumed there.
        paths = list_checkpoints(self.run.path)
        self.unread = {path for path in paths if _step_of(path) > trainer.global_step}

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save between two optimiser steps, when it is due."""
        # Lightning calls this after every micro-batch; a step is complete after the last of them.
        if (batch_idx + 1) % module.accumulation_steps:
            return

        self.is_due = self._is_due(trainer)
        validated = module.data.validation is not None and (batch_idx + 1) % trainer.val_check_batch == 0
        if self.is_due and not validated:
            self.save(trainer)

    def _is_due(self, trainer: L.Trainer) -> bool:
        step = trainer.global_step
        if step in (1, trainer.max_steps) or step % self.every_steps == 0:
            return True
        if self.every_minutes is None:
            return False

        # All processes save at the same step, and their clocks differ: the first one's counts.
        is_late = trainer.is_global_zero and time.monotonic() - self.saved_at >= 60 * self.every_minutes
        return trainer.strategy.reduce_boolean_decision(is_late, all=False)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save where the loss is the lowest so far, or if it is due; a step saved already is saved anew."""
        step = trainer.global_step
        loss = trainer.callback_metrics.get("val/loss")
        is_best = loss is not None and float(loss) < self.best_loss
        if is_best:
            self.best_loss, self.best_step = float(loss), step

        if is_best or self.is_due or step == self.saved_step:
            self.saved_step = None
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Save the current step, unless it is saved already; every process has to call this.

        Raises:
            OSError: it could not be written, in all processes.
        """
        step = trainer.global_step
        if step == self.saved_step:
            return

        path = checkpoint_path(self.run.path, step)
        self._own(trainer, path)
        try:
            trainer.save_checkpoint(path)
        except OSError as error:
            raise self._error(path, error.strerror or str(error)) from error

        if trainer.is_global_zero:
            # Lightning hides some failures to write.
            if not (zipfile.is_zipfile(path) or (path / DIGESTS_FILE).is_file()):
                raise self._error(path, "it is not there")
            self._remove_old(step)

        self.saved_step, self.saved_at, self.is_due = step, time.monotonic(), False

    def _own(self, trainer: L.Trainer, path: Path) -> None:
        """Note in the manifest that a checkpoint belongs to the run, before it is written.

        Raises:
            OSError: in all processes: it cannot be noted, or somebody else's file has its name.
        """
        problem = None
        if trainer.is_global_zero:
            is_sharded = isinstance(trainer.strategy, ShardedStrategy)
            try:
                self.run.own_all(file_names(_step_of(path), is_sharded))
            except OSError as error:
                problem = error.strerror or str(error)

        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise self._error(path, problem)

    def _error(self, path: Path, reason: str) -> OSError:
        """Return the error for a checkpoint that could not be written."""
        others = [other for other in list_checkpoints(self.run.path) if other != path]
        rest = f"goes on from {others[-1].name}" if others else "starts anew"
        return OSError(
            f"the checkpoint {resources.display_path(path)} could not be written ({reason}): check space and "
            f"rights of the disk, and run it again, which {rest}"
        )

    def _remove_old(self, step: int) -> None:
        """Remove all checkpoints but the best and the last ones, this step's among them.

        Those that could not be read when the run resumed stay until it has passed their step: somebody may
        still want to recover what is in them.
        """
        self.unread.discard(checkpoint_path(self.run.path, step))
        paths = owned_checkpoints(self.run)
        keep = [path for path in paths if _step_of(path) <= step and path not in self.unread][-LAST_COUNT:]
        keep += [path for path in self.unread if _step_of(path) > step]

        # Before the best one of until now is removed.
        if self.best_step is not None:
            keep.append(checkpoint_path(self.run.path, self.best_step))
            with resources.atomic_write(self.run.path / FOLDER / BEST_FILE, durable=True) as temporary:
                best = {"step": self.best_step, "loss": self.best_loss}
                temporary.write_text(json.dumps(best) + "\n", encoding="utf-8")

        remove_checkpoints(self.run, keep)


def save_checkpoint(trainer: L.Trainer) -> None:
    """Save the current step of a run, unless it is saved already; every process has to call this.

    Raises:
        OSError: it could not be written, in all processes.
    """
    for callback in trainer.callbacks:
        if isinstance(callback, SaveCheckpoints):
            callback.save(trainer)
