"""Captions of data sets that Ray reads itself, and what it writes of them. Needs ray[data]."""

import io

import numpy as np
import pytest
from PIL import Image

from monkeylib.captions.input_images import InputImage
from monkeylib.captions.pipeline import RECORDS, Pipeline
from monkeylib.captions.ray_engine import RayEngine
from monkeylib.captions.record_files import read_records
from tests.support.caption_models import Colours
from tests.support.record_files import write_tar

ray = pytest.importorskip("ray", reason="needs ray[data]")

from monkeylib.captions.ray_datasets import caption_dataset  # noqa: E402

COUNT = 12


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Small PNG files in a folder; the last one is black, which an expert refuses."""
    folder = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(3)
    for number in range(COUNT):
        pixels = draw.integers(1, 255, (16, 24, 3), dtype=np.uint8) * (number < COUNT - 1)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def local_records(inputs, out):
    Pipeline([Colours()], batch_size=4).run(inputs, out, progress=False)
    return [record.model_dump() for record in read_records(out / RECORDS)]


def ray_records(folder):
    """The records in parquet files that Ray has written, by name."""
    records = [record for file in folder.rglob("*.parquet") for record in read_records(file)]
    return [record.model_dump() for record in sorted(records, key=lambda record: record.name)]


def caption(dataset, out, **columns):
    engine = RayEngine(workers={"colours": (1, 2)})
    return caption_dataset(dataset, Pipeline([Colours()], batch_size=4), out, engine=engine, **columns)


def test_parquet_and_webdataset_give_the_records_of_their_bytes(photographs, tmp_path):
    files = sorted(photographs.glob("*.png"))
    contents = [file.read_bytes() for file in files]
    captions = [f"number {number}" for number in range(COUNT)]
    inputs = [InputImage(file, file.stem, text) for file, text in zip(files, captions, strict=True)]
    expected = local_records(inputs, tmp_path / "local")

    import pyarrow as pa
    from pyarrow import parquet

    # As Hugging Face's data sets have them, and as WebDataset has them.
    rows = [{"bytes": content, "path": None} for content in contents]
    table = pa.table({"image": rows, "key": [file.stem for file in files], "text": captions})
    parquet.write_table(table, tmp_path / "images.parquet")
    members = []
    for file, content, text in zip(files, contents, captions, strict=True):
        members += [(f"{file.stem}.png", content), (f"{file.stem}.txt", text.encode())]
    write_tar(tmp_path / "images.tar", members)

    datasets = {
        "parquet": (ray.data.read_parquet(str(tmp_path / "images.parquet")), "image", "key", "text"),
        "webdataset": (
            ray.data.read_webdataset(str(tmp_path / "images.tar"), decoder=None),
            "png", "__key__", "txt",
        ),
    }  # fmt: skip
    for kind, (dataset, *columns) in datasets.items():
        records = caption(
            dataset, tmp_path / kind, **dict(zip(("image", "name", "caption"), columns, strict=True))
        )
        records.write_parquet(str(tmp_path / kind / "records"))
        assert ray_records(tmp_path / kind / "records") == expected


def test_read_images_and_partitions(photographs, tmp_path):
    dataset = ray.data.read_images(str(photographs), include_paths=True, mode="RGB")
    records = caption(dataset, tmp_path, name="path")
    records.write_parquet(str(tmp_path / "records"), partition_cols=["status"])

    files = sorted(photographs.glob("*.png"))
    inputs = [InputImage(Image.open(io.BytesIO(file.read_bytes())), str(file)) for file in files]
    expected = local_records(inputs, tmp_path / "local")
    partitions = {}
    for folder in (tmp_path / "records").iterdir():
        rows = ray.data.read_parquet(str(folder)).take_all()
        partitions[folder.name] = sorted(row["name"] for row in rows)
    by_status = {}
    for record in expected:
        by_status.setdefault(f"status={record['status']}", []).append(record["name"])
    assert partitions == by_status and len(partitions) == 2

    # Another run finds all results in the cache.
    again = caption(
        ray.data.read_images(str(photographs), include_paths=True, mode="RGB"), tmp_path, name="path"
    )
    assert sorted(row["detailed_caption"] for row in again.take_all()) == sorted(
        record["detailed_caption"] for record in expected
    )


def test_missing_column_is_named(tmp_path):
    dataset = ray.data.from_items([{"jpg": b""}])
    with pytest.raises(ValueError, match="no column 'image': its columns are jpg"):
        caption_dataset(dataset, Pipeline([Colours()], batch_size=4), tmp_path)
