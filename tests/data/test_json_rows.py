"""JSON lists and JSON lines are told by their content, and read row by row from an index."""

import json
import os

import pytest

from monkeylib import resources
from monkeylib.data import json_rows
from monkeylib.data.json_rows import JsonRows, read_json_or_jsonl

ROWS = [{"n": 0, "text": "é 日本 🐈"}, {"n": 1, "text": 'a\nb [ ] { } \\ " ,'}, {"n": 2, "text": ""}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"

CONTENTS = {
    "a list": json.dumps(ROWS).encode(),
    "an indented list": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "a list behind a byte order mark and blanks": b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode(),
    "lines": LINES.encode(),
    "lines of Windows with a byte order mark": b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode(),
    "lines with blank ones between": LINES.replace("\n", "\n \n\n").encode(),
    "lines without an end": LINES.strip().encode(),
    "lines in UTF-16": LINES.encode("utf-16"),
    "a list in UTF-16 without its mark": json.dumps(ROWS).encode("utf-16-le"),
    "a list in UTF-32": json.dumps(ROWS).encode("utf-32"),
}


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """Caches lie in the folder of the test."""
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.JSON", "rows"])
@pytest.mark.parametrize("what", CONTENTS)
def test_rows_are_the_same_whatever_the_form_and_the_ending(what, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(CONTENTS[what])
    assert [value for _, value in read_json_or_jsonl(path)] == ROWS

    rows = JsonRows(path)
    assert [rows[number] for number in (2, 0, 1)] == [ROWS[2], ROWS[0], ROWS[1]]


def test_place_of_a_row_is_its_line_or_its_number(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'{"a": 1}\n\n{"a": 2}\n')
    assert [place for place, _ in read_json_or_jsonl(path)] == [f"line {n} of {path}" for n in (1, 3)]

    path.write_bytes(b'[{"a": 1},\n{"a": 2}]\n')
    assert [place for place, _ in read_json_or_jsonl(path)] == [f"record {n} of {path}" for n in (1, 2)]
    assert [JsonRows(path).span(number).line for number in (0, 1)] == [1, 2]


ERRORS = {
    "nothing": (b"", "is empty: expected records in JSON"),
    "a cut-off list": (b'[{"a": 1}, {', r"is not JSON \(Expecting property name .*: line 1 column 13\)"),
    "a list without commas": (b'[1,\n{"a": 1}\n{}]', r"Expecting ',' delimiter: line 3 column 1\)"),
    "more behind the list": (b"[{}] {}", r"Extra data: line 1 column 6\)"),
    "deep nesting": (b"[" * 100_000, "nested too deeply"),
    "an object of several lines": (b'{\n "a": 1\n}', "one record a line; it holds an object over several"),
    "a broken line": (b'{"a": 1}\n{"a"\n', "line 2 of .* is not JSON: expected an object of JSON, got b'{"),
    "a line that is not UTF-8": (
        b'{"a": "\xff"}',
        "line 1 of .* is not JSON: expected UTF-8, got the byte 0xff",
    ),
    "half of UTF-16": (LINES.encode("utf-16")[:-1], "is not JSON .*: write it in UTF-8"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_what_is_no_json_is_named(what, tmp_path):
    content, sentence = ERRORS[what]
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        list(read_json_or_jsonl(path))


@pytest.mark.parametrize("chunk", [7, 50, 1000])
@pytest.mark.parametrize("indent", [None, 3])
def test_list_is_scanned_in_chunks_of_any_size(chunk, indent, tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "_CHUNK", chunk)
    rows = [*ROWS, 12345678901234, "a text", [1, [2]], None, {"long": "x" * 500}, *ROWS]
    path = tmp_path / "rows.json"
    path.write_text("\ufeff" + json.dumps(rows, ensure_ascii=False, indent=indent), encoding="utf-8")

    assert [value for _, value in read_json_or_jsonl(path)] == rows
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    first = JsonRows(path).span(len(ROWS))
    assert "12345678901234" in lines[first.line - 1]

    path.write_text(path.read_text(encoding="utf-8")[:-1] + "}", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"is not JSON .*: line {len(lines)} column"):
        JsonRows(path)


def test_number_of_many_digits_spoils_its_own_row_only(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"a": 1}, {"a": ' + b"9" * 5000 + b"}]")
    rows = JsonRows(path)
    assert rows[0] == {"a": 1}
    with pytest.raises(json_rows.RowError, match="Exceeds the limit"):
        rows[1]


@pytest.fixture()
def large(tmp_path, monkeypatch):
    """Return a file that is large enough for an index on the disk."""
    monkeypatch.setattr(json_rows, "_IN_MEMORY", 0)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(50_000)))
    return path


def test_index_is_written_once_and_mapped(large):
    first, second = JsonRows(large), JsonRows(large)
    (index,) = (resources.cache() / "rows").glob("*.index")
    assert index.stat().st_size == 50_000 * 24
    assert first[49_999] == {"n": 49_999} and second[0] == {"n": 0}

    # Both processes of a machine see the same memory: the index is not read again.
    assert first._spans.base is not None and type(first._spans).__name__ == "memmap"

    # An index that another process wrote is used as it is.
    os.truncate(index, 24 * 7)
    assert len(JsonRows(large)) == 7

    # Another state of the file is another index.
    large.write_text('{"n": 1}\n' * 3)
    assert len(JsonRows(large)) == 3


def test_read_only_cache_costs_memory_and_no_error(large, tmp_path):
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "cache").write_text("a file where the folder should be")
    assert len(JsonRows(large)) == 50_000
