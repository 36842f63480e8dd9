"""Runs that are killed at random moments, over and over, and have to end as uninterrupted ones.

A third of the runs lies on another file system than the folder of temporary files.
"""

from __future__ import annotations

import atexit
import functools
import math
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from monkeylib import resources
from monkeylib.captions.annotations import ExpertOutput, Region
from monkeylib.captions.experts import Expert
from monkeylib.captions.registry import register_expert
from monkeylib.cli import app
from monkeylib.cli import caption as cli_caption
from monkeylib.training.curves import read_curves
from tests.torture.cases import Case, require_success
from tests.torture.sandbox import Command, run

TMPFS = Path("/dev/shm")
SIGNALS = {
    "SIGKILL": (signal.SIGKILL, False),
    "SIGKILL to the group": (signal.SIGKILL, True),
    "SIGTERM": (signal.SIGTERM, False),
    "SIGTERM to the group": (signal.SIGTERM, True),
}

# With dropout, so that random states matter.
PROFILE = """\
extends: smoke
description: killed again and again
lora: {dropout: 0.3}
training: {workers: 1}
"""


@dataclass
class Kills:
    """What became of runs that were killed.

    Fields:
        signals: what was sent to a running process, in this order.
        runs: runs that came to their end, each killed several times on its way.
        faults: what differed from an uninterrupted run.
    """

    signals: list[str] = field(default_factory=list)
    runs: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Fields:
        name: what it is called in the table.
        prepare: writes what the run needs into a folder, and returns its command.
        compare: returns how a finished run differs from an uninterrupted one.
        done: its exit code when it is done.
    """

    name: str
    prepare: Callable[[Path], Sequence[str | Path] | Callable[[], None]]
    compare: Callable[[Path, Path], Iterator[str]]
    done: int = 0


# --- training


def _prepare_training(folder: Path) -> list[str | Path]:
    (folder / "profile.yaml").write_text(PROFILE, encoding="utf-8")
    options = ["--profile", folder / "profile.yaml", "--out", folder / "run"]
    return ["train", *options, "--steps", "12", "--micro-batch-size", "2", "--save-every", "2"]


def _compare_training(folder: Path, reference: Path) -> Iterator[str]:
    weights, expected = (load_file(at / "run" / "model" / "model.safetensors") for at in (folder, reference))
    differing = [name for name in expected if not torch.equal(weights[name], expected[name])]
    if differing:
        yield f"{len(differing)} of {len(expected)} weights differ, such as {differing[0]}"

    curves, expected_curves = (_curves(at / "run" / "metrics.csv") for at in (folder, reference))
    if curves != expected_curves:
        yield f"the curves differ: {len(curves)} rows for {len(expected_curves)}"

    name = "answers.jsonl"
    if (folder / "run" / name).read_text() != (reference / "run" / name).read_text():
        yield f"{name} differs"


def _curves(file: Path) -> list[tuple]:
    return [(row["part"], row["step"], row["loss"], row["exact"]) for row in read_curves(file)]


# --- evaluation


def _prepare_evaluation(folder: Path) -> list[str | Path]:
    model = ["--model", resources.models() / "nano-base"]
    return [
        "evaluate",
        *model,
        "--benchmarks",
        "nano-fine,nano-large",
        "--limit",
        "24",
        "--out",
        folder / "out",
    ]


def _compare_evaluation(folder: Path, reference: Path) -> Iterator[str]:
    for expected in sorted((reference / "out").rglob("*.jsonl")):
        file = folder / "out" / expected.relative_to(reference / "out")
        if not file.exists():
            yield f"{file.name} is missing"
        elif file.read_bytes() != expected.read_bytes():
            lines, expected_lines = (at.read_bytes().splitlines() for at in (file, expected))
            yield f"{file.name} differs: {len(lines)} lines for {len(expected_lines)}"


# --- captions


@register_expert("brightest-channel")
class BrightestChannel(Expert):
    """Names the brightest channel of an image; takes a little time for it."""

    name, version, licence = "brightest-channel", "1", "CC0-1.0"

    @property
    def settings(self) -> dict[str, object]:
        """Return nothing: there is nothing to set."""
        return {}

    def prepare(self) -> None:
        """Load nothing."""

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return one region for each image."""
        time.sleep(0.02)
        outputs = []
        for image in images:
            channel = int(np.asarray(image).mean(axis=(0, 1)).argmax())
            region = Region(
                box=(0, 0, *image.size), text=("red", "green", "blue")[channel], score=0.9, expert=self.name
            )
            outputs.append(ExpertOutput(regions=(region,)))
        return outputs


def _prepare_captions(folder: Path) -> Callable[[], None]:
    images = folder / "images"
    images.mkdir()
    draw = random.Random(0)
    for number in range(40):
        colour = tuple(draw.randrange(256) for _ in range(3))
        Image.new("RGB", (20 + number, 10), colour).save(images / f"{number:02}.png")
    (images / "17.png").write_bytes(b"broken")
    return partial(_caption, images, folder / "out")


def _caption(images: Path, out: Path) -> None:
    # The function lies here, so that the expert is registered in the process that calls it.
    options = ["--experts", "brightest-channel", "--batch-size", "2", "--report", "0"]
    sys.argv = ["monkeylib", "caption", str(images), "--out", str(out), *options]
    app.main()


def _compare_captions(folder: Path, reference: Path) -> Iterator[str]:
    lines, expected = ((at / "out" / "records.jsonl").read_bytes() for at in (folder, reference))
    if lines != expected:
        yield f"records.jsonl differs: {len(lines.splitlines())} records for {len(expected.splitlines())}"


KINDS = (
    Kind("training", _prepare_training, _compare_training),
    Kind("evaluation", _prepare_evaluation, _compare_evaluation),
    Kind("captions", _prepare_captions, _compare_captions, cli_caption.FAILED_IMAGES),
)


# --- killing

KILLS_PER_CASE = 10
LIMIT = 900.0  # seconds of a run behind the moment of its kill, on a busy machine

_reference_lock = threading.Lock()


def cases(count: int, seed: int, kinds: Sequence[Kind] = KINDS, area: str = "kills") -> Iterator[Case]:
    """Yield cases of some kills each, `count` in all. A case is repeated exactly by its seed, in its name."""
    for number in range(math.ceil(count / KILLS_PER_CASE)):
        kind = kinds[number % len(kinds)]
        kills = min(KILLS_PER_CASE, count - number * KILLS_PER_CASE)
        name = f"{kills} kills of {kind.name}, seed {seed}, number {number}"
        yield Case(area, name, partial(_kill, kind, kills, f"{seed} {number}"), kills)


def caption_cases(count: int, seed: int) -> Iterator[Case]:
    """Yield cases that kill runs of the caption pipeline only."""
    kinds = [kind for kind in KINDS if kind.name == "captions"]
    return cases(count, seed, kinds, "kills of captions")


def _kill(kind: Kind, kills: int, seed: str, folder: Path) -> str:
    with _reference_lock:  # cases that run at the same time wait for the one that makes it
        reference, seconds = _reference(kind)

    result = kill_runs(kind, kills, random.Random(seed), folder, reference, seconds)
    assert not result.faults, f"{len(result.faults)} faults, such as: {result.faults[0]}"
    by_signal = ", ".join(f"{number} {name}" for name, number in sorted(Counter(result.signals).items()))
    return f"{result.runs} runs as uninterrupted ones after {by_signal}"


@functools.cache
def _reference(kind: Kind) -> tuple[Path, float]:
    """Return the folder of an uninterrupted run of a kind, and the seconds that it took."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)

    # The second run is as fast as all that follow it.
    for name in ("warm", "reference"):
        (folder / name).mkdir()
        outcome = run(kind.prepare(folder / name), folder / name, LIMIT)
        require_success(outcome, kind.done)
    return folder / "reference", outcome.seconds


def kill_runs(
    kind: Kind, kills: int, draw: random.Random, folder: Path, reference: Path, seconds: float
) -> Kills:
    """Kill runs of a kind, `kills` times in all, and compare each that comes to its end.

    Args:
        kind: what is run.
        kills: how often.
        draw: draws the file system of a run, and the moment and the signal of a kill.
        folder: folder of the runs that don't lie in memory.
        reference: folder of an uninterrupted run.
        seconds: how long that one took.
    """
    result = Kills()
    while len(result.signals) < kills:
        # On a file system of memory, temporary files lie elsewhere: a move between the two is a copy.
        on_tmpfs = draw.random() < 1 / 3 and TMPFS.is_dir()
        run_folder = Path(tempfile.mkdtemp(dir=TMPFS if on_tmpfs else folder))
        try:
            _kill_until_done(kind, run_folder, kills, draw, seconds, result)
            result.faults += kind.compare(run_folder, reference)
            result.runs += 1
        except Exception as error:  # a run that cannot even be read is a fault too
            result.faults.append(f"{type(error).__name__}: {error}")
        finally:
            shutil.rmtree(run_folder)
    return result


def _kill_until_done(
    kind: Kind, folder: Path, kills: int, draw: random.Random, seconds: float, result: Kills
) -> None:
    """Start a run, kill it at a random moment, and so on, until it comes to its end."""
    command = kind.prepare(folder)
    here = 0
    while True:
        running = Command(command, folder)
        # After some kills a run may end, or the loop would never.
        patience = seconds * (1.1 + here / 6)
        deadline = time.monotonic() + draw.uniform(0, patience)
        while not running.has_ended() and time.monotonic() < deadline:
            time.sleep(0.005)

        name = draw.choice(list(SIGNALS))
        killed = not running.has_ended() and len(result.signals) < kills
        if killed:
            running.send(*SIGNALS[name])
        outcome = running.wait(LIMIT)

        if killed:
            here += 1
            result.signals.append(name)
        if outcome.has_traceback:
            result.faults.append(f"a traceback after {name}: {outcome.output[-700:]}")
        if outcome.code == kind.done:
            return
        if not killed:
            raise RuntimeError(f"it ended with {outcome.code}: {outcome.output[-700:]}")
