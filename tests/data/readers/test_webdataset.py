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

    indices = sorted((folder / "out" / "data" / "cache" / "shards").glob("*.jsonl"))
    assert len(indices) == 2

    # A shard whose cached index is empty has no records: shards are not scanned again.
    indices[0].write_text("[]")
    assert len(files.read(folder, "webdataset", ["s-0.tar", "s-1.tar"])) < 3


def test_captions_of_shards_are_text_members(folder):
    files.write_tar(folder / "s.tar", [("1.png", files.png()), ("1.txt", "a café".encode())])
    record = files.read(folder, "webdataset", "s.tar", prompt="caption")[0]
    assert record.turns == ((" Generate the caption in English:", "a café"),)


def test_conversations_in_json_members_have_the_images_of_their_key(folder):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "please"}]
    two = [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "the first"}]
    rows = {
        "0": {"conversations": turns},
        "1": {"image": "1.a.png", "conversations": turns},
        "2": {"conversations": two},
    }
    members = [(f"{key}.json", json.dumps(row).encode()) for key, row in rows.items()]
    members += [("0.jpg", files.png(3, 3))]
    members.insert(2, ("1.a.png", files.png(4, 4)))
    members = sorted(members) + [("2.1.png", files.png(6, 6)), ("2.0.png", files.png(5, 5))]
    files.write_tar(folder / "s.tar", members)

    for format in ("webdataset", None):
        first, second, third = files.read(folder, format, "s.tar", max_images=2)
        assert first.turns == second.turns == ((" What? Answer: ", "please"),)
        assert [record.open_images()[0].size for record in (first, second)] == [(3, 3), (4, 4)]
        assert [image.size for image in third.open_images()] == [(5, 5), (6, 6)]
        assert third.turns[0][0] == "  or <image> ? Answer: "


def test_braces_and_wildcards_name_shards(folder):
    text = b'{"question": "q?", "answer": "x"}'
    for number in range(3):
        files.write_tar(
            folder / f"w-{number:04d}.tar", [(f"{number}.png", files.png()), (f"{number}.json", text)]
        )

    for path in ("w-{0000..0002}.tar", "w-*.tar", "w-000[0-2].tar", "w-{0000,0001,0002}.tar"):
        assert [record.id for record in files.read(folder, "webdataset", path)] == ["0", "1", "2"]
    assert [record.id for record in files.read(folder, None, "w-{0001..0002}.tar")] == ["1", "2"]


def test_captions_of_a_downloader_need_neither_format_nor_prompt(folder):
    facts = json.dumps(
        {"caption": "a café", "url": "https://example.org/1.jpg", "key": "1", "status": "success"}
    )
    members = [("1.jpg", files.png()), ("1.json", facts.encode()), ("1.txt", "a café".encode())]
    files.write_tar(folder / "s.tar", members)
    (record,) = files.read(folder, None, "s.tar")
    assert record.turns == ((" Generate the caption in English:", "a café"),)
    assert record.id == "1" and record.open_images()


def test_records_of_one_key_that_follow_each_other_are_all_read(folder):
    members = []
    for answer in ("one", "two"):
        members += [
            ("1.png", files.png()),
            ("1.json", json.dumps({"question": "q?", "answer": answer}).encode()),
        ]
    files.write_tar(folder / "s.tar", members)
    assert [record.turns[0][1] for record in files.read(folder, "webdataset", "s.tar")] == ["one", "two"]
