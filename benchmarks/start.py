"""What an answer takes from the start of the program, and weights in a precision that a CPU is slow in."""

import operator
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pairing import ENVIRONMENT, Pair, Row, Settings, compare_time, limit_row
from PIL import Image

from monkeylib import load_model, resources

QUESTION = "What is written in the image?"
# What a program takes that imports libraries and does nothing, for comparison.
IMPORTS = {
    "Python alone": "pass",
    "import torch": "import torch",
    "import torch and transformers' models": "import torch, transformers.modeling_utils",
    "import monkeylib.inference": "import monkeylib.inference",
}


def start_up(settings: Settings) -> list[Row]:
    """Return the rows of `monkeylib answer` with nano from start to end, and of what it imports."""
    image = resources.REPOSITORY / "data" / "samples" / "sign.png"
    answer = ["-m", "monkeylib", "answer", str(image), QUESTION]
    programs = {"monkeylib answer, start to end": answer}
    programs |= {f"… of it: {name}": ["-c", code] for name, code in IMPORTS.items()}

    rows = []
    for name, arguments in programs.items():
        processor, wall = [], []
        for _ in range(settings.rounds):
            seconds = _run([sys.executable, *arguments])
            processor.append(seconds[0])
            wall.append(seconds[1])
        row = limit_row(name, "nano" if "answer" in name else "–", "s of processor time", processor, target=2)
        row["wall seconds"] = min(wall)
        if name not in ("monkeylib answer, start to end",):
            row["target"] = row["met"] = None
        rows.append(row)
    return rows


def _run(command: list[str]) -> tuple[float, float]:
    """Run a program, and return its seconds of processor and wall-clock time."""
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def half_precision(settings: Settings) -> list[Row]:
    """Return the row of a checkpoint in float16, as `load_model` computes it here, against one in float32."""
    image = Image.open(resources.REPOSITORY / "data" / "samples" / "sign.png").convert("RGB")
    base = resources.models() / "nano-base"
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "half"
        load_model(base, dtype="float16").save(folder)
        half, full = load_model(folder), load_model(base, dtype="float32")
    half.cached_images = full.cached_images = 0

    def answer(monkey: object) -> str:
        return str(monkey.answer(image, QUESTION, max_new_tokens=10))

    pair = Pair(lambda: answer(half), lambda: answer(full), operator.eq)
    size = f"nano-base, computed in {str(half.model.dtype).removeprefix('torch.')}"
    return [compare_time("float16 checkpoint on a CPU", "float32", size, pair, settings, target=0.95)]


ROWS = {"start_up": start_up, "half_precision": half_precision}
