"""Captions of the data sets of Ray: what any of its readers yields, as records that any of its writers takes.

    import ray
    from monkeylib.captions.experts import load_experts
    from monkeylib.captions.pipeline import Pipeline
    from monkeylib.captions.ray_datasets import caption_dataset

    images = ray.data.read_images("s3://bucket/images", include_paths=True)
    records = caption_dataset(images, Pipeline(load_experts("cpu")), "captions", name="path")
    records.write_parquet("captions/records", partition_cols=["status"])

`read_parquet` and `read_webdataset(..., decoder=None)` fit as well. Images stream through the stages of
`ray_engine`; nothing is listed or counted before, so a data set may be of any size, and nobody has to see its
files but Ray.

The results of the models are cached as by `Pipeline.run`, and an image that crashes its process is
quarantined. What Ray writes is its own: to get every image exactly once over restarts, use `Pipeline.run`
with `RayEngine`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from monkeylib.captions.annotations import Record
from monkeylib.captions.engines import ShardTask, finish_records
from monkeylib.captions.image_containers import StoredImage
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.pipeline import ANNOTATIONS, Pipeline
from monkeylib.captions.ray_engine import RayEngine, as_column, pack, unpack
from monkeylib.captions.record_files import ShardKey, records_table
from monkeylib.captions.stages import Stage
from monkeylib.digests import bytes_digest

if TYPE_CHECKING:
    import pyarrow

_ROWS = 32  # that become a task


def caption_dataset(
    dataset: Any,
    pipeline: Pipeline,
    out: Path | str,
    *,
    image: str = "image",
    name: str = "",
    caption: str = "",
    engine: RayEngine | None = None,
) -> Any:
    """Return a data set with a record for each image, as columns of `record_files`. It is computed on demand.

    Args:
        dataset: a `ray.data.Dataset`. An image is an array of pixels, or the bytes of a file, alone or in a
            field `bytes`, as the data sets of Hugging Face have them.
        pipeline: experts, matcher, filter and composer.
        out: folder of the cached results, which all machines see.
        image: column of the images.
        name: column of their names, such as the path; by default the SHA-256 of each.
        caption: column of their original captions; by default there are none.
        engine: sizes of the pools.

    Raises:
        ValueError: the data set has no such column, or the pools are impossible.
    """
    engine = engine or RayEngine()
    engine.connect()
    columns = dataset.columns() or []
    for column in filter(None, (image, name, caption)):
        if column not in columns:
            raise ValueError(f"the data set has no column {column!r}: its columns are {', '.join(columns)}")

    stages = pipeline.stages(Path(out).absolute() / ANNOTATIONS)
    wanted = [column for column in (image, name, caption) if column]
    tasks = dataset.select_columns(wanted).map_batches(
        partial(_tasks, image=image, name=name, caption=caption), batch_size=_ROWS, batch_format="numpy"
    )
    annotated, options = engine.annotate(tasks, stages)
    return annotated.map_batches(partial(_records, stages=stages), **options)


def _tasks(batch: dict[str, Any], image: str, name: str, caption: str) -> dict[str, Any]:
    """Return a batch of rows as a packed task."""
    images, digests = [], []
    for row, value in enumerate(batch[image]):
        content, digest = _content(value)
        text = _text(batch[caption][row]) if caption else ""
        label = _text(batch[name][row]) if name else digest
        if isinstance(content, bytes):
            content = StoredImage(Path(label), row, label, partial(bytes, content))
        images.append(InputImage(content, label, text))
        digests.append(digest)

    task = ShardTask(ShardKey(0, "", len(images)), tuple(images), tuple(digests))
    return as_column([pack(0, 0, task)])


def _text(value: Any) -> str:
    """Return a text that may be missing, or come as bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return "" if value is None else str(value)


def _content(value: Any) -> tuple[Image.Image | bytes, str]:
    """Return an image of a row, and its digest."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, np.ndarray):
        pixels = Image.fromarray(value)
        return pixels, InputImage(pixels, "").sha256()
    content = bytes(value or b"")
    return content, bytes_digest(content)


def _records(batch: dict[str, Any], stages: Sequence[Stage]) -> pyarrow.Table:
    """Return the records of packed tasks as rows."""

    def records() -> Iterator[Record]:
        for _, _, task in map(unpack, batch["task"]):
            yield from finish_records(task, stages)

    return records_table(records())
