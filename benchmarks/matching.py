"""Crops scored in batches, their image opened once, against one at a time, each opening its image.

Both ways ask the same matcher about the same pairs of a region and its text and get the same scores:

* `ours`: an image is opened once, a crop or text that comes twice is encoded once, pairs go through in
batches; * `released`: for every pair the image is opened, cropped, and the pair goes through alone.

The matcher is of the true architectures (DINOv2 and BERT under two linear heads) with random weights, at the
sizes of the shipped one or small ones. The ways run in turn in one process; read the ratio.

    python benchmarks/matching.py --repeats 3
"""

import argparse
import csv
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from monkeylib import resources
from monkeylib.captions.experts.base import Matcher, crop
from monkeylib.captions.experts.encoders import Encoders
from monkeylib.captions.experts.matching import MatchingHead, TrainedMatcher

RESULTS = Path(__file__).parent / "results"
Pair = tuple[Path, tuple[float, float, float, float], str]
SIZES = {"shipped": (384, 12, 6), "small": (96, 4, 3)}  # width, layers and heads of both encoders
WORDS = "person cup dining table bicycle traffic light cat bottle chair potted plant".split()


def pairs(folder: Path, images: int, regions: int, size: tuple[int, int]) -> list[Pair]:
    """Images of noise over gradients, as JPEG, with regions; every text is said of two regions or more."""
    rng = np.random.default_rng(0)
    found: list[Pair] = []
    for number in range(images):
        ramp = np.linspace(0, 200, size[0])[None, :, None] + np.zeros((size[1], 1, 3))
        noise = rng.integers(0, 56, (size[1], size[0], 3))
        path = folder / f"{number}.jpg"
        Image.fromarray((ramp + noise).astype(np.uint8)).save(path, quality=90)
        for region in range(regions):
            x, y = rng.uniform(0, 0.6, 2) * size
            w, h = rng.uniform(0.1, 0.4, 2) * size
            found.append((path, (x, y, x + w, y + h), WORDS[(region // 2) % len(WORDS)]))
    return found


def matcher(size: str) -> TrainedMatcher:
    """A matcher of the true architectures with random weights."""
    from transformers import BertConfig, BertModel, BertTokenizer, Dinov2Config, Dinov2Model

    width, layers, heads = SIZES[size]
    common = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    language = BertModel(BertConfig(vocab_size=30522, intermediate_size=4 * width, **common)).eval()
    vision = Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **common)).eval()
    made = TrainedMatcher(batch_size=16)
    made.encoders = Encoders(batch_size=16)
    made.encoders.__dict__["_vision"] = vision
    made.encoders.__dict__["_language"] = (BertTokenizer(vocab=vocabulary), language)
    made.__dict__["_head"] = _head(width)
    return made


def _head(width: int) -> MatchingHead:
    head = MatchingHead(64).eval()
    head.image, head.text = torch.nn.Linear(2 * width, 64), torch.nn.Linear(width, 64)
    return head


def ours(judge: Matcher, asked: list[Pair]) -> list[float]:
    """Each image opened once, all pairs handed over together."""
    opened = {path: Image.open(path).convert("RGB") for path in dict.fromkeys(path for path, *_ in asked)}
    crops = {(path, box): crop(opened[path], box) for path, box, _ in asked}
    return judge.match([crops[path, box] for path, box, _ in asked], [text for *_, text in asked])


def released(judge: Matcher, asked: list[Pair]) -> list[float]:
    """Each pair alone, its image opened for it."""
    scores = []
    for path, box, text in asked:
        image = crop(Image.open(path).convert("RGB"), box)
        scores += judge.match([image], [text])
    return scores


WAYS: dict[str, Callable[[Matcher, list[Pair]], list[float]]] = {"ours": ours, "released": released}


def compare(size: str, count: int, regions: int, extent: tuple[int, int], repeats: int) -> dict[str, object]:
    """One row of the table: medians of both ways, and how many times the released way takes as long."""
    judge = matcher(size)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    scores: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        asked = pairs(Path(folder), count, regions, extent)
        for way in WAYS.values():  # to warm up
            way(judge, asked[:2])
        for _ in range(repeats):
            for name, way in WAYS.items():
                start = time.process_time()
                scores[name] = way(judge, asked)
                seconds[name].append(time.process_time() - start)
    difference = float(np.abs(np.subtract(scores["ours"], scores["released"])).max())
    middle = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        "size": size,
        "images": count,
        "pixels": f"{extent[0]}x{extent[1]}",
        "pairs": len(asked),
        "repeats": repeats,
        **{f"CPU seconds {way}": round(value, 3) for way, value in middle.items()},
        "ratio": round(middle["released"] / middle["ours"], 2),
        "largest difference of a score": f"{difference:.1e}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.machine()


def main() -> None:
    """Run the comparison, print it and write results/matching.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--regions", type=int, default=16, help="of an image")
    parser.add_argument("--pixels", type=int, nargs=2, default=(1344, 896), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    extent = (chosen.pixels[0], chosen.pixels[1])
    rows = [compare(size, chosen.images, chosen.regions, extent, chosen.repeats) for size in chosen.sizes]
    for row in rows:
        print(", ".join(f"{name}: {value}" for name, value in row.items()))
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / "matching.csv"
    with resources.replacing(target) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {resources.shown(target)}")


if __name__ == "__main__":
    main()
