"""Files of weights in a checkpoint folder of either layout, checked before a tensor is read.

A checkpoint may come from a stranger or from a broken copy. Names, shapes and dtypes are read from the files'
headers and compared with what the configuration describes, so that nothing absurd takes memory. Nothing in a
file is executed, and no file outside the folder is read. That the values are finite is checked while they
are loaded, which costs about 0.1 seconds a gigabyte.
"""

from __future__ import annotations

import contextlib
import errno
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from monkeylib import resources
from monkeylib.errors import first_line, is_out_of_memory
from monkeylib.fields import flatten
from monkeylib.settings_files import read_json

# A single file, and the index of several, by preference.
_WEIGHT_FILES = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
# The disk is full, its quota or a file's size exhausted, or it fails.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

# As a safetensors header spells them; weights of any other kind are refused.
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@contextlib.contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder for weights that becomes `path` if the block succeeds, and is removed if not.

    Raises:
        FileExistsError: `path` is a file, or a folder that is not empty.
        OSError: the files cannot be written, for example since the disk is full.
    """
    try:
        with resources.create_folder(path) as folder:
            yield folder
    except (OSError, RuntimeError, SafetensorError) as error:
        if (reason := _disk_error(error)) is None:
            raise
        raise OSError(
            f"the new checkpoint could not be written ({reason}): check space and rights of the disk"
        ) from error


def _disk_error(error: Exception) -> str | None:
    """Return what kept a library from writing a file, None if the error is another one."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in _DISK_ERRORS else None
    if isinstance(error, SafetensorError):
        return str(error) if "I/O error" in str(error) else None
    # PyTorch's writer hides the error of the system.
    is_of_writer = "PytorchStreamWriter" in str(error) or "inline_container" in str(error)
    return "PyTorch could not write a file" if is_of_writer else None


@dataclass(frozen=True)
class WeightFiles:
    """Weights of a checkpoint folder, as the headers of its files describe them.

    Fields:
        folder: the folder.
        files: the keys in each file.
        shapes: by key, shape and dtype as a tensor on the meta device.
    """

    folder: Path
    files: dict[str, list[str]]
    shapes: dict[str, torch.Tensor]

    @property
    def file_of(self) -> dict[str, str]:
        """File of each key."""
        return {key: name for name, keys in self.files.items() for key in keys}

    def path_of(self, key: str) -> Path:
        """Return the path of the file that holds a key."""
        return self.folder / self.file_of[key]

    @contextlib.contextmanager
    def open(self) -> Iterator[dict[str, LazyTensor]]:
        """Yield every tensor by key, read when it is used.

        Raises:
            ValueError: at the end, if a tensor that was read holds a value that is not finite.
        """
        problems: list[str] = []
        with contextlib.ExitStack() as stack:
            tensors: dict[str, LazyTensor] = {}
            for name, keys in self.files.items():
                path = self.folder / name
                if path.suffix == ".safetensors":
                    file = stack.enter_context(safe_open(path, framework="pt"))
                    slices = {key: file.get_slice(key) for key in keys}
                else:
                    slices = read_shard(path)
                tensors |= {key: LazyTensor(slices[key], key, path, problems) for key in keys}

            yield tensors

        if problems:
            raise ValueError(problems[0])


class LazyTensor:
    """Tensor of a file, which is read from disk and checked when it is indexed.

    Stands where transformers' loader expects a slice of a safetensors file.
    """

    def __init__(self, source: Any, key: str, path: Path, problems: list[str]) -> None:
        self._source = source
        self._key = key
        self._path = path
        self._problems = problems

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Return the part of the tensor at an index; `[...]` for all of it.

        A value that is not finite is noted, not raised: transformers' loader hides what its threads raise.
        """
        # The copy is the model's memory: a tensor of a `.bin` still lies in the file.
        tensor = self._source[index].clone() if self._is_tensor else self._source[index]
        try:
            check_finite(tensor, self._key, self._path)
        except ValueError as error:
            self._problems.append(str(error))
        return tensor

    def read(self) -> torch.Tensor:
        """Return the tensor.

        Raises:
            ValueError: a value is not finite.
        """
        tensor = self._source[...]
        check_finite(tensor, self._key, self._path)
        return tensor

    @property
    def _is_tensor(self) -> bool:
        return isinstance(self._source, torch.Tensor)

    def get_shape(self) -> list[int]:
        """Return the shape."""
        return list(self._source.shape) if self._is_tensor else self._source.get_shape()


def check_finite(tensor: torch.Tensor, key: str, path: Path) -> None:
    """Check that no value is infinite or no number.

    Raises:
        ValueError: one is; the message names key and file.
    """
    if not tensor.numel() or not tensor.is_floating_point():
        return

    # One pass that allocates nothing, thirty times as fast as `isfinite`: no number spreads to both ends.
    lowest, highest = torch.aminmax(tensor)
    if not bool(torch.isfinite(lowest) & torch.isfinite(highest)):
        count = int((~torch.isfinite(tensor)).sum())
        raise ValueError(
            f"{key} in {path} holds {count:,} of {tensor.numel():,} values that are not finite (NaN or "
            "infinity): take the weights of an earlier step, or fetch them again"
        )


def open_weights(folder: Path) -> WeightFiles:
    """Read which tensors the files of a folder hold, by their headers.

    Raises:
        FileNotFoundError: there are no weights, or a file of the index is missing.
        ValueError: a file is cut off, holds something other than floating-point tensors by name, would
            execute code, lies outside the folder, or the index does not agree with it.
    """
    files: dict[str, list[str]] = {}
    shapes: dict[str, torch.Tensor] = {}

    # The index may promise tensors that a file does not hold, or the reverse.
    for name, keys_in_index in _list_files(folder).items():
        in_file = read_shapes(folder / name)
        differing = sorted(set(in_file) ^ set(keys_in_index or in_file))
        if differing:
            raise ValueError(
                f"the index of {folder} and its file {name} do not agree on {_first_names(differing)}: "
                "fetch both again"
            )
        files[name] = list(in_file)
        shapes |= in_file

    return WeightFiles(folder, files, shapes)


def _list_files(folder: Path) -> dict[str, list[str]]:
    """Return the files of weights, each with its keys as the index lists them; no keys without an index."""
    for single_file, index in _WEIGHT_FILES:
        if (folder / index).is_file():
            weight_map = read_json(file_inside(folder, index)).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise ValueError(f"{folder / index} has no weight_map of keys and files: fetch it again")

            files: dict[str, list[str]] = {}
            for key, name in weight_map.items():
                # A path in an index could point outside of the folder.
                if not is_plain_name(name):
                    raise ValueError(
                        f"{folder / index} names the file {name!r} for {key}: it must lie in the folder"
                    )
                files.setdefault(name, []).append(key)
            return dict(sorted(files.items()))

        if (folder / single_file).exists() or (folder / single_file).is_symlink():
            return {single_file: []}

    single_files = " or ".join(single_file for single_file, _ in _WEIGHT_FILES)
    raise FileNotFoundError(
        f"there are no weights in {folder}: expected {single_files}, or shards with their index"
    )


def is_plain_name(name: Any) -> bool:
    """Tell whether a value is the name of a file, without a folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def file_inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a checkpoint folder.

    A model hub's cache keeps the files of a folder as links to its own `blobs`, which are followed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a link that leads out of the folder.
    """
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} is missing: fetch it again")

    target = path.resolve()
    # <model>/snapshots/<revision>/<file> -> <model>/blobs/<digest>
    places = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        places.append(folder.resolve().parents[1] / "blobs")

    if not any(target.is_relative_to(place) for place in places):
        raise ValueError(
            f"{path} is a link that leads out of its folder, to {target}: put the file itself there"
        )
    return path


def read_shapes(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file on the meta device: shape and dtype alone.

    Raises:
        FileNotFoundError, ValueError: as `open_weights`.
    """
    _check_file(path)
    if path.suffix != ".safetensors":
        tensors = read_shard(path)
        for key, tensor in tensors.items():
            if tensor.dtype not in _DTYPES.values() or tensor.layout != torch.strided:
                _raise_dtype(key, path, str(tensor.dtype).removeprefix("torch."))
        return {key: tensor.to("meta") for key, tensor in tensors.items()}

    shapes = {}
    with explain_broken(path), safe_open(path, framework="pt") as file:
        for key in file.keys():
            header = file.get_slice(key)
            dtype = _DTYPES.get(header.get_dtype())
            if dtype is None:
                _raise_dtype(key, path, header.get_dtype())
            shapes[key] = torch.empty(header.get_shape(), dtype=dtype, device="meta")

    return shapes


def _raise_dtype(key: str, path: Path, dtype: str) -> None:
    raise ValueError(
        f"{key} in {path} is of the dtype {dtype}: expected weights in float32, bfloat16 or float16"
    )


def read_shard(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of one file, left on disk until they are used; nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut off, holds something other than tensors, or would execute code.
    """
    _check_file(path)
    with explain_broken(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            # mmap: only the tensors that are used are read from disk.
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except ValueError as error:
            # Of broken content; `explain_broken` leaves a ValueError as it is.
            raise RuntimeError(str(error)) from error

    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise ValueError(f"{path} holds something other than tensors by name: take the weights alone")
    return tensors


def read_finite(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of one file as `read_shard` does, and check their values.

    Raises:
        FileNotFoundError, ValueError: as `read_shard`, or a value is not finite.
    """
    tensors = read_shard(path)
    for key in tensors:
        check_finite(tensors[key], key, path)
    return tensors


def _check_file(path: Path) -> None:
    try:
        file_inside(path.parent, path.name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the file of weights {path} is missing: fetch it again") from error
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty: fetch it again")


@contextlib.contextmanager
def explain_broken(path: Path | str) -> Iterator[None]:
    """Replace what readers of weights raise about a broken file by one sentence with its name.

    Args:
        path: the file, or what else is being loaded.

    Raises:
        ValueError: in place of the reader's errors.
        OSError, ImportError, MemoryError, RuntimeError: as they come, where the file may be sound: it cannot
            be read, a package is missing, or there is not enough memory.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{path} holds {match[1] if match else 'an object'}, which could run code when loaded, and was "
            "not loaded: take the weights from their publisher"
        ) from error
    # Readers of a broken file raise whatever they stumble over, from IndexError to AssertionError.
    except Exception as error:
        # The file may be sound; a ValueError is a sentence already, unless it is of text that is none.
        is_sentence = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
        if is_sentence or isinstance(error, (OSError, ImportError)) or is_out_of_memory(error):
            raise
        raise ValueError(
            f"{path} is cut off or is no file of weights ({first_line(error)}): fetch it again"
        ) from error


def check_tensors(
    weights: WeightFiles,
    expected: Mapping[str, Iterable[int]],
    optional: Iterable[str] = (),
    advice: str = "fetch them again",
    described_by: str = "config.json",
) -> None:
    """Compare keys and shapes in the files with what a configuration describes.

    Args:
        weights: of the folder.
        expected: shape of each key.
        optional: keys that the files may lack.
        advice: what to do about missing or unexpected keys.
        described_by: where the configuration comes from.

    Raises:
        ValueError: a key is missing or unexpected, or has another shape; the message names it and its file.
    """
    may_lack = set(optional)
    missing = [key for key in expected if key not in weights.shapes and key not in may_lack]
    unexpected = [key for key in weights.shapes if key not in expected]

    problems = []
    if missing:
        problems.append(f"lack {_first_names(missing)}")
    if unexpected:
        files = weights.file_of
        names = _first_names([f"{key} ({files[key]})" for key in unexpected])
        problems.append(f"hold {names}, which {described_by} knows nothing of")
    if problems:
        raise ValueError(f"the weights in {weights.folder} {' and '.join(problems)}: {advice}")

    for key, tensor in weights.shapes.items():
        shape = list(expected[key])
        if list(tensor.shape) != shape:
            raise ValueError(
                f"{key} in {weights.path_of(key)} has the shape {list(tensor.shape)}, {described_by} asks "
                f"for {shape}: take both from one checkpoint"
            )


def check_layers(weights: WeightFiles, settings: Mapping[str, Any], path: Path) -> None:
    """Check that a configuration has no more layers than the files have tensors.

    Building the layers alone takes time and memory, also without their weights.

    Raises:
        ValueError: it has; the message names file and field.
    """
    for name, value in flatten(settings).items():
        is_count = name.rpartition(".")[2] in ("layers", "num_hidden_layers")
        if is_count and isinstance(value, int) and value > len(weights.shapes):
            raise ValueError(
                f"{path}, {name}, is {value:,}, but the files of weights hold {len(weights.shapes)} tensors: "
                "take both from one checkpoint"
            )


def _first_names(names: list[str]) -> str:
    """Join the first names of a list, and say how many more there are."""
    listed = ", ".join(names[:3])
    if len(names) <= 3:
        return listed
    return f"{listed} and {len(names) - 3} more"
