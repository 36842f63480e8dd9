"""Parquet files, saved folders and datasets of the hub are read into records."""

import pytest
from PIL import Image

from tests.support import record_files as files


def test_parquet_and_saved_folders_are_read_by_their_columns(folder):
    datasets = pytest.importorskip("datasets")
    image = {"bytes": files.png(5, 5), "path": None}
    columns = {"q": ["what?", "who?"], "a": [["x", "y", "y"], ["z"]], "img": [image] * 2, "key": ["k", "l"]}
    files.write_parquet(folder / "rows.parquet", **columns)
    named = {"columns": {"image": "img", "question": "q", "answer": "a", "id": "key"}}
    features = datasets.Features(
        {
            "q": datasets.Value("string"),
            "a": datasets.List(datasets.Value("string")),
            "img": datasets.Image(),
            "key": datasets.Value("string"),
        }
    )

    # The same rows, as `save_to_disk` writes several splits.
    datasets.DatasetDict({"dev": datasets.Dataset.from_dict(columns, features)}).save_to_disk(
        folder / "saved"
    )

    for path, split in (("rows.parquet", "train"), ("saved", "dev")):
        record = files.read(folder, "datasets", path, split=split, **named)[0]
        assert (record.id, record.turns) == ("k", ((" what? Answer: ", "y"),))
        assert record.open_images()[0].size == (5, 5)

    with pytest.raises(ValueError, match="the dataset pets has no split train: it has dev"):
        files.read(folder, "datasets", "saved", **named)


def test_hub_dataset_is_loaded_by_its_id(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"image": ["a.png"], "question": ["what?"], "answer": ["x"]})
    calls = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *given, **named: calls.append((given, named)) or table
    )
    records = files.read(folder, "datasets", "someone/charts", split="dev", revision="1234abc")

    assert records[0].turns == ((" what? Answer: ", "x"),) and records[0].open_images()

    cache = str(folder / "out" / "data" / "cache" / "datasets")
    assert calls == [(("someone/charts",), {"split": "dev", "revision": "1234abc", "cache_dir": cache})]


def test_column_of_paths_is_relative_to_the_folder_of_images(folder):
    pytest.importorskip("datasets")
    (folder / "images").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "images" / "b.png")
    files.write_parquet(folder / "rows.parquet", image=["b.png"], question=["what?"], answer=["x"])
    # A column of texts holds paths.
    record = files.read(folder, "datasets", "rows.parquet", images="images")[0]

    assert record.open_images()[0].size == (9, 9)
