"""Images and their descriptions as features of the frozen encoders, made once and kept on disk.

Images are worked through in chunks, each kept when it is done, so that an interrupted run goes on.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from monkeylib import assets, resources
from monkeylib.captions.experts.encoders import SIDE, Encoders
from monkeylib.data import images
from monkeylib.data.images import Described

CHUNK = 128
BACKGROUNDS = "scikit-image-images"
SOURCES: dict[str, Callable[[], Iterator[Described]]] = {
    images.STAMPS: images.stamps,
    images.OPENMOJI: images.openmoji,
}
WHITE, PHOTOGRAPH = "white", "photograph"
BEHIND = {images.STAMPS: (WHITE, PHOTOGRAPH), images.OPENMOJI: (WHITE,)}  # stamps look like real crops


@dataclass(frozen=True)
class Features:
    """Views of images `[N, 768]` and the descriptions of the images `[N, 384]`, row by row.

    `behind` says on what an image lies: white or a photograph.
    """

    sources: tuple[str, ...]
    names: tuple[str, ...]
    texts: tuple[str, ...]
    behind: tuple[str, ...]
    views: torch.Tensor
    words: torch.Tensor

    def __len__(self) -> int:
        return len(self.names)

    def chosen(self, rows: Sequence[int]) -> "Features":
        """Some of the rows."""
        index = torch.tensor(rows, dtype=torch.long)
        columns = (self.sources, self.names, self.texts, self.behind)
        picked = (tuple(column[row] for row in rows) for column in columns)
        return Features(*picked, self.views[index], self.words[index])


def on_white(image: Image.Image) -> Image.Image:
    """An image with alpha on white."""
    white = Image.new("RGB", image.size, "white")
    white.paste(image, (0, 0), image)
    return white


def on_photograph(image: Image.Image, backgrounds: Sequence[Image.Image], name: str) -> Image.Image:
    """An image with alpha on a piece of a photograph, both chosen by its name, with some room around it."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    image = image.copy()
    image.thumbnail((2 * SIDE, 2 * SIDE))
    size = tuple(round(side * rng.uniform(1.05, 1.4)) for side in image.size)
    photograph = backgrounds[rng.integers(len(backgrounds))]
    side = int(min(photograph.size) * rng.uniform(0.3, 1.0))
    left, top = (int(rng.integers(extent - side + 1)) for extent in photograph.size)
    behind = photograph.crop((left, top, left + side, top + side)).resize(size)
    corner = tuple(int(rng.integers(room + 1)) for room in np.subtract(size, image.size))
    behind.paste(image, corner, image)
    return behind


def backgrounds() -> list[Image.Image]:
    """Photographs without things: brick, grass, gravel and the like, each at most 512 pixels wide."""
    folder = assets.fetch(BACKGROUNDS)
    names = (
        "brick",
        "grass",
        "gravel",
        "moon",
        "page",
        "coins",
        "hubble_deep_field.jpg",
        "ihc",
        "retina.jpg",
    )
    found = []
    for name in names:
        image = Image.open(folder / (name if "." in name else f"{name}.png")).convert("RGB")
        image.thumbnail((512, 512))
        found.append(image)
    return found


def collect(
    folder: Path | None = None, sources: Sequence[str] = tuple(SOURCES), progress: bool = True
) -> Features:
    """The features of all images of some sources, made where they are missing.

    Raises:
        AssetUnavailable: a source or an encoder isn't here and can't be fetched.
    """
    folder = folder or resources.cache() / "matching"
    encoders = Encoders()
    parts = []
    for source in sources:
        done = folder / f"{source}-{SIDE}.chunks"
        if not done.is_file():
            count = _work_through(source, folder, encoders, progress)
            with resources.replacing(done) as temporary:
                temporary.write_text(f"{count}\n", encoding="utf-8")
        for number in range(int(done.read_text(encoding="utf-8"))):
            path = _chunk(folder, source, number)
            parts.append((load_file(path), json.loads(path.with_suffix(".json").read_text("utf-8"))))
    rows = [row for _, listed in parts for row in listed]
    columns = (tuple(row[name] for row in rows) for name in ("source", "name", "text", "behind"))
    return Features(*columns, *(torch.cat([part[name] for part, _ in parts]) for name in ("views", "words")))


def _chunk(folder: Path, source: str, number: int) -> Path:
    return folder / f"{source}-{SIDE}-{number:03d}.safetensors"


def _work_through(source: str, folder: Path, encoders: Encoders, progress: bool) -> int:
    """Make the missing chunks of a source, and say how many it has."""
    stream, number, photographs = SOURCES[source](), 0, backgrounds()
    with tqdm(desc=source, disable=not progress, unit="image") as bar:
        while chunk := list(islice(stream, CHUNK)):
            path = _chunk(folder, source, number)
            if not path.is_file():
                _make(path, chunk, encoders, photographs)
            number += 1
            bar.update(len(chunk))
    return number


def _make(
    path: Path, chunk: Sequence[Described], encoders: Encoders, photographs: Sequence[Image.Image]
) -> None:
    rows, views = [], []
    for behind in BEHIND[chunk[0].source]:
        for item in chunk:
            white = behind == WHITE
            views.append(on_white(item.image) if white else on_photograph(item.image, photographs, item.name))
            rows.append({"source": item.source, "name": item.name, "text": item.text, "behind": behind})
    texts = encoders.texts([item.text for item in chunk])
    repeats = len(rows) // len(chunk)
    values = {"views": encoders.images(views), "words": texts.repeat(repeats, 1)}
    with resources.replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    with resources.replacing(path) as temporary:  # last: its presence says that the chunk is done
        save_file(values, temporary)
