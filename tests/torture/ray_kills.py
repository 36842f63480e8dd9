"""Runs of the caption pipeline on real Ray whose workers are killed, over and over. Needs ray[data]."""

from __future__ import annotations

import importlib.util
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
from PIL import Image

from monkeylib.captions.record_files import read_records
from monkeylib.cli import app
from tests.torture import kills as local_kills
from tests.torture.cases import Case, Skipped, require_success
from tests.torture.sandbox import Command, run

KILLS_PER_CASE = 10
IMAGES = 192
# Names of the processes of Ray in which a step of the pipeline runs: actors of a stage, and tasks.
WORKERS = ("ray::MapWorker", "ray::MapBatches")
LONGEST_PAUSE = 4.0  # seconds between two kills
LIMIT = 900.0  # seconds of a run


def cases(count: int, seed: int) -> Iterator[Case]:
    """Yield cases of some kills each, `count` in all."""
    for number in range(math.ceil(count / KILLS_PER_CASE)):
        kills = min(KILLS_PER_CASE, count - number * KILLS_PER_CASE)
        name = f"{kills} kills of workers, seed {seed}, number {number}"
        yield Case("kills of Ray's workers", name, partial(_kill, kills, f"{seed} {number}"), kills)


def _kill(kills: int, seed: str, folder: Path) -> str:
    """Run until as many workers were killed, and compare every run with one of this process."""
    if importlib.util.find_spec("ray") is None:
        raise Skipped("needs ray[data]")

    images = folder / "images"
    images.mkdir()
    draw = random.Random(seed)
    for number in range(IMAGES):
        colour = tuple(draw.randrange(256) for _ in range(3))
        Image.new("RGB", (20 + number, 10), colour).save(images / f"{number:03}.png")
    require_success(run(partial(_caption, images, folder / "local"), folder, memory=None))
    expected = (folder / "local" / "records.jsonl").read_bytes()

    killed: Counter[str] = Counter()
    runs = 0
    while killed.total() < kills:
        out = folder / f"out {runs}"
        running = Command(
            partial(_caption, images, out, "--engine", "ray", "--workers", "2"), folder, memory=None
        )
        deadline = time.monotonic() + LIMIT
        while not running.has_ended() and time.monotonic() < deadline:
            time.sleep(draw.uniform(0, LONGEST_PAUSE))
            if killed.total() < kills:
                killed.update(_kill_a_worker(running.process.pid, draw))
        outcome = running.wait(1)
        assert outcome.code == 0, f"exit code {outcome.code}: {outcome.output[-700:]}"

        runs += 1
        names = Counter(record.name for record in read_records(out / "records.jsonl"))
        assert len(names) == names.total() == IMAGES, f"{names.total()} records of {len(names)} images"
        assert (out / "records.jsonl").read_bytes() == expected, "records.jsonl differs from a local run's"

    by_step = ", ".join(f"{number} {name}" for name, number in sorted(killed.items()))
    return f"{runs} runs as in one process after kills of {by_step}"


def _kill_a_worker(driver: int, draw: random.Random) -> list[str]:
    """Kill one of the workers of a run, and return its name; nothing if there is none."""
    workers = []
    try:
        for process in psutil.Process(driver).children(recursive=True):
            name = " ".join(process.cmdline())
            if name.startswith(WORKERS):
                workers.append((process, name))
    except psutil.NoSuchProcess:
        return []
    if not workers:
        return []

    process, name = draw.choice(workers)
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return []
    return [name.partition("(")[0].removeprefix("ray::")]


def _caption(images: Path, out: Path, *options: str) -> None:
    # In the process that calls this, and in those that import its module, the expert is registered.
    expert = local_kills.BrightestChannel.name
    sys.argv = ["monkeylib", "caption", str(images), "--out", str(out), "--experts", expert]
    sys.argv += ["--batch-size", "2", "--shard-size", "96", "--report", "0", *options]
    app.main()
