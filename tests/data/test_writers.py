"""Records are written in four formats and read back as they were."""

import base64

import pytest
from PIL import Image

from monkeylib.data.readers import open_dataset
from monkeylib.data.records import BadRecord
from monkeylib.data.schema import DatasetEntry
from monkeylib.data.writers import FORMATS, write_records
from monkeylib.messages import ImagePart
from tests.support import record_files as files

ENDINGS = list(FORMATS.values())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with images of several sizes and formats."""
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))
    (tmp_path / "images").mkdir()
    for number, suffix in enumerate(("png", "jpg", "webp", "bmp")):
        Image.new("RGB", (10 + number, 5), "red").save(tmp_path / "images" / f"{number}.{suffix}")
    return tmp_path


def read(folder, path, **fields):
    return list(open_dataset(DatasetEntry(name="pets", path=str(path), **fields), folder))


def content(record):
    """Return what has to survive: the roles, the texts, the images by their sizes, and what else is known."""
    sizes = iter([image.size for image in record.open_images()])
    messages = [
        (message.role, [next(sizes) if isinstance(part, ImagePart) else part for part in message.parts])
        for message in record.messages
    ]
    return record.id, messages, record.answers, record.source, record.licence


def uri(size):
    return "data:image/png;base64," + base64.b64encode(files.png(*size)).decode()


CONVERSATIONS = [
    {
        "id": "several turns",
        "image": ["images/0.png", "images/1.jpg", uri((3, 3))],
        "source": "a shelf",
        "licence": "CC0",
        "conversations": [
            {"from": "system", "value": "Be brief — brièvement."},
            {"from": "human", "value": "Which is cheaper, <image> or <image>?"},
            {"from": "gpt", "value": "the first\none <image>"},
            {"from": "human", "value": "<image>\nAnd this?"},
            {"from": "gpt", "value": "日本"},
        ],
    },
    {
        "id": "7",
        "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
    },
    {
        "id": "7",
        "image": "images/2.webp",
        "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "3"}],
    },
]
QUESTIONS = [
    {"image": "images/3.bmp", "question": "how much?", "answers": ["1.86", "1,86", "1.86"], "id": "q"},
    {"image": "images/0.png", "question": "what?", "answer": 3},
]


@pytest.mark.parametrize("second", ENDINGS)
@pytest.mark.parametrize("first", ENDINGS)
@pytest.mark.parametrize("rows", [CONVERSATIONS, QUESTIONS], ids=["conversations", "questions"])
def test_records_survive_a_round_trip_through_every_format(folder, rows, first, second):
    pytest.importorskip("pyarrow")
    files.write_list(folder / "rows.json", rows)
    records = read(folder, "rows.json")
    # In another folder, so that paths have to be written anew.
    (folder / "other").mkdir()
    write_records(records, folder / "other" / f"one{first}")
    write_records(read(folder / "other", f"one{first}"), folder / f"two{second}")

    again = read(folder, f"two{second}")
    assert [content(record) for record in again] == [content(record) for record in records]
    # They train on the same prompts.
    assert [record.turns for record in again] == [record.turns for record in records]


@pytest.mark.parametrize("ending", ENDINGS)
def test_prompts_of_the_released_data_become_questions(folder, ending):
    pytest.importorskip("pyarrow")
    rows = [
        files.conversation("<img>images/0.png</img> what is it? Answer: ", id="1"),
        files.conversation("<img>images/0.png</img> Say it.", id="2"),
    ]
    files.write_list(folder / "rows.json", rows)
    records = read(folder, "rows.json", format="conversations")
    result = write_records(records, folder / f"new{ending}")

    assert (result.num_records, result.num_with_prompt) == (2, 1)
    first, second = read(folder, f"new{ending}")
    assert first.turns == records[0].turns
    assert second.questions == ("Say it.",)
    assert read(folder, f"new{ending}", prompt="plain")[1].turns == records[1].turns


def test_caption_prompts_are_written_in_place_of_questions(folder):
    files.write_list(folder / "rows.json", QUESTIONS)
    records = read(folder, "rows.json", prompt="caption")
    result = write_records(records, folder / "new.jsonl")
    assert result.num_with_prompt == 2
    assert read(folder, "new.jsonl", prompt="plain")[0].turns == records[0].turns


def test_placeholder_that_is_text_cannot_be_written_as_llava(folder):
    content = [{"type": "text", "text": "What is <image>?"}]
    row = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a tag"}]}
    files.write_lines(folder / "rows.jsonl", [row, CONVERSATIONS[1]])
    records = read(folder, "rows.jsonl")

    assert write_records(records, folder / "new.json").left_out == {"with <image> as a text": 1}
    assert write_records(records, folder / "new.jsonl").num_records == 2
    assert read(folder, "new.jsonl")[0].questions == ("What is <image>?",)


def test_shards_and_parquet_are_those_of_their_makers(folder):
    datasets = pytest.importorskip("datasets")
    files.write_list(folder / "rows.json", CONVERSATIONS)
    write_records(read(folder, "rows.json"), folder / "new.parquet")

    path, cache = str(folder / "new.parquet"), str(folder / "cache")
    table = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=cache)
    assert [image.size for image in table[0]["images"]] == [(10, 5), (11, 5), (3, 3)]
    assert table[2]["messages"][1]["content"] == [{"type": "text", "text": "3"}]


def test_nothing_is_overwritten_and_nothing_half_written_stays(folder):
    files.write_list(folder / "rows.json", [*CONVERSATIONS, *CONVERSATIONS])
    (folder / "mine.jsonl").write_text("mine")
    with pytest.raises(FileExistsError, match="mine.jsonl exists already"):
        write_records(read(folder, "rows.json"), folder / "mine.jsonl")
    assert (folder / "mine.jsonl").read_text() == "mine"

    # The folder for images is somebody else's.
    (folder / "new-images").mkdir()
    (folder / "new-images" / "mine.png").write_text("mine")
    with pytest.raises(FileExistsError, match="new-images exists already"):
        write_records(read(folder, "rows.json"), folder / "new.jsonl")

    before = sorted(folder.rglob("*"))
    records = read(folder, "rows.json")
    (folder / "images" / "2.webp").write_bytes(b"broken")
    for ending in (".tar", ".parquet"):
        with pytest.raises(BadRecord, match="its image cannot be read"):
            write_records(records, folder / f"broken{ending}")

    def interrupted():
        yield from records
        raise KeyboardInterrupt

    for ending in ENDINGS:
        with pytest.raises((KeyboardInterrupt, BadRecord)):
            write_records(interrupted(), folder / f"killed{ending}")
    assert sorted(folder.rglob("*")) == before

    with pytest.raises(
        ValueError, match=r"stands for no format by its ending: expected .json .llava., .jsonl"
    ):
        write_records(records, folder / "new.csv")
    with pytest.raises(ValueError, match="there is no record to write"):
        write_records([], folder / "new.jsonl")
