"""Throughput of the caption pipeline with one worker of Ray and with several, on work that sleeps.

An expert sleeps for each image, so that one machine of few cores shows what more workers are worth: how well
Ray feeds them. Stated are the images in a second while the expert was at work, from its first image to its
last, and the seconds of the full run, which begins with the start of Ray's processes. Needs ray[data].

    .ray-venv/bin/python benchmarks/ray_workers.py
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from caption_growth import FOLDER, PAGE, fill_page, machine
from PIL import Image

from monkeylib import resources, tables
from monkeylib.captions.annotations import Caption, ExpertOutput
from monkeylib.captions.experts import Expert
from monkeylib.captions.input_images import list_images
from monkeylib.captions.pipeline import RECORDS, Pipeline
from monkeylib.captions.ray_engine import RayEngine

RESULTS = FOLDER / "results" / "ray_workers.csv"
WORKERS = (1, 2, 4)


class Sleeping(Expert):
    """Sleeps for each image, notes when, and says its size."""

    name, version, licence = "sleeping", "1", "CC0-1.0"

    def __init__(self, seconds: float, notes: Path) -> None:
        self.seconds, self.notes = seconds, notes

    @property
    def settings(self) -> dict[str, object]:
        """Return nothing: its captions depend on the images alone."""
        return {}

    def prepare(self) -> None:
        """Load nothing."""

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return a caption for each image."""
        start = time.time()
        time.sleep(self.seconds * len(images))
        with self.notes.open("a", encoding="ascii") as file:
            file.write(f"{start} {time.time()} {os.getpid()}\n")
        outputs = []
        for image in images:
            text = f"an image of {image.width} by {image.height} pixels"
            outputs.append(ExpertOutput(captions=(Caption(text=text, expert=self.name),)))
        return outputs


def measure(workers: int, images: Path, folder: Path, seconds: float) -> dict[str, object]:
    """Caption images with a number of workers, and return the row of it."""
    notes = folder / "notes.txt"
    pipeline = Pipeline([Sleeping(seconds, notes)], batch_size=4)
    engine = RayEngine(workers={"sleeping": workers})
    start = time.perf_counter()
    summary = pipeline.run(list_images([images]), folder / "out", engine=engine, progress=False)
    total = time.perf_counter() - start

    spans = [line.split() for line in notes.read_text(encoding="ascii").splitlines()]
    at_work = max(float(end) for _, end, _ in spans) - min(float(begin) for begin, _, _ in spans)
    if summary.described != summary.records or len({pid for *_, pid in spans}) != workers:
        raise RuntimeError(f"expected {workers} workers that describe all images, got {summary}")
    return {
        "workers": workers,
        "images": summary.records,
        "sleep s": seconds,
        "at work s": round(at_work, 1),
        "images/s": round(summary.records / at_work, 2),
        "run s": round(total, 1),
        "ray": metadata.version("ray"),
        **machine(),
    }


def main() -> None:
    """Measure, and write results/ray_workers.csv and its table in cluster/README.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=0.5, help="that the expert sleeps for an image")
    options = parser.parse_args()

    rows, records = [], set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for number in range(options.images):
            Image.new("RGB", (20 + number, 20), (number % 256, 90, 90)).save(
                folder / "images" / f"{number:04}.png"
            )
        for workers in WORKERS:
            (folder / str(workers)).mkdir()
            rows.append(measure(workers, folder / "images", folder / str(workers), options.seconds))
            records.add((folder / str(workers) / "out" / RECORDS).read_bytes())
            print(", ".join(f"{name}: {value}" for name, value in rows[-1].items()), flush=True)
    if len(records) != 1:
        raise RuntimeError("the records differ between numbers of workers")

    for row in rows:
        row["of one worker"] = round(row["images/s"] / rows[0]["images/s"], 2)
    tables.write_csv(rows, RESULTS)
    page = fill_page(PAGE.read_text(encoding="utf-8"))
    with resources.atomic_write(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"wrote {resources.display_path(RESULTS)}")


if __name__ == "__main__":
    main()
