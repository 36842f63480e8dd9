"""What makes a training run: two runs of the same fingerprint end with the same weights.

The settings are those that train, whatever the profile is called; base weights, tokenizer and data count
with their content, wherever they lie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monkeylib import resources, runs
from monkeylib.digests import FileDigests
from monkeylib.fields import flatten
from monkeylib.model import limits
from monkeylib.profiles import Profile, build
from monkeylib.profiles.raised import RaisedProfile
from monkeylib.training.batches import TrainingData

KIND = "training"

# Fields with which a run may go on: how far it trains, how the work is divided, how often it is saved, and
# how much of the data may be bad.
MAY_CHANGE = (
    "training.steps",
    "training.micro_batch_size",
    "training.workers",
    "training.max_bad_share",
    "training.save_every_steps",
    "training.save_every_minutes",
    "data.epoch_records",
    "devices",
)

# Fields of a profile that change no weight, or that stand for files whose content counts.
_NOT_TRAINED: dict[str, Any] = {
    "name": True,
    "description": True,
    "evaluation": True,
    "ablation": True,
    "base_checkpoint": True,
    "projector": True,
    "language_model": {"tokenizer"},
}

_NOT_TRAINED_OF_RAISED: dict[str, Any] = {
    "name": True,
    "description": True,
    "evaluation": True,
    "base": True,
}

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.onnx")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "*.tiktoken", "vocab.json", "merges.txt")


def training_fingerprint(
    profile: Profile | RaisedProfile, data: TrainingData, devices: int = 1, nodes: int = 1
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fingerprint of a run, and the fields of it that have their default value.

    A manifest of an earlier version may lack the latter.

    Raises:
        FileNotFoundError: the base model is missing.
        ValueError: a file of weights or of a tokenizer is absurdly large.
    """
    is_raised = isinstance(profile, RaisedProfile)
    excluded = _NOT_TRAINED_OF_RAISED if is_raised else _NOT_TRAINED
    fields = profile.model_dump(mode="json", exclude=excluded)
    given = flatten(profile.model_dump(mode="json", exclude=excluded, exclude_defaults=True))
    defaults = {name: value for name, value in flatten(fields).items() if name not in given}

    # One device alone or several with a copy each: the same sums, and the same checkpoints.
    if fields["training"]["strategy"] != "fsdp":
        fields["training"]["strategy"] = "auto or ddp"
    fields["devices"] = {"per_node": devices, "nodes": nodes}

    if is_raised:
        folder = Path(profile.base)
        fields["base"] = _content(folder) if folder.is_dir() else profile.base
    else:
        _add_files(fields, profile)

    fields["data"] = {"records": data.digest} if isinstance(data.digest, str) else data.digest()
    if data.num_records is not None:
        fields["data"]["epoch_records"] = data.num_records
    return fields, defaults


def _add_files(fields: dict[str, Any], profile: Profile) -> None:
    """Add the digests of what a Monkey is built from."""
    for component in ("vision", "language_model"):
        name = fields[component]["pretrained"]
        if name is not None and Path(name).is_dir():
            fields[component]["pretrained"] = _content(Path(name))
    if profile.language_model.tokenizer is not None:
        folder = resources.REPOSITORY / profile.language_model.tokenizer
        fields["language_model"]["tokenizer"] = _content(folder, weights=False)
    if profile.base_checkpoint is not None:
        fields["base"] = _content(build.base_folder(profile))

    if profile.projector is not None:
        file = build.projector_file(profile)
        fields["projector"] = FileDigests.in_cache().digests([file])[file]


def _content(folder: Path, *, weights: bool = True) -> dict[str, str]:
    """Return the digests of a folder's tokenizer and, if requested, of its weights, by the files' names.

    Raises:
        ValueError: a file is larger than one of its kind may be, and would be read for hours.
    """
    kinds = [(_TOKENIZER, limits.MAX_TOKENIZER_BYTES, "a tokenizer")]
    if weights:
        kinds.append((_WEIGHTS, limits.MAX_WEIGHTS_BYTES, "weights"))

    files = []
    for patterns, largest, content in kinds:
        for file in (file for pattern in patterns for file in folder.glob(pattern)):
            if file.is_file():
                limits.check_file_size(file, largest, content)
                files.append(file)

    digests = FileDigests.in_cache().digests(files)
    return {file.name: digests[file] for file in sorted(files)}


def seed_of_run(folder: Path) -> int | None:
    """Return the seed of the training that a folder holds; None if it holds none, or one that is damaged."""
    try:
        manifest = runs.read_manifest(folder)
    except (OSError, ValueError):  # for the run to tell that goes there
        return None
    if manifest is None or manifest.kind != KIND:
        return None
    return flatten(manifest.fingerprint).get("training.seed")
