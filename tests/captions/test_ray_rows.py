"""Rows of a data set on their way through the steps of Ray, in this process and without Ray."""

import io

import numpy as np
import pytest
from PIL import Image

from monkeylib.captions import ray_datasets, ray_engine
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.pipeline import RECORDS, Pipeline
from monkeylib.captions.record_files import read_records
from tests.support.caption_models import Colours


def column(values):
    """Values as a column of a batch."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def caption_rows(batch, out, name="name", caption="caption"):
    """The records of a batch of rows, by the steps of a data set."""
    stages = Pipeline([Colours()], batch_size=4).stages(out / "annotations")
    rows = []
    for part in ray_engine._load(ray_datasets._tasks(batch, "image", name, caption)):
        for stage in stages:
            part = ray_engine.StageActor(stage, stage is not stages[-1])(part)
        rows += ray_datasets._records(part, stages).to_pylist()
    return rows


@pytest.fixture()
def photographs(tmp_path):
    draw = np.random.default_rng(3)
    files = []
    for number in range(6):
        pixels = draw.integers(1, 255, (16, 24 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    files[3].write_bytes(files[3].read_bytes()[:60])
    return files


def test_rows_of_bytes_give_the_records_of_their_files(photographs, tmp_path):
    contents = [file.read_bytes() for file in photographs]
    captions = ["one", None, "three", "", b"five", "six"]
    inputs = [
        InputImage(file, file.name, text)
        for file, text in zip(photographs, ["one", "", "three", "", "five", "six"], strict=True)
    ]
    Pipeline([Colours()], batch_size=4).run(inputs, tmp_path / "local", progress=False)
    expected = list(read_records(tmp_path / "local" / RECORDS))
    assert [record.status for record in expected].count("failed") == 1

    batch = {"name": column([file.name for file in photographs]), "caption": column(captions)}
    forms = {"bytes": contents, "structures": [{"bytes": content, "path": None} for content in contents]}
    for form, values in forms.items():
        rows = caption_rows({**batch, "image": column(values)}, tmp_path / form)
        assert [row["name"] for row in rows] == [record.name for record in expected]
        for row, record in zip(rows, expected, strict=True):
            assert (row["sha256"], row["status"]) == (record.sha256, record.status)
            assert (row["detailed_caption"], row["original_caption"]) == (
                record.detailed_caption, record.original_caption,
            )  # fmt: skip
            assert [failure["stage"] for failure in row["failures"]] == [
                failure.stage for failure in record.failures
            ]


def test_rows_of_pixels_are_named_by_their_digests(photographs, tmp_path):
    images = [Image.open(io.BytesIO(file.read_bytes())).convert("RGB") for file in photographs[:3]]
    batch = {"image": column([np.asarray(image) for image in images])}
    rows = caption_rows(batch, tmp_path / "rows", name="", caption="")
    digests = [InputImage(image, "").sha256() for image in images]
    assert [row["sha256"] for row in rows] == [row["name"] for row in rows] == digests
    assert all(row["detailed_caption"] for row in rows)
