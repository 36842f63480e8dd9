"""Parquet files, saved folders and datasets of the hub are read into records."""

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from PIL import Image

from monkeylib.data.mixture import load_mixture
from monkeylib.data.readers import open_dataset, tables
from monkeylib.data.records import BadRecord
from monkeylib.data.schema import DatasetEntry
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


def test_images_beside_the_files_of_a_folder_are_those_of_its_records(folder, monkeypatch):
    """A folder is given from without, where no image has such a name."""
    pytest.importorskip("datasets")
    documents = folder / "documents"
    documents.mkdir()
    (documents / "beside.png").write_bytes(files.png(5, 5))
    row = {"image": "beside.png", "question": "what?", "answer": "x"}
    (documents / "train.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(folder)

    (records,) = load_mixture("documents").sets
    assert records[0].open_images()[0].size == (5, 5)


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


TABLES = ("string", "large_string", "string_view", "dictionary")


@pytest.mark.parametrize("kind", TABLES)
def test_paths_of_any_type_of_text_are_relative_to_the_folder_of_images(folder, kind):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (folder / "pictures").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "pictures" / "b.png")

    columns = {"image": ["b.png", "b.png"], "question": ["what?", "how many?"], "answer": ["x", "3"]}
    table = pa.table(columns)
    if kind == "dictionary":
        table = pa.table({name: table[name].dictionary_encode() for name in columns})
    elif kind != "string":
        table = table.cast(pa.schema({name: getattr(pa, kind)() for name in columns}))
    parquet.write_table(table, folder / "rows.parquet")

    for fields in ({"images": "pictures"}, {"images": "pictures", "format": None}):
        records = files.read(folder, fields.pop("format", "datasets"), "rows.parquet", **fields)
        assert records[1].turns == ((" how many? Answer: ", "3"),)
        assert records[0].open_images()[0].size == (9, 9)


def test_tables_of_pandas_are_read(folder):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "image": pd.Categorical(["a.png", "a.png"]),
            "question": ["What?", "How many?"],
            "answer": [3, 4],
            "id": [7.0, 8.0],
        }
    )
    frame.to_parquet(folder / "rows.parquet")
    frame.astype({"answer": str}).to_csv(folder / "rows.csv", index=False)
    frame.astype({"answer": str}).to_csv(folder / "rows.tsv", index=False, sep="\t")

    for name in ("rows.parquet", "rows.csv", "rows.tsv"):
        records = files.read(folder, None, name)
        assert [record.turns[0] for record in records] == [
            (" What? Answer: ", "3"),
            (" How many? Answer: ", "4"),
        ]
        assert records[0].open_images()[0].size == (6, 4)


@pytest.mark.parametrize("name", ["polars.parquet", "polars.arrow"])
def test_tables_of_polars_are_read(folder, name):
    (folder / name).write_bytes((Path(__file__).parent / name).read_bytes())
    (folder / "sign.png").write_bytes(files.png(8, 8))
    records = files.read(folder, None, name)
    assert [record.turns[0] for record in records] == [
        (" What? Answer: ", "please"),
        (" How many? Answer: ", "3"),
    ]
    assert records[0].open_images()[0].size == (8, 8)


def test_values_of_csv_are_texts_as_they_stand(folder):
    text = 'image,question,answer\na.png,"What, exactly?",3.10\na.png,"Two\nlines",NA\n'
    contents = {
        "rows.csv": text.encode(),
        "windows.CSV": text.replace("\n", "\r\n").encode("utf-8-sig"),
        "wide.csv": text.encode("utf-16"),
        "semicolons.csv": text.replace(", ", "_").replace(",", ";").replace("_", ", ").encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        first, second = files.read(folder, None, name)
        assert first.turns == ((" What, exactly? Answer: ", "3.10"),)
        assert second.questions[0].splitlines() == ["Two", "lines"] and second.turns[0][1] == "NA"


def test_finevision_parquet_keeps_images_closed_and_in_order(folder):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "texts": datasets.List({"user": datasets.Value("string"), "assistant": datasets.Value("string")}),
            "source": datasets.Value("string"),
        }
    )
    image = {"bytes": files.png(5, 5), "path": None}
    rows = {
        "images": [[image, {"bytes": None, "path": str(folder / "a.png")}], []],
        "texts": [[{"user": "Compare", "assistant": "differ"}], [{"user": "fruit?", "assistant": "apple"}]],
        "source": ["x", "y"],
    }
    table = datasets.Dataset.from_dict(rows, features)
    table.to_parquet(folder / "rows.parquet")
    table.save_to_disk(folder / "saved")

    columns = {"image": "images", "question": "texts", "answer": "texts"}
    for path in ("rows.parquet", "saved"):
        for fields in ({}, {"format": "datasets", "columns": columns, "min_images": 0, "max_images": 2}):
            first, second = files.read(folder, fields.pop("format", None), path, **fields)
            assert [image.size for image in first.open_images()] == [(5, 5), (6, 4)]
            assert first.turns == ((" Compare Answer: ", "differ"),) and first.source == "x"
            assert second.images == () and second.turns == ((" fruit? Answer: ", "apple"),)


def test_class_labels_are_read_by_their_names(folder):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "answer": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    image = {"bytes": files.png(5, 5), "path": None}
    table = datasets.Dataset.from_dict({"image": [image], "question": ["what?"], "answer": [1]}, features)
    table.to_parquet(folder / "rows.parquet")
    table.save_to_disk(folder / "saved")
    for path in ("rows.parquet", "saved"):
        assert files.read(folder, None, path)[0].turns[0][1] == "dog"


def test_tables_are_converted_once_and_mapped(folder, monkeypatch):
    pytest.importorskip("pyarrow")
    from monkeylib.data.readers import tables

    (folder / "rows.csv").write_text("image,question,answer\na.png,what?,x\n")
    assert len(files.read(folder, None, "rows.csv")) == 1
    monkeypatch.setattr(tables, "_convert", lambda *_: pytest.fail("converted again"))
    assert len(files.read(folder, None, "rows.csv")) == 1


def test_tables_of_other_columns_and_broken_ones_are_named(folder):
    (folder / "a.csv").write_text("image,question,answer\na.png,what?,x\n")
    (folder / "b.csv").write_text("image,words\na.png,what?\n")
    with pytest.raises(ValueError, match="b.csv has the columns image, words, the files before it have"):
        files.read(folder, None, ["a.csv", "b.csv"])

    (folder / "c.csv").write_text("image,question,answer\na.png,what?\n")
    with pytest.raises(ValueError, match="c.csv is no CSV file that can be read .*Expected 3 columns, got 2"):
        files.read(folder, None, "c.csv")
    (folder / "d.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ValueError, match="d.parquet is no parquet file that can be read"):
        files.read(folder, None, "d.parquet")


def test_conversations_of_a_hub_table_have_their_image_in_a_column(folder):
    datasets = pytest.importorskip("datasets")
    turn = {"from": datasets.Value("string"), "value": datasets.Value("string")}
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "image": datasets.Image(),
            "conversations": datasets.List(turn),
            "data_source": datasets.Value("string"),
        }
    )
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x"}]
    rows = {
        "id": ["a", "b"],
        "image": [{"bytes": files.png(5, 5), "path": "1.png"}, None],
        "conversations": [turns, [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]],
        "data_source": ["x", "y"],
    }
    datasets.Dataset.from_dict(rows, features).to_parquet(folder / "rows.parquet")
    first, second = files.read(folder, None, "rows.parquet")
    assert first.turns == ((" What? Answer: ", "x"),) and first.open_images()[0].size == (5, 5)
    assert (second.id, second.images) == ("b", ())


def test_answers_that_a_table_holds_as_the_text_of_a_list_are_a_list(folder):
    (folder / "rows.csv").write_text("image,question,answers\na.png,what?,\"['x', 'y', 'y']\"\n")
    (record,) = files.read(folder, None, "rows.csv")
    assert (record.turns, record.answers) == (((" what? Answer: ", "y"),), ("x", "y", "y"))


def test_numbers_of_databases_are_the_texts_that_were_meant(folder):
    pa = pytest.importorskip("pyarrow")
    prices = [Decimal("1.86"), Decimal("2.00")]
    columns = {
        "decimals": pa.array(prices, pa.decimal128(10, 2)),
        "floats": pa.array([1.86, 2], pa.float32()),
    }
    for name, column in columns.items():
        files.write_parquet(
            folder / f"{name}.parquet", image=["a.png"] * 2, question=["what?"] * 2, answer=column
        )

    assert [record.answers for record in files.read(folder, None, "decimals.parquet")] == [
        ("1.86",),
        ("2.00",),
    ]
    assert [record.answers for record in files.read(folder, None, "floats.parquet")] == [("1.86",), ("2.0",)]


def test_null_fields_of_messages_are_read(folder):
    turns = [("user", "<image>what?"), ("assistant", "x")]
    messages = [{"role": role, "content": text, "tool_calls": None} for role, text in turns]
    files.write_parquet(folder / "rows.parquet", images=[["a.png"]], messages=[messages])
    (record,) = files.read(folder, None, "rows.parquet")
    assert record.turns == ((" what? Answer: ", "x"),)


def test_the_first_field_of_answers_with_a_value_counts(folder):
    files.write_parquet(
        folder / "rows.parquet",
        image=["a.png"] * 2,
        question=["what?"] * 2,
        answer=["x", None],
        answers=[None, ["y", "z"]],
    )
    assert [record.answers for record in files.read(folder, None, "rows.parquet")] == [("x",), ("y", "z")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.csv", "image,question,answer\na.png,what?,é\n".encode("latin-1"), "write it anew in UTF-8"),
        ("twice.csv", b"image,question,answer,answer\na.png,what?,x,y\n", "2 columns called 'answer'"),
    ],
)
def test_tables_that_cannot_be_read_right_are_refused(name, content, message, folder):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        files.read(folder, None, name)


def test_damaged_parquet_is_named(folder):
    path = folder / "rows.parquet"
    texts = [f"text {number}" for number in range(5000)]
    files.write_parquet(path, image=["a.png"] * 5000, question=texts, answer=texts)
    content = bytearray(path.read_bytes())
    content[2000:2400] = b"\xff" * 400
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"rows\.parquet .*write it anew"):
        files.read(folder, None, "rows.parquet")


def test_base64_in_place_of_a_path_is_named(folder):
    files.write_parquet(
        folder / "rows.parquet", image=["/9j/" + "A" * 9000], question=["what?"], answer=["x"]
    )
    with pytest.raises(
        BadRecord, match=r"expected a path, or base64 as data:image/png;base64,CONTENT"
    ) as error:
        files.read(folder, None, "rows.parquet")[0]
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("Image,question,answer", "image: Image"),
        ("image_path,question,answer", "image: image_path"),
        ("file_name,Question,Answer", "image: file_name, question: Question, answer: Answer"),
    ],
)
def test_column_of_images_of_another_name_is_refused_and_read_as_the_message_says(header, columns, folder):
    (folder / "rows.csv").write_text(f"{header}\na.png,what?,x\n")
    with pytest.raises(ValueError, match="has no column image") as error:
        files.read(folder, None, "rows.csv")

    # What the message suggests is a mixture that reads it.
    (example,) = re.findall(r"`(sets: .*)`", str(error.value))
    assert f"columns: {{{columns}}}" in example
    (folder / "mix.yaml").write_text(example)
    (record,) = load_mixture(folder / "mix.yaml").datasets[0]
    assert record.images == (folder / "a.png",) and record.questions == ("what?",)


def test_column_of_images_that_a_mixture_names_must_be_there(folder):
    (folder / "rows.csv").write_text("scan,question,answer\na,what?,x\n")
    entry = DatasetEntry(name="pets", path="rows.csv", columns={"image": "pages"})
    with pytest.raises(ValueError, match=r"has no column pages.*columns: \{image: NAME\}"):
        open_dataset(entry, folder)


@pytest.mark.parametrize("name", ["image", "images"])
def test_images_of_a_cell_are_a_path_or_the_text_of_a_list(name, folder):
    cells = ["a.png", '"[""a.png"", ""b.png""]"', "\"['a.png']\"", ""]
    rows = "".join(f"{cell},what?,x\n" for cell in cells)
    (folder / "rows.csv").write_text(f"{name},question,answer\n{rows}")
    names = [[image.name for image in record.images] for record in files.read(folder, None, "rows.csv")]
    assert names == [["a.png"], ["a.png", "b.png"], ["a.png"], []]


@pytest.mark.parametrize("size", [3 * 2**20, 20 * 2**20])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_rows_of_a_csv_file_may_hold_images_and_books(folder, size, encoding):
    image = f"data:image/png;base64,{'A' * size}"
    book = "a line\n" * (size // 7)
    rows = f'a.png,what?,x\n"{image}",who?,y\na.png,what?,"{book}"\n'
    (folder / "rows.csv").write_bytes(f"image,question,answer\n{rows}".encode(encoding))
    first, second, third = files.read(folder, None, "rows.csv")
    assert first.images == (folder / "a.png",) and second.images == (image,)
    assert third.answers == (book,)


def test_row_that_no_block_can_hold_is_named(folder, monkeypatch):
    monkeypatch.setattr(tables, "_MAX_CSV_BLOCK", tables._CSV_BLOCK)
    (folder / "rows.csv").write_text(f"image,question,answer\na.png,what?,{'x' * 2**21}\n")
    with pytest.raises(ValueError, match=r"rows\.csv has a row of more than 1 MiB.*name images by"):
        files.read(folder, None, "rows.csv")
