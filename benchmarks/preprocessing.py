"""From files to views: monkeylib's image processor against the released way and transformers' processors.

Files are JPEG, and lie in memory. The released way is written anew here after what its code does: Pillow
opens and resizes the image, whole arrays of floats are made, scaled and normalised, tiles are cut from them
and the global view is interpolated. transformers' processors run on torchvision, in their fast form; where it
isn't installed, their rows are missing. They make other views than Monkey's, in sizes that are set as near as
they take them.
"""

import io
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from pairing import Pair, Row, Settings, compare_memory, compare_time, limit_row, ratio_row, seconds_of
from PIL import Image
from torch.nn import functional as F

from monkeylib import profiles, resources
from monkeylib.data.records import Record
from monkeylib.image_processor import MonkeyImageProcessor
from monkeylib.model.normalisation import CLIP_MEAN, CLIP_STD, normalise_bytes
from monkeylib.processing import MonkeyProcessor
from monkeylib.profiles import build
from monkeylib.tiling import Grid
from monkeylib.training.batches import ExampleEncoder

RELEASED = "the released way"
TILE = 448
# Width and height of a file, and its grid of tiles.
FILES = {
    "640 x 480": ((640, 480), Grid(2, 2)),
    "1344 x 896": ((1344, 896), Grid(2, 3)),
    "4000 x 3000": ((4000, 3000), Grid(2, 3)),
}
# What a call takes is near the precision of the clock, so several are timed at once.
REPEATS = {"640 x 480": 8, "1344 x 896": 6, "4000 x 3000": 1}


def make_jpeg(width: int, height: int) -> bytes:
    """Return one of the sample photographs as a JPEG file of a size."""
    with Image.open(resources.samples() / "coffee.jpg") as photograph:
        image = photograph.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    # A camera's noise, without which an enlarged photograph is far too small a file.
    noise = np.random.default_rng(0).normal(0, 3, (height, width, 3))
    pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=90)
    return content.getvalue()


def released_views(content: bytes, grid: Grid) -> list[torch.Tensor]:
    """Return the views of a file as the released code makes them: tiles row by row, then the global view."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image = image.resize((grid.cols * TILE, grid.rows * TILE), Image.Resampling.BICUBIC)

    # Values from 0 to 1, then normalised, as torchvision's ToTensor and Normalize do.
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    pixels = torch.stack([pixels.clone().sub_(mean).div_(std)])

    tiles = [
        pixels[:, :, row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE].contiguous()
        for row in range(grid.rows)
        for col in range(grid.cols)
    ]
    return [*tiles, F.interpolate(pixels, size=(TILE, TILE), mode="bicubic")]


def transformers_processors(grid: Grid) -> dict[str, Callable[[Image.Image], Any]]:
    """Return transformers' fast processors by the models that they belong to; none without torchvision."""
    try:
        import torchvision  # noqa: F401
        from transformers import (
            GotOcr2ImageProcessor,
            Idefics3ImageProcessor,
            LlavaNextImageProcessor,
            Qwen2VLImageProcessor,
        )
    except (ImportError, RuntimeError):
        return {}

    height, width = grid.rows * TILE, grid.cols * TILE
    side = {"height": TILE, "width": TILE}
    processors = {
        "LLaVA-NeXT": LlavaNextImageProcessor(
            size={"shortest_edge": TILE}, crop_size=side, image_grid_pinpoints=[[height, width]]
        ),
        "Idefics3": Idefics3ImageProcessor(
            size={"longest_edge": max(height, width)}, max_image_size={"longest_edge": TILE}
        ),
        "InternVL": GotOcr2ImageProcessor(size=side, crop_to_patches=True, max_patches=grid.tiles),
        "Qwen2-VL": Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": height * width}),
    }
    return {
        name: partial(processor, return_tensors="pt", device="cpu") for name, processor in processors.items()
    }


def _are_equal(views: torch.Tensor, released: Sequence[torch.Tensor]) -> bool:
    return torch.equal(views, torch.cat(list(released)))


def _are_near(views: torch.Tensor, released: Sequence[torch.Tensor]) -> bool:
    """Return whether views of bytes differ from the released ones by less than 2 of 255 on average."""
    std = torch.tensor(CLIP_STD)[:, None, None]
    difference = (normalise_bytes(views, "monkey_vision") - torch.cat(list(released))) * std * 255
    return bool(difference.abs().mean() < 2)


def against_released(settings: Settings) -> list[Row]:
    """Return the rows of files to views, exactly and in bytes, and of their memory."""
    rows = []
    for size, ((width, height), grid) in FILES.items():
        content, times = make_jpeg(width, height), 1 if settings.is_quick else REPEATS[size]
        released = lambda content=content, grid=grid: released_views(content, grid)  # noqa: E731
        for exact, target, same in ((False, 2.8, _are_near), (True, 1.1, _are_equal)):
            processor = MonkeyImageProcessor(TILE, *grid, exact=exact)
            prepare = lambda content=content, processor=processor: processor(content).pixel_values  # noqa: E731
            path = f"JPEG to views, {'exact' if exact else 'in bytes'}"
            pair = Pair(prepare, released, same, repeats=times)
            rows.append(compare_time(path, RELEASED, size, pair, settings, target))

        def build(content: bytes = content, grid: Grid = grid) -> Pair:
            processor = MonkeyImageProcessor(TILE, *grid, exact=False)
            return Pair(
                lambda: processor(content).pixel_values, lambda: released_views(content, grid), _are_near
            )

        rows.append(compare_memory("peak memory of JPEG to views, in bytes", RELEASED, size, build, None))
    return rows


def against_transformers(settings: Settings) -> list[Row]:
    """Return the rows of files to views in bytes beside transformers' fast processors."""
    rows = []
    for size, ((width, height), grid) in FILES.items():
        content, times = make_jpeg(width, height), 1 if settings.is_quick else REPEATS[size]
        processor = MonkeyImageProcessor(TILE, *grid, exact=False)
        path, of_size = "JPEG to views, in bytes", []
        for model, process in transformers_processors(grid).items():

            def other(content: bytes = content, process: Callable = process) -> Any:
                return process(Image.open(io.BytesIO(content)).convert("RGB"))

            # Other views than Monkey's: there is nothing to compare.
            prepare = lambda content=content, processor=processor: processor(content).pixel_values  # noqa: E731
            pair = Pair(prepare, other, lambda *_: True, repeats=times)
            against = f"transformers' processor of {model}"
            of_size.append(compare_time(path, against, size, pair, settings, 1.3))
        rows += of_size

        # The processor in the middle of the four, against monkeylib beside each of them.
        if of_size:
            mine, others = ([row[way] for row in of_size] for way in ("monkeylib", "other"))
            middle = [statistics.median(others)]
            against = "the median of the four"
            rows.append(ratio_row(path, against, size, "s", [statistics.median(mine)], middle, 2))
    return rows


def training_loader(settings: Settings) -> list[Row]:
    """Return the row of a training loader: of how many images one core makes micro-batches in a second."""
    profile = profiles.load_profile("smoke")
    tokenizer = build.build_processor(profile).tokenizer
    content = make_jpeg(1344, 896)
    turns = [("What stands on the table?", "A cup of coffee.")]
    record = Record.from_turns("a", (content,), turns, "benchmark", "benchmark, record 1")

    processor = MonkeyProcessor(MonkeyImageProcessor(TILE, 2, 2, exact=False), tokenizer, queries=256)
    encoder = ExampleEncoder(processor, max_length=2048)

    def work() -> Any:
        examples = [encoder.encode(record) for _ in range(4)]
        return encoder.collate(examples, [encoder.encode_images(example) for example in examples])

    work()
    rates = [4 / seconds_of(work)[0] for _ in range(1 if settings.is_quick else 5)]
    size = "1344 x 896 JPEG, 2x2 tiles, micro-batches of 4"
    return [limit_row("training loader, in bytes", size, "images/s", rates, 80, is_upper=False)]


ROWS = {
    "preprocessing": against_released,
    "preprocessing_peers": against_transformers,
    "training_loader": training_loader,
}
