"""Memory, files and restarts of the caption pipeline as the number of images grows.

Small images, each with other pixels, go through two light experts and the rules. Measured are a run over
all of them, and a second one that has nothing to do; each is a process of its own. Of larger sets, only the
plan is measured: images are listed, their digests computed and, in the second process, remembered. Sets that
are larger still are extrapolated: files, bytes and seconds by a straight line through the two largest runs,
memory by what the plans of different sets differ in. Rows that were measured before stay.

    nice -n 10 python benchmarks/caption_growth.py --images 4000,10000,100000 --plans 10000,40000
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from monkeylib import resources, tables
from monkeylib.captions.annotations import ExpertOutput, Region
from monkeylib.captions.engines import LocalEngine
from monkeylib.captions.experts import Expert
from monkeylib.captions.input_images import list_images
from monkeylib.captions.pipeline import Pipeline
from monkeylib.captions.plan import Plan
from monkeylib.captions.record_files import SHARD_SIZE
from monkeylib.reproduce.tables import fill_blocks, markdown_table

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "cluster" / "README.md"
EXTRAPOLATED = (3_000_000, 100_000_000)
FIT = ("files", "state MB", "CPU s", "restart CPU s")
MEMORY_COLUMNS = ("peak MB", "restart peak MB")

# Of the tables on the page, by the names of their results.
COLUMNS = {
    "caption_growth": {
        "kind": "numbers",
        "images": "images",
        "early MB": "MB at a tenth",
        "late MB": "MB at the end",
        "peak MB": "peak MB",
        "files": "files",
        "state MB": "MB on the disk",
        "CPU s": "CPU s",
        "restart CPU s": "CPU s, restart",
        "restart s": "s, restart",
        "restart peak MB": "peak MB, restart",
    },
    "ray_workers": {
        "workers": "workers",
        "images": "images",
        "sleep s": "s of sleep, each",
        "at work s": "s at work",
        "images/s": "images/s",
        "of one worker": "of one worker's",
        "run s": "s, full run",
    },
}


class Brightness(Expert):
    """Names the brightest channel of an image, or of its left half."""

    version, licence = "1", "CC0-1.0"

    def __init__(self, name: str, share: float) -> None:
        self.name, self.share = name, share

    @property
    def settings(self) -> dict[str, object]:
        """Return what part of the image counts."""
        return {"share": self.share}

    def prepare(self) -> None:
        """Load nothing."""

    def annotate(self, images: list[Image.Image]) -> list[ExpertOutput]:
        """Return one region for each image."""
        outputs = []
        for image in images:
            width = int(image.width * self.share)
            pixels = np.asarray(image)[:, :width]
            name = ("red sign", "green tree", "blue car")[int(pixels.mean(axis=(0, 1)).argmax())]
            region = Region(box=(0, 0, width, image.height), text=name, score=0.9, expert=self.name)
            outputs.append(ExpertOutput(regions=(region,)))
        return outputs


class WatchingEngine(LocalEngine):
    """Runs in this process, and notes its memory when a shard is committed."""

    def run(self, *arguments):
        """Commit each shard, and yield its statistics."""
        for statistics in super().run(*arguments):
            MEMORY.append(present_megabytes())
            yield statistics


MEMORY: list[float] = []


def make_images(folder: Path, count: int) -> None:
    """Write images in folders of a thousand; those that are there stay."""
    draw = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 1000:06d}" / f"{number:09d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
        if not path.exists():
            Image.fromarray(pixels).save(path, compress_level=1)


def present_megabytes() -> float:
    """Return the memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def work(images: Path, out: Path) -> dict[str, float]:
    """Caption a folder in this process, and return what it took."""
    start, cpu_start = time.perf_counter(), time.process_time()
    experts = [Brightness("whole", 1.0), Brightness("left", 0.5)]
    pipeline = Pipeline(experts, batch_size=32)
    summary = pipeline.run(list_images([images]), out, engine=WatchingEngine(), progress=False)

    return {
        "images": summary.records,
        "shards run": summary.shards - summary.already,
        "early MB": round(MEMORY[len(MEMORY) // 10]) if MEMORY else 0,
        "late MB": round(MEMORY[-1]) if MEMORY else 0,
        "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10),
        "CPU s": round(time.process_time() - cpu_start, 1),
        "s": round(time.perf_counter() - start, 1),
    }


def plan(images: Path) -> dict[str, float]:
    """List images and plan their shards in this process, and return what it took."""
    cpu_start = time.process_time()
    listing = list_images([images])
    made = Plan.make(listing, [], SHARD_SIZE, lambda count, cached: None)
    return {
        "images": sum(key.count for key in made.keys),
        "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
        "CPU s": round(time.process_time() - cpu_start, 1),
    }


def run_worker(images: Path, out: Path) -> dict[str, float]:
    """Caption a folder in another process, and return what it took."""
    command = [sys.executable, __file__, "--worker", str(images), str(out)]
    return run_command(command)


def run_command(command: list[str]) -> dict[str, float]:
    """Return what another process prints last, as JSON."""
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def measure(count: int, folder: Path) -> dict[str, object]:
    """Return the row of a number of images."""
    images, out = folder / "images", folder / "out"
    make_images(images, count)
    first = run_worker(images, out)
    again = run_worker(images, out)
    if first["images"] != count or again["shards run"]:
        raise RuntimeError(f"expected {count} records and nothing left to do, got {first} and {again}")

    files = [path for path in out.rglob("*") if path.is_file()]
    return {
        "kind": "measured",
        "images": count,
        "early MB": first["early MB"],
        "late MB": first["late MB"],
        "peak MB": first["peak MB"],
        "files": len(files),
        "state MB": round(sum(path.stat().st_size for path in files) / 2**20, 1),
        "CPU s": first["CPU s"],
        "restart CPU s": again["CPU s"],
        "restart s": again["s"],
        "restart peak MB": again["peak MB"],
        **machine(),
    }


def measure_plan(count: int, folder: Path) -> dict[str, object]:
    """Return the row of a plan of a number of images, which are one file under many names."""
    make_images(folder / "one", 1)
    (original,) = (folder / "one").rglob("*.png")
    for number in range(count):
        path = folder / "images" / f"{number // 1000:06d}" / f"{number:09d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(original, path)

    time.sleep(3)  # digests of files that are new are not remembered
    first, again = (run_command([sys.executable, __file__, "--plan", str(folder / "images")]) for _ in "12")
    if first["images"] != count:
        raise RuntimeError(f"expected a plan of {count} images, got {first}")
    return {
        "kind": "planned",
        "images": count,
        "peak MB": first["peak MB"],
        "CPU s": first["CPU s"],
        "restart CPU s": again["CPU s"],
        "restart peak MB": again["peak MB"],
        **machine(),
    }


def extrapolate(rows: list[dict[str, object]], count: int) -> dict[str, object]:
    """Return the row of more images than were measured."""
    runs = [row for row in rows if row["kind"] == "measured"]
    plans = [row for row in rows if row["kind"] == "planned"]

    row: dict[str, object] = {"kind": "extrapolated", "images": count}
    for columns, measured in ((FIT, runs), (MEMORY_COLUMNS, plans)):
        small, large = measured[-2:]
        for name in columns:
            slope = (large[name] - small[name]) / (large["images"] - small["images"])
            row[name] = round(runs[-1][name] + max(slope, 0) * (count - runs[-1]["images"]))
    return row


def machine() -> dict[str, object]:
    """Return what the numbers depend on, without names of hosts or users."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[1], 1),
    }


def fill_page(page: str) -> str:
    """Return the page with the tables of the committed results in their marked places."""

    def table(name: str) -> str:
        return markdown_table(tables.read_csv(FOLDER / "results" / f"{name}.csv"), COLUMNS[name])

    return fill_blocks(page, table)


def main() -> None:
    """Measure, extrapolate, and write results/caption_growth.csv and the table in cluster/README.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="", help="numbers of images of runs")
    parser.add_argument("--plans", default="", help="numbers of images of plans")
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=2, metavar=("IMAGES", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.plan:
        print(json.dumps(plan(Path(options.plan))))
        return
    if options.worker:
        print(json.dumps(work(*map(Path, options.worker))))
        return

    target = FOLDER / "results" / "caption_growth.csv"
    rows = (
        [row for row in tables.read_csv(target) if row["kind"] != "extrapolated"] if target.exists() else []
    )
    with tempfile.TemporaryDirectory() as folder:
        work_list = [("measured", measure, options.images), ("planned", measure_plan, options.plans)]
        for kind, measure_count, counts in work_list:
            for count in map(int, filter(None, counts.split(","))):
                rows = [row for row in rows if (row["kind"], row["images"]) != (kind, count)]
                rows.append(measure_count(count, Path(folder) / f"{kind} {count}"))
                print(", ".join(f"{name}: {value}" for name, value in rows[-1].items()), flush=True)

    rows.sort(key=lambda row: (row["kind"], row["images"]))
    rows += [extrapolate(rows, count) for count in EXTRAPOLATED]
    tables.write_csv(rows, target)
    page = fill_page(PAGE.read_text(encoding="utf-8"))
    with resources.atomic_write(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"wrote {resources.display_path(target)}")


if __name__ == "__main__":
    main()
