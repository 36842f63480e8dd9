"""Where, when and by which code a result was made: columns that a table of results has."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from monkeylib.runs.manifest import code_version


def origin() -> dict[str, str]:
    """Return the `machine`, its GPU or else its CPU; the `date` in UTC; and the `commit` of a checkout, empty
    without one."""
    return {
        "machine": _machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": code_version().get("commit", ""),
    }


def _machine() -> str:
    """Return the model of the GPU, or else of the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()

    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
