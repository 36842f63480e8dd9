"""Each format is read into the same record."""

import json

import pytest
from PIL import Image

from tests.support import record_files as files


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with an image, and with the caches."""
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))
    (tmp_path / "a.png").write_bytes(files.png())
    return tmp_path


def read(folder, format, path, **fields):
    return files.read_dataset(files.entry(format, path, **fields), folder)


def test_released_conversations_keep_their_texts(folder):
    rows = [
        files.conversation(),
        files.conversation("<img>a.png</img> where? Answer: ", "an <img> and an <imgpad> are text", id=7),
    ]
    files.write_list(folder / "rows.json", rows)
    records = read(folder, "conversations", "rows.json")

    assert len(records) == 2
    assert records[0].turns == ((" what is it? Answer: ", "a cat"),)
    assert (records[0].id, records[0].dataset) == ("0", "pets")
    assert (records[1].id, records[1].turns[0][1]) == ("7", "an <img> and an <imgpad> are text")
    assert records[1].location.startswith("dataset pets: rows.json, record 2 (line ")

    (image,) = records[0].open_images()
    assert (image.size, image.mode) == ((6, 4), "RGB")


def test_first_turn_or_all_turns_are_read(folder):
    row = files.conversation()
    row["conversations"] += [{"from": "user", "value": " and now? "}, {"from": "assistant", "value": "a dog"}]
    files.write_list(folder / "rows.json", [row])

    assert len(read(folder, "conversations", "rows.json", turns="first")[0].turns) == 1
    assert read(folder, "conversations", "rows.json")[0].turns[1] == (" and now? ", "a dog")


def test_several_images_open_a_conversation_in_their_order(folder):
    (folder / "b.png").write_bytes(files.png(3, 3))
    files.write_list(folder / "rows.json", [files.conversation("<img>a.png</img><img>b.png</img> which?")])
    record = read(folder, "conversations", "rows.json", max_images=2)[0]

    assert [image.size for image in record.open_images()] == [(6, 4), (3, 3)]
    assert record.turns[0][0] == " which?"


def test_released_evaluation_lines_take_the_most_frequent_answer(folder):
    rows = [files.example(question_id=3), files.example(answer=["a dog", "a cat", "a cat"], question_id=4)]
    files.write_lines(folder / "rows.jsonl", rows)
    records = read(folder, "evaluation", "rows.jsonl", prompt="vqa_no_blank", separator="")

    assert records[1].turns == (("what is it? Answer:", "a cat"),)
    assert (records[1].id, records[1].location) == ("4", "dataset pets: rows.jsonl, line 2")


def test_llava_conversations_lose_their_placeholder_and_get_the_prompt(folder):
    rows = [
        files.talk("what is it?\n<image>", "a cat", "its <colour>?", "red <image>", id="x"),
        {"conversations": files.talk("how are you?", "well")["conversations"]},
    ]
    files.write_list(folder / "rows.json", rows)
    records = read(folder, "llava", "rows.json", min_images=0)

    assert records[0].turns == (
        (" what is it? Answer: ", "a cat"),
        (" its <colour>? Answer: ", "red <image>"),
    )
    assert len(records[0].open_images()) == 1
    assert records[1].images == ()


def test_byte_order_mark_and_blank_lines_are_skipped(folder):
    line = json.dumps(files.example("où?")).encode()
    (folder / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\n" + line)
    records = read(folder, "evaluation", "rows.jsonl")

    assert [record.location for record in records] == [f"dataset pets: rows.jsonl, line {n}" for n in (1, 3)]
    assert records[1].turns[0][0] == " où? Answer: "


def test_list_is_indexed_in_bytes_whatever_its_characters(folder):
    answers = ["é", "日本", "🐈", "plain"]
    text = json.dumps([files.conversation(answer=answer) for answer in answers], ensure_ascii=False)

    # A byte order mark and a blank before the list.
    (folder / "rows.json").write_text(f"\ufeff {text}", encoding="utf-8")

    assert [record.turns[0][1] for record in read(folder, "conversations", "rows.json")] == answers


def test_several_files_make_one_dataset(folder):
    # Records are numbered over all files, lines within each.
    for name, answers in (("a.jsonl", ["one", "two"]), ("b.jsonl", ["three"])):
        files.write_lines(folder / name, [files.example(answer=answer) for answer in answers])
    records = read(folder, "evaluation", ["a.jsonl", "b.jsonl"])

    assert [record.turns[0][1] for record in records] == ["one", "two", "three"]
    assert records[2].location == "dataset pets: b.jsonl, line 1"


def test_ids_may_repeat_where_the_entry_allows_it(folder):
    files.write_lines(folder / "rows.jsonl", [files.example(question_id=1)] * 2)
    assert read(folder, "evaluation", "rows.jsonl", unique_ids=False)[1].id == "1"


def test_shards_are_read_in_any_order_and_indexed_once(folder):
    members = [
        ("x/1.jpg", files.png()),
        ("x/1.json", json.dumps({"question": "q?", "answer": "one"}).encode()),
    ]
    members += [
        ("x/2.json", b'{"question": "q?", "answer": "two"}'),
        ("x/2.seg.png", b""),
        ("x/2.PNG", files.png(2, 2)),
    ]

    # "2.seg.png" is another suffix, not an image; "PNG" is one in any case.
    files.write_tar(folder / "s-0.tar", members)
    files.write_tar(
        folder / "s-1.tar", [("3.png", files.png()), ("3.json", b'{"question": "q?", "answer": "three"}')]
    )
    records = read(folder, "webdataset", ["s-0.tar", "s-1.tar"])

    assert [record.turns[0][1] for record in (records[2], records[1], records[0])] == ["three", "two", "one"]
    assert (records[1].id, records[1].location) == ("x/2", "dataset pets: s-0.tar, key x/2")
    assert records[1].open_images()[0].size == (2, 2)

    indices = sorted((folder / "out" / "data" / "cache" / "shards").iterdir())
    assert len(indices) == 2

    # A shard whose cached index is empty has no records: shards are not scanned again.
    indices[0].write_text("[]")
    assert len(read(folder, "webdataset", ["s-0.tar", "s-1.tar"])) < 3


def test_captions_of_shards_are_text_members(folder):
    files.write_tar(folder / "s.tar", [("1.png", files.png()), ("1.txt", "a café".encode())])
    record = read(folder, "webdataset", "s.tar", prompt="caption")[0]
    assert record.turns == ((" Generate the caption in English:", "a café"),)


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
        record = read(folder, "datasets", path, split=split, **named)[0]
        assert (record.id, record.turns) == ("k", ((" what? Answer: ", "y"),))
        assert record.open_images()[0].size == (5, 5)

    with pytest.raises(ValueError, match="the dataset pets has no split train: it has dev"):
        read(folder, "datasets", "saved", **named)


def test_hub_dataset_is_loaded_by_its_id(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"image": ["a.png"], "question": ["what?"], "answer": ["x"]})
    calls = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *given, **named: calls.append((given, named)) or table
    )
    records = read(folder, "datasets", "someone/charts", split="dev", revision="1234abc")

    assert records[0].turns == ((" what? Answer: ", "x"),) and records[0].open_images()

    cache = str(folder / "out" / "data" / "cache" / "datasets")
    assert calls == [(("someone/charts",), {"split": "dev", "revision": "1234abc", "cache_dir": cache})]


def test_column_of_paths_is_relative_to_the_folder_of_images(folder):
    pytest.importorskip("datasets")
    (folder / "images").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "images" / "b.png")
    files.write_parquet(folder / "rows.parquet", image=["b.png"], question=["what?"], answer=["x"])
    # A column of texts holds paths.
    record = read(folder, "datasets", "rows.parquet", images="images")[0]

    assert record.open_images()[0].size == (9, 9)
