"""Long work in miniature: memory, open files and threads stay as they are after the first images."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from monkeylib import profiles
from monkeylib.captions import pipeline
from monkeylib.captions.input_images import InputImage
from monkeylib.monkey import Monkey
from monkeylib.profiles import build
from tests.torture import sandbox
from tests.torture.cases import Case
from tests.torture.kills import BrightestChannel

WARM_UP, STEP = 0.1, 0.05  # shares of all images: before memory is looked at, and between two looks
GROWTH = 0.05  # that is allowed


def cases(images: int) -> Iterator[Case]:
    """Yield the cases, each with a number of images."""
    yield Case("growth", f"answers about {images:,} images", partial(_run, partial(_answer, images)))
    yield Case("growth", f"captions of {images:,} images", partial(_run, partial(_caption, images)))


def _run(work: Callable[[Path], None], folder: Path) -> str:
    outcome = sandbox.run(partial(work, folder), folder, 3600, memory=None)
    assert outcome.code == 0, outcome.last_line
    return outcome.last_line


class Watch:
    """Memory, open files and threads of this process, noted again and again.

    Args:
        total: images in all.
    """

    def __init__(self, total: int) -> None:
        self.total, self.next_look = total, total * WARM_UP
        self.looks: list[tuple[int, int, int]] = []

    def count(self, done: int) -> None:
        """Note the present state, when it is time."""
        if done < self.next_look:
            return
        self.next_look += self.total * STEP
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        files = len(os.listdir("/proc/self/fd"))
        self.looks.append((pages * os.sysconf("SC_PAGE_SIZE"), files, threading.active_count()))

    def check(self) -> None:
        """Check that nothing has grown since the warm-up.

        Raises:
            AssertionError: something has.
        """
        memory, files, threads = zip(*self.looks, strict=True)
        growth = max(memory[-3:]) / memory[0] - 1
        assert growth < GROWTH, f"memory grew by {growth:.1%}: {[value >> 20 for value in memory]} MB"
        assert files[-1] <= files[0], f"open files grew: {files}"
        assert threads[-1] <= threads[0], f"threads grew: {threads}"
        print(
            f"memory {memory[0] >> 20} to {memory[-1] >> 20} MB, {files[-1]} open files, "
            f"{threads[-1]} threads"
        )


def _noise(number: int) -> Image.Image:
    draw = np.random.default_rng(number)
    height, width = draw.integers(8, 64, 2)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _answer(total: int, folder: Path) -> None:
    profile = profiles.load_profile("smoke")
    torch.manual_seed(0)
    processor = build.build_processor(profile)
    monkey = Monkey(build.build_model(profile, processor).eval(), processor)

    watch = Watch(total)
    batch = 8
    for first in range(0, total, batch):
        questions = [(_noise(first + number), "what is it?") for number in range(batch)]
        answers = monkey.answer_batch(questions, max_new_tokens=2)
        assert len(answers) == batch
        watch.count(first + batch)
    watch.check()


class CountingExpert(BrightestChannel):
    """An expert that has the process watched."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.done = watch, 0

    def annotate(self, images):
        """Return one region for each image."""
        outputs = super().annotate(images)
        self.done += len(images)
        self.watch.count(self.done)
        return outputs


def _caption(total: int, folder: Path) -> None:
    images = folder / "images"
    images.mkdir()
    for number in range(total):
        _noise(number).save(images / f"{number:06}.png")

    watch = Watch(total)
    inputs = [InputImage(path, path.name) for path in sorted(images.iterdir())]
    pipeline.caption_images(inputs, [CountingExpert(watch)], folder / "out", batch_size=32, progress=False)
    watch.check()

    lines = sum(1 for _ in (folder / "out" / "records.jsonl").open(encoding="utf-8"))
    assert lines == total, f"{lines} records of {total} images"
