"""WebDataset shards are read into records."""

import json

from tests.support import record_files as files


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
    records = files.read(folder, "webdataset", ["s-0.tar", "s-1.tar"])

    assert [record.turns[0][1] for record in (records[2], records[1], records[0])] == ["three", "two", "one"]
    assert (records[1].id, records[1].location) == ("x/2", "dataset pets: s-0.tar, key x/2")
    assert records[1].open_images()[0].size == (2, 2)

    indices = sorted((folder / "out" / "data" / "cache" / "shards").iterdir())
    assert len(indices) == 2

    # A shard whose cached index is empty has no records: shards are not scanned again.
    indices[0].write_text("[]")
    assert len(files.read(folder, "webdataset", ["s-0.tar", "s-1.tar"])) < 3


def test_captions_of_shards_are_text_members(folder):
    files.write_tar(folder / "s.tar", [("1.png", files.png()), ("1.txt", "a café".encode())])
    record = files.read(folder, "webdataset", "s.tar", prompt="caption")[0]
    assert record.turns == ((" Generate the caption in English:", "a café"),)
