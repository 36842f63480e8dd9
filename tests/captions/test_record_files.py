"""Files of records, JSONL and parquet."""

import hashlib

import numpy as np
import pytest

from monkeylib.captions.annotations import Caption, Failure, Mask, Record, Region
from monkeylib.captions.record_files import read_records, write_records
from tests.support.caption_records import line, record, region


@pytest.mark.parametrize("file", ["records.jsonl", "records.parquet"])
def test_records_survive_writing_and_reading(tmp_path, file):
    records = [
        record(
            name="é\u2028.png",
            captions=(Caption(text='a "cat"\n', expert="c"),),
            regions=(region(match=0.3, mask=Mask(size=(2, 3), counts=(1, 4, 1))),),
            lines=(line(),),
            original_caption="漢",
        ),
        Record(name="b.png", failures=(Failure(stage="read", error="OSError: no", kind="empty"),)),
    ]
    path = write_records(records, tmp_path / "new" / file)

    assert list(read_records(path)) == records
    assert list(tmp_path.glob("new/*")) == [path]

    # The line separator U+2028 in a name does not break a line of JSONL.
    if path.suffix == ".jsonl":
        assert len(path.read_text(encoding="utf-8").split("\n")) == 3


def test_failed_write_leaves_the_old_file(tmp_path):
    path = write_records([record()], tmp_path / "records.jsonl")
    before = path.read_bytes()

    with pytest.raises(RuntimeError, match="on the way"):
        write_records((item if item else _raise() for item in (record(), None)), path)
    # The file is unchanged, and no temporary file remains.
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["records.jsonl"]


def _raise():
    raise RuntimeError("on the way")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"schema_version": 1, "name": "a"}', "Line 1 .* has schema version 1, this code reads 2"),
        ('{"name": "a", "sha256": "xyz"}', "Line 1 .*: sha256"),
        ('{"name": "a", "colour": "red"}', "Line 1 .*: colour"),
        ('{"name": "a"', "Line 1 .* is no record"),
        ("[]", "Line 1 .*: the record"),
        ('{"name": "\udcff"}', "Line 1 .* is no record"),
    ],
)
def test_invalid_lines_are_refused_with_their_number(tmp_path, text, complaint):
    (tmp_path / "r.jsonl").write_bytes(f"{text}\n".encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=complaint):
        list(read_records(tmp_path / "r.jsonl"))


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no records at"):
        list(read_records(tmp_path / "r.jsonl"))


def masked_records() -> list[Record]:
    box = (0.125, 1 / 3, 7, 9.5)
    region = Region(box=box, text="漢", score=0.1, expert="e", mask=Mask.from_array(np.eye(12, dtype=bool)))
    return [Record(name=f"{n}", sha256="0" * 64, width=12, height=12, regions=[region]) for n in range(3)]


def test_same_records_give_the_same_bytes(tmp_path):
    for kind in ("jsonl", "parquet"):
        files = [write_records(masked_records(), tmp_path / f"{n}.{kind}") for n in range(2)]
        assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files}) == 1


def test_parquet_has_plain_columns(tmp_path):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.read_table(write_records(masked_records(), tmp_path / "r.parquet"))
    row = table.to_pylist()[0]

    assert row["status"] == "ok" and row["regions"][0]["box"] == list(masked_records()[0].regions[0].box)
    assert row["regions"][0]["mask"]["size"] == [12, 12] and table.num_rows == 3


def test_damaged_parquet_raises(tmp_path):
    file = write_records(masked_records(), tmp_path / "r.parquet")
    # Parquet has its schema at the end.
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        list(read_records(file))
