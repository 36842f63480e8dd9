"""Declares torchvision's operators where its compiled library doesn't load.

Both harnesses import torchvision, whose wheels on PyPI are for CUDA. Beside a torch for CPUs, the import ends
because operators have no declaration. Monkey needs none of them.
"""

import importlib.util
import os
import sys
from pathlib import Path

import torch


def declare() -> None:
    """Declare the operators that torchvision's import asks for, unless its library has them."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or hasattr(torch.ops.torchvision, "nms"):
        return

    library = next(Path(spec.origin).parent.glob("_C*"), None)
    try:
        torch.ops.load_library(str(library))
    except OSError:
        # Kept for as long as the process runs: without a reference, the declarations go.
        declared = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(declared)


_LIBRARIES: list[torch.library.Library] = []


def main() -> None:
    """Run a module as `python -m` does, with the operators declared: MODULE ARGUMENTS..."""
    import runpy

    declare()
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.getcwd())
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
