"""Diagnosis of this machine: what monkeylib finds here, what will run, and how to mend what will not."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from monkeylib import assets, resources
from monkeylib.errors import first_line

Status = Literal["ok", "missing", "note"]

# What needs which extra of the package, in the order of a newcomer.
_PURPOSES = {
    "synthetic": "the synthetic images of the profiles nano and smoke",
    "train": "fine-tuning: monkeylib train",
    "data": "data of other projects: monkeylib data",
    "captions": "captions: monkeylib caption",
    "chat": "captions written by a chat model",
    "serve": "answers for clients of OpenAI's chat API: monkeylib serve",
    "demo": "a page in the browser: monkeylib demo",
    "explore": "live widgets in notebooks: monkeylib.explore",
    "pretrained": "the profile small",
    "notebooks": "the series: make reproduce, make lab",
    "cluster": "captions on many machines: monkeylib caption --engine ray",
}

# Where a package has another name than its module.
_PACKAGES_OF_MODULES = {"skimage": "scikit-image"}


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was examined.

    Attributes:
        area: "machine", "packages", "folders", "models" or "assets".
        name: what was examined.
        status: "ok"; "missing" where something will not run; "note" where it runs, but not as it could.
        detail: what is there.
        remedy: how to mend it; empty if there is nothing to mend.
    """

    area: str
    name: str
    status: Status
    detail: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return its fields."""
        return asdict(self)


def diagnose() -> list[Diagnosis]:
    """Examine machine, packages, folders, shipped models and assets."""
    return [*_machine(), *_packages(), *_folders(), *_models(), *_assets()]


# --- machine and packages ---------------------------------------------------------------------------------


def _machine() -> Iterator[Diagnosis]:
    import torch

    from monkeylib.model import cpu

    yield Diagnosis("machine", "Python", "ok", f"{platform.python_version()} on {platform.platform()}")

    total, free = cpu.system_memory("MemTotal"), cpu.system_memory("MemAvailable")
    memory = "" if total is None or free is None else f", {_gigabytes(free)} of {_gigabytes(total)} free"
    yield Diagnosis("machine", "CPU", "ok", f"{os.cpu_count()} cores, {torch.get_num_threads()} used{memory}")

    speed = cpu.relative_speed(torch.bfloat16)
    if speed < 1:
        times = f"{1 / speed:.1f} times as slow as" if speed < 0.95 else "no faster than"
        detail = f"bfloat16 is {times} float32: weights become float32 where they fit"
        yield Diagnosis("machine", "CPU's precision", "note", detail)
    else:
        # Without a number: on a busy machine it is off by a factor.
        yield Diagnosis("machine", "CPU's precision", "ok", "bfloat16 is as fast as float32, or faster")

    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        detail = f"{torch.cuda.get_device_name(number)}, {_gigabytes(free)} of {_gigabytes(total)} free"
        yield Diagnosis("machine", f"GPU {number}", "ok", detail)
    if not torch.cuda.is_available():
        remedy = ""
        if shutil.which("nvidia-smi"):
            remedy = "this build of PyTorch sees none, although there is a driver: install one for CUDA"
        yield Diagnosis("machine", "GPU", "note", "none: models run on the CPU", remedy)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _packages() -> Iterator[Diagnosis]:
    version = metadata.version("monkeylib")
    core = [name for name in ("torch", "transformers", "numpy", "pillow") if _installed(name)]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in core)
    yield Diagnosis("packages", "monkeylib", "ok", f"{version} with {versions}")

    requirements = [Requirement(text) for text in metadata.requires("monkeylib") or ()]
    yield _find_missing("core", "everything", _of_extra(requirements, ""), install_command())
    for extra, purpose in _PURPOSES.items():
        yield _find_missing(extra, purpose, _of_extra(requirements, extra), install_command(extra))

    bits = _installed("bitsandbytes")
    detail = "quantised language models: --bits 4 and 8"
    remedy = "" if bits else f"{resources.program('pip')} install bitsandbytes, where there is a GPU"
    yield Diagnosis("packages", "bitsandbytes", "ok" if bits else "note", detail, remedy)


def install_command(extra: str = "") -> str:
    """Return the command that installs this version with an extra, from where it came: a checkout, the file
    or repository that pip was given, or an index."""
    pip, suffix = resources.program("pip"), f"[{extra}]" if extra else ""
    if resources.is_installed():
        source = _source()
        origin = f" @ {source}" if source else f"=={metadata.version('monkeylib')}"
        return f'{pip} install "monkeylib{suffix}{origin}"'
    folder = resources.display_path(resources.REPOSITORY)
    return f'{pip} install --editable "{folder}{suffix}"'


def _source() -> str:
    """Return the address that pip installed this package from, empty for an index; as PEP 610 records it."""
    record = metadata.distribution("monkeylib").read_text("direct_url.json")
    origin = json.loads(record) if record else {}
    if "vcs_info" in origin:
        return f"{origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}"
    is_editable = origin.get("dir_info", {}).get("editable", False)
    return "" if is_editable else origin.get("url", "")


def find_extra(module: str) -> str | None:
    """Return the first extra, in a newcomer's order, that brings a module; None if no extra does.

    Args:
        module: name of a module that is missing, such as "lightning.pytorch".
    """
    top = module.split(".")[0]
    package = canonicalize_name(_PACKAGES_OF_MODULES.get(top, top))
    requirements = [Requirement(text) for text in metadata.requires("monkeylib") or ()]
    for extra in _PURPOSES:
        if package in {canonicalize_name(other.name) for other in _of_extra(requirements, extra)}:
            return extra
    return None


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _of_extra(requirements: list[Requirement], extra: str) -> list[Requirement]:
    """Return what an extra requires, those of the extras that it names included."""
    selected: list[Requirement] = []
    for requirement in requirements:
        marker = requirement.marker
        is_core = marker is None or marker.evaluate({"extra": ""})
        is_of_extra = marker is not None and marker.evaluate({"extra": extra})
        if is_core if not extra else is_of_extra and not is_core:
            if requirement.name == "monkeylib":
                for other in requirement.extras:
                    selected += _of_extra(requirements, other)
            else:
                selected.append(requirement)
    return selected


def _find_missing(name: str, purpose: str, requirements: list[Requirement], remedy: str) -> Diagnosis:
    missing = []
    for requirement in requirements:
        if not _installed(requirement.name):
            missing.append(requirement.name)
        elif not requirement.specifier.contains(metadata.version(requirement.name), prereleases=True):
            missing.append(f"{requirement.name}{requirement.specifier}")

    if missing:
        return Diagnosis("packages", name, "missing", f"{purpose}: without {', '.join(missing)}", remedy)
    return Diagnosis("packages", name, "ok", purpose)


# --- files ------------------------------------------------------------------------------------------------


def _folders() -> Iterator[Diagnosis]:
    try:
        resources.seed()
    except ValueError as error:
        yield Diagnosis("folders", "seed", "missing", str(error), f"unset {resources.SEED}")
    for name, folder in {
        "outputs": resources.outputs() / "data" / "runs",
        "cache": resources.cache(),
    }.items():
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = _gigabytes(shutil.disk_usage(existing).free)
        shown = resources.display_path(folder)
        if os.access(existing, os.W_OK):
            yield Diagnosis("folders", name, "ok", f"{shown}, {free} free")
        else:
            remedy = "set MONKEYLIB_OUTPUTS to a folder that you may write to"
            yield Diagnosis("folders", name, "missing", f"{shown} may not be written", remedy)


def _models() -> Iterator[Diagnosis]:
    for name in (resources.SHIPPED_MONKEY, resources.SHIPPED_BASE):
        folder = resources.models() / name
        if (folder / "model.safetensors").exists():
            yield Diagnosis("models", name, "ok", resources.display_path(folder))
        else:
            remedy = "clone or install monkeylib anew, or name a model with --model"
            yield Diagnosis("models", name, "missing", f"not at {resources.display_path(folder)}", remedy)


def _assets() -> Iterator[Diagnosis]:
    try:
        listed = assets.list_assets()
    except OSError as error:
        yield Diagnosis("assets", "list", "missing", first_line(error), "clone or install monkeylib anew")
        return

    for asset in listed:
        folder = assets.locate(asset)
        if folder is not None:
            package = assets.package_of(asset, folder)
            place = f"in the package {package}" if package else resources.display_path(folder)
            yield Diagnosis("assets", asset.name, "ok", f"{asset.role}: {place}")
        else:
            remedy = (
                f"downloaded when first needed ({asset.size}), or now: monkeylib assets fetch {asset.name}"
            )
            yield Diagnosis("assets", asset.name, "missing", asset.role, remedy)
