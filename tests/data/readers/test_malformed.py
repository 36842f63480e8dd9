"""Malformed records and files: the error of each, and the good records around it."""

import json

import pytest

from monkeylib.data.records import BadRecord, Record
from tests.support import record_files as files

CONVERSATION, EXAMPLE, TALK = files.conversation, files.example, files.talk


def user(*turns):
    """A conversation of the given (role, text) pairs."""
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


# Format, a bad row that is put between two good ones, and its error.
ROWS = {
    "a number": ("conversations", 5, "expected an object with fields, got int 5"),
    "no conversations": ("conversations", {"id": 1}, "the field conversations is missing, there are id"),
    "conversations null": ("conversations", {"conversations": None}, "expected a list of turns, got None"),
    "no turns": ("conversations", {"conversations": []}, r"expected a list of turns, got list \[\]"),
    "nested turns": (
        "conversations",
        {"conversations": [CONVERSATION()["conversations"]]},
        r"conversations\[0\]: expected an object with `from` and `value`, got list",
    ),
    "a turn without a text": (
        "conversations",
        {"conversations": [{"from": "user"}]},
        r"conversations\[0\]: expected an object with `from` and `value`",
    ),
    "an unknown role": (
        "conversations",
        user(("user", "<img>a.png</img> q? "), ("bot", "x")),
        r"\[1\].from: expected assistant .user and assistant take turns., got bot",
    ),
    "two prompts in a row": (
        "conversations",
        user(("user", "<img>a.png</img> q? "), ("user", "x")),
        r"\[1\].from: expected assistant",
    ),
    "a prompt without an answer": (
        "conversations",
        user(("user", "<img>a.png</img> q? ")),
        "expected an answer after every prompt, got 1 turns",
    ),
    "an empty answer": (
        "conversations",
        CONVERSATION(answer=""),
        r"\[1\].value: expected a text that is not empty",
    ),
    "a blank answer": (
        "conversations",
        CONVERSATION(answer=" \n"),
        r"\[1\].value: expected a text that is not",
    ),
    "an answer that is null": (
        "conversations",
        CONVERSATION(answer=None),
        r"\[1\].value: expected a text, got None",
    ),
    "an answer that is NaN": (
        "conversations",
        CONVERSATION(answer=float("nan")),
        "expected a text, got float nan",
    ),
    "an answer in a list": (
        "conversations",
        CONVERSATION(answer=["x"]),
        r"expected a text, got list \['x'\]",
    ),
    "a prompt that is true": ("conversations", CONVERSATION(prompt=True), "expected a text, got bool True"),
    "half a surrogate pair": ("conversations", CONVERSATION(answer="\ud83d"), "expected a text of Unicode"),
    "an image after the question": (
        "conversations",
        CONVERSATION("<img>a.png</img> like <img>b.png</img>? "),
        "expected 1 images, got 2; the dataset's min_images and max_images say how many",
    ),
    "an image without a prompt later": (
        "conversations",
        user(
            ("user", "<img>a.png</img> q? "),
            ("assistant", "x"),
            ("user", "<img>a.png</img>"),
            ("assistant", "y"),
        ),
        r"\[2\].value after the images: expected a text that is not empty",
    ),
    "an image that does not end": (
        "conversations",
        CONVERSATION("<img>a.png what?"),
        "expected 1 images, got 0",
    ),
    "an image without a path": ("conversations", CONVERSATION("<img></img> what?"), "not empty, got ''"),
    "a path with a zero byte": ("conversations", CONVERSATION("<img>a\0b</img> what?"), "expected a path"),
    "two images": (
        "conversations",
        CONVERSATION("<img>a.png</img><img>a.png</img> what?"),
        "expected 1 images, got 2; the dataset's min_images and max_images say how many",
    ),
    "no image": ("conversations", CONVERSATION("what? Answer: "), "expected 1 images, got 0"),
    "an image without a prompt": (
        "conversations",
        CONVERSATION("<img>a.png</img> "),
        r"\[0\].value after the images: expected a text that is not empty",
    ),
    "an id that is a list": (
        "conversations",
        CONVERSATION(id=[1]),
        "field id: expected a text or a whole number",
    ),
    "the id of another": ("conversations", CONVERSATION(id="first"), "record 1 .line 2. has the same"),
    "no question": ("evaluation", {"image": "a.png", "answer": "x"}, "the field question is missing"),
    "an empty question": ("evaluation", EXAMPLE(" "), "field question: expected a text that is not empty"),
    "no answer of many": ("evaluation", EXAMPLE(answer=[]), r"field answer: expected a text, got list \[\]"),
    "true among answers": (
        "evaluation",
        EXAMPLE(answer=["x", True]),
        r"field answer\[1\]: expected a text, got bool",
    ),
    "an image that is a number": ("evaluation", EXAMPLE(image=5), "field image: expected a text, got int 5"),
    "a line that is a list": ("evaluation", [1], "expected an object with fields, got list"),
    "a question id of another": ("evaluation", EXAMPLE(question_id="first"), "line 1 has the same"),
    "a placeholder without its image": (
        "llava",
        TALK("<image>\n<image> q?", "x"),
        "expected an <image> for each of the 1 images of the field image, got 2",
    ),
    "a placeholder too many in a later question": (
        "llava",
        TALK("<image> q?", "x", "<image>?", "y"),
        "for each of the 1 images of the field image, got 2",
    ),
    "an image in an answer": (
        "messages",
        {
            "messages": [
                {"role": "user", "content": "q?"},
                {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]},
            ]
        },
        r"field messages\[1\].content: expected text in a message of assistant, got an image",
    ),
    "a sound in a message": (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]},
                {"role": "assistant", "content": "x"},
            ]
        },
        r"field messages\[0\].content\[0\].type: expected text or image, got audio",
    ),
    "a message of a tool": (
        "messages",
        {"messages": [{"role": "user", "content": "q?"}, {"role": "tool", "content": "x"}]},
        r"messages\[1\].role: expected assistant .user and assistant take turns., got tool",
    ),
    "an answer that is not to be learned": (
        "messages",
        {
            "messages": [
                {"role": "user", "content": "q?"},
                {"role": "assistant", "content": "x", "weight": 0},
            ]
        },
        r"messages\[1\].weight: expected an answer to train on",
    ),
    "texts without an answer": (
        "cauldron",
        {"images": ["a.png"], "texts": [{"user": "q?"}]},
        "an object with",
    ),
    "no texts": (
        "cauldron",
        {"images": ["a.png"], "texts": []},
        r"field texts: expected a list of questions and answers, got list \[\]",
    ),
    "texts that are null": (
        "cauldron",
        {"images": ["a.png"], "texts": None},
        "field texts: expected a list of questions and answers, got None",
    ),
    "two images in a part of one": (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": ["a.png", "b.png"]}, "q?"]},
                {"role": "assistant", "content": "x"},
            ]
        },
        r"messages\[0\].content\[0\].image: expected one image, got list",
    ),
    "a part with a list of no image": (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": []}, "q?"]},
                {"role": "assistant", "content": "x"},
            ]
        },
        r"messages\[0\].content\[0\].image: expected one image, got list \[\]",
    ),
    "a question of nothing but its placeholder": (
        "llava",
        TALK("<image>", "x"),
        r"\[0\].value: expected a text that",
    ),
    "a system prompt": (
        "llava",
        {"image": "a.png", "conversations": [{"from": "system", "value": "x"}]},
        "expected an answer after every prompt, got 1 turns",
    ),
    "an image in a dictionary": (
        "llava",
        TALK("<image> q?", "x", image={}),
        r"field image: expected a text, got dict",
    ),
}
GOOD = {
    "conversations": CONVERSATION,
    "evaluation": EXAMPLE,
    "llava": lambda: TALK("<image> what?", "a cat"),
    "messages": lambda: {
        "messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a cat"}]
    },
    "cauldron": lambda: {"images": ["a.png"], "texts": [{"user": "what?", "assistant": "a cat"}]},
}


def outcomes(records):
    """Return each record of a dataset, or the message of its error."""
    results = []
    for number in range(len(records)):
        try:
            results.append(records[number])
        except BadRecord as error:
            results.append(str(error))

    return results


@pytest.mark.parametrize("what", ROWS)
def test_malformed_record_raises_and_the_others_are_read(what, folder):
    format, row, sentence = ROWS[what]
    rows = [
        GOOD[format]() | {"id" if format != "evaluation" else "question_id": "first"},
        row,
        GOOD[format](),
    ]
    if format == "evaluation":
        name = "rows.jsonl"
        files.write_lines(folder / name, rows)
    else:
        name = "rows.json"
        files.write_list(folder / name, rows)

    first, bad, last = outcomes(files.read(folder, format, name, unique_ids=True))

    assert isinstance(first, Record) and isinstance(last, Record)

    location = "line 2" if format == "evaluation" else r"record 2 \(line \d+\)"

    # The message names the dataset, the file and the record.
    with pytest.raises(BadRecord, match=rf"^dataset pets: {name}, {location}.*{sentence}"):
        raise BadRecord(bad)


LINES = {
    "a line that is no JSON": (b"{nonsense}", "expected an object of JSON, got b'{nonsense}'"),
    "a line that is cut off": (json.dumps(EXAMPLE())[:-9].encode(), "expected an object of JSON"),
    "a line that is not UTF-8": (
        json.dumps(EXAMPLE()).encode().replace(b"cat", b"\xff"),
        "got the byte 0xff",
    ),
    "a line nested too deep": (b"[" * 100_000, "expected an object of JSON"),
}


@pytest.mark.parametrize("what", LINES)
def test_malformed_line_raises_and_the_others_are_read(what, folder):
    content, sentence = LINES[what]
    # The bad line stands between two good ones.
    good = json.dumps(EXAMPLE()).encode()
    (folder / "rows.jsonl").write_bytes(b"\n".join([good, content, good]))
    first, bad, last = outcomes(files.read_dataset(files.entry("evaluation", "rows.jsonl"), folder))

    assert isinstance(first, Record) and isinstance(last, Record)
    assert bad.startswith("dataset pets: rows.jsonl, line 2") and sentence in bad


def test_only_the_record_that_is_not_utf8_is_bad_in_a_list(folder):
    text = json.dumps(
        [CONVERSATION(answer="é"), CONVERSATION(answer="X"), CONVERSATION()], ensure_ascii=False
    )

    # One byte of the second record is not UTF-8.
    (folder / "rows.json").write_bytes(text.encode().replace(b"X", b"\xff"))
    first, bad, last = outcomes(files.read_dataset(files.entry("conversations", "rows.json"), folder))

    assert first.turns[0][1] == "é" and last.turns[0][1] == "a cat"
    assert bad == "dataset pets: rows.json, record 2 (line 1): expected UTF-8, got the byte 0xff"


SHARDS = {
    "no image": ([("2.json", b'{"question": "q?", "answer": "x"}')], "expected 1 images, got 0"),
    "no text": ([("2.png", b"")], "the field question is missing"),
    "JSON that is none": ([("2.png", b""), ("2.json", b"{")], "the member .json must be UTF-8 and JSON"),
    "JSON that is a list": ([("2.png", b""), ("2.json", b"[]")], "must be an object with fields, got list"),
    "the key of another": (
        [("1.png", b""), ("1.json", b'{"question": "q?", "answer": "x"}')],
        "s.tar, key 1 has the same",
    ),
}


@pytest.mark.parametrize("what", SHARDS)
def test_malformed_sample_of_a_shard_raises(what, folder):
    members, sentence = SHARDS[what]
    text = b'{"question": "q?", "answer": "x"}'
    # Keys 1, 0 and 3 are good; the bad one stands between them.
    first, last = ([(f"{n}.png", files.png()), (f"{n}.json", text)] for n in (1, 3))
    files.write_tar(folder / "s.tar", [*first, ("0.png", files.png()), ("0.json", text), *members, *last])
    first_good, second_good, bad, last_good = outcomes(
        files.read(folder, "webdataset", "s.tar", unique_ids=True)
    )

    assert [isinstance(record, Record) for record in (first_good, second_good, last_good)] == [True] * 3
    assert bad.startswith("dataset pets: s.tar, key ") and sentence in bad


COLUMNS = {
    "an answer that is null": ({"answer": ["x", None]}, "field answer: expected a text, got None"),
    "a question that is empty": (
        {"question": ["q?", ""]},
        "field question: expected a text that is not empty",
    ),
    "a path that is null": ({"image": ["a.png", None]}, "expected an image, got None"),
}


@pytest.mark.parametrize("what", COLUMNS)
def test_malformed_row_of_a_table_raises(what, folder):
    pytest.importorskip("datasets")
    changed, sentence = COLUMNS[what]
    columns = {"image": ["a.png", "a.png"], "question": ["q?", "q?"], "answer": ["x", "y"]} | changed
    files.write_parquet(folder / "rows.parquet", **columns)
    good, bad = outcomes(files.read_dataset(files.entry("datasets", "rows.parquet"), folder))

    assert isinstance(good, Record)
    assert bad.startswith("dataset pets: rows.parquet, row 2") and sentence in bad


FILES = {
    "no file": ("conversations", "rows.json", None, FileNotFoundError, "has no file at .*rows.json"),
    "an empty file": ("conversations", "rows.json", b"", ValueError, "rows.json is empty"),
    "a list of nothing": ("conversations", "rows.json", b"[]", ValueError, "the dataset pets is empty"),
    "an object": ("conversations", "rows.json", b'{\n"a": 1}', ValueError, "must hold a list of records"),
    "a list that is cut off": ("llava", "rows.json", b'[{"a": 1}, {', ValueError, "is not JSON"),
    "a list without commas": ("llava", "rows.json", b"[{} {}]", ValueError, "is not JSON .*line 1 column 5"),
    "a list with more after it": ("llava", "rows.json", b"[{}] {}", ValueError, "is not JSON .*Extra data"),
    "a table of nothing": ("llava", "rows.csv", b"a,b\n", ValueError, "the dataset pets is empty"),
    "a folder": ("llava", ".", None, FileNotFoundError, "the dataset pets has no file at"),
    "wildcards that match nothing": ("llava", "*.jsonl", None, FileNotFoundError, r"no file at .*\*.jsonl"),
    "a shard of braces that is missing": (
        "webdataset",
        "s-{0..1}.tar",
        None,
        FileNotFoundError,
        "no file at .*s-0.tar",
    ),
    "lines of blanks": ("evaluation", "rows.jsonl", b"\n \n", ValueError, "holds no records"),
    "a shard of nonsense": (
        "webdataset",
        "s.tar",
        b"nonsense",
        ValueError,
        "no whole, uncompressed tar file",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_malformed_file_raises_when_it_is_indexed(what, folder):
    format, name, content, error, sentence = FILES[what]
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(error, match=sentence):
        files.read_dataset(files.entry(format, name), folder)


def test_truncated_shard_keeps_what_is_whole_and_compressed_one_raises(folder):
    text = b'{"question": "q?", "answer": "x"}'
    members = [
        (f"{n}.{ending}", content)
        for n in range(3)
        for ending, content in (("png", files.png(50, 50)), ("json", text))
    ]
    files.write_tar(folder / "s.tar", members)
    files.write_tar(folder / "other.tar", [("9.png", files.png()), ("9.json", text)])
    content = (folder / "s.tar").read_bytes()

    # Within the last image, its padding, and the header of the text that follows it.
    for size in (4 * 1024 + 512 + 20, 4 * 1024 + 1000, 4 * 1024 + 1024 + 10):
        (folder / "s.tar").write_bytes(content[:size])
        *good, bad, other = outcomes(files.read(folder, "webdataset", ["s.tar", "other.tar"]))
        assert [record.id for record in (*good, other)] == ["0", "1", "9"]
        assert bad == (
            f"dataset pets: s.tar, key 2: the shard is cut off here, after {size} bytes: this record and all "
            "behind it are lost; fetch it anew"
        )

    files.write_tar(folder / "z.tar", members, "w:gz")
    with pytest.raises(ValueError, match="z.tar is no whole, uncompressed tar file"):
        files.read(folder, "webdataset", "z.tar")


def test_missing_column_raises_with_the_list(folder):
    pytest.importorskip("datasets")
    files.write_parquet(folder / "rows.parquet", image=["a.png"], text=["x"])

    with pytest.raises(FileNotFoundError, match="the dataset pets has no file at .*gone.parquet"):
        files.read_dataset(files.entry("datasets", "gone.parquet"), folder)
    with pytest.raises(ValueError, match="a.png is no CSV file that can be read"):
        files.read_dataset(files.entry("datasets", "a.png"), folder)
    with pytest.raises(ValueError, match="has no column question and no column answer: ") as error:
        files.read_dataset(files.entry("datasets", "rows.parquet"), folder)
    assert "expected the columns image, question, answer, got image, text; rename" in str(error.value)
    assert "columns: {question: NAME, answer: NAME}}]" in str(error.value)
