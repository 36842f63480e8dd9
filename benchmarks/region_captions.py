"""Processor time and peak memory of GRIT for one image of 800 x 1333 pixels, its largest input.

The network has the size of the released GRiT-B and random weights, so none of its captions ends before its
limit of 39 words, and as many boxes are captioned as are asked for: an upper bound.

    python benchmarks/region_captions.py --boxes 32
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from pairing import machine
from PIL import Image

from monkeylib import resources, tables
from monkeylib.captions.experts.grit.config import GritConfig
from monkeylib.captions.experts.grit.model import Grit, prepare
from monkeylib.reproduce.tables import fill_blocks, markdown_table

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "grit.md"
COLUMNS = {
    "height": "height",
    "width": "width",
    "boxes": "boxes",
    "seconds detection": "CPU s, detection",
    "seconds captions": "CPU s, captions",
    "peak MB": "peak MB",
    "processor": "processor",
}


def peak_megabytes() -> float:
    """Return the largest memory that this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measure(config: GritConfig) -> dict[str, object]:
    """Return the row of the table: time of detection and of the captions, and memory."""
    torch.manual_seed(0)
    grit = Grit(config).eval()
    loaded = peak_megabytes()

    pixels = np.random.default_rng(0).integers(0, 256, (config.short_side, config.long_side, 3), np.uint8)
    image = prepare(Image.fromarray(pixels), config)

    # The decoder runs once or several times, after all else.
    times = []
    grit.decoder.register_forward_pre_hook(lambda *_: times.append(time.process_time()))
    start = time.process_time()
    with torch.inference_mode():
        (detections,) = grit([image])
    end = time.process_time()

    return {
        "height": image.size[0],
        "width": image.size[1],
        "boxes": len(detections.boxes),
        "seconds detection": round(times[0] - start, 1),
        "seconds captions": round(end - times[0], 1),
        "loaded MB": round(loaded),
        "peak MB": round(peak_megabytes()),
        **machine(),
    }


def fill_page(page: str, results: Path) -> str:
    """Return the page with the table of the results in its marked place."""
    table = markdown_table(tables.read_csv(results), COLUMNS)
    return fill_blocks(page, lambda _: table)


def main() -> None:
    """Measure, print the row, and write results/region_captions.csv and the table in docs/grit.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=32, help="boxes that are captioned")
    options = parser.parse_args()

    torch.set_num_threads(1)
    row = measure(GritConfig(score_threshold=0.0, detections=options.boxes))
    print(", ".join(f"{name}: {value}" for name, value in row.items()))

    target = FOLDER / "results" / "region_captions.csv"
    tables.write_csv([row], target)
    page = fill_page(PAGE.read_text(encoding="utf-8"), target)
    with resources.atomic_write(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"wrote {resources.display_path(target)}")


if __name__ == "__main__":
    main()
