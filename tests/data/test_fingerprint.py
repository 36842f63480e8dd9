"""Data are known by the content of their files, wherever they lie and whenever they were written."""

import json
import os
import shutil

import pytest
import yaml

from monkeylib.data import fingerprint as data_fingerprint
from monkeylib.data.mixture import load_mixture
from monkeylib.fields import differences
from tests.support import record_files as files


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    """Return a folder with a mixture of two datasets, of six images."""
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "outputs"))
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for number in range(6):
        (folder / "images" / f"{number}.png").write_bytes(files.png(40 + number, 30))

    for name, numbers in (("a", range(3)), ("b", range(3, 6))):
        rows = [files.example(answer=f"steel {number}", image=f"{number}.png") for number in numbers]
        files.write_lines(folder / f"{name}.jsonl", rows)
    write_mixture(folder)
    return folder


def write_mixture(folder, first=None, **fields):
    entries = [
        {"name": name, "format": "evaluation", "path": f"{name}.jsonl", "images": "images"}
        for name in ("a", "b")
    ]
    (folder / "mix.yaml").write_text(
        yaml.safe_dump({"sets": [entries[0] | (first or {}), entries[1]]} | fields)
    )


def fingerprint(folder):
    return load_mixture(folder / "mix.yaml").fingerprint()


def changed_fields(before, after):
    return list(differences(before, after))


def replace_without_a_trace(file, old, new):
    """Replace bytes by as many others; only the time of change tells."""
    content = file.read_bytes()
    assert len(old) == len(new) and old in content
    file.write_bytes(content.replace(old, new))


def test_labels_of_the_same_size_make_other_data(folder):
    before = fingerprint(folder)
    replace_without_a_trace(folder / "b.jsonl", b"steel", b"zzzzz")
    assert changed_fields(before, fingerprint(folder)) == ["datasets.b.files"]


def test_image_of_the_same_size_makes_other_data(folder):
    before = fingerprint(folder)
    image = folder / "images" / "1.png"
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    assert changed_fields(before, fingerprint(folder)) == ["datasets.a.images"]

    # A missing one, too.
    image.unlink()
    assert changed_fields(before, fingerprint(folder)) == ["datasets.a.images"]


def test_settings_of_a_dataset_count_and_are_named(folder):
    before = fingerprint(folder)
    write_mixture(folder, {"turns": "first", "count": 2, "prompt": "vqa_no_blank"}, seed=3)
    assert set(changed_fields(before, fingerprint(folder))) == {
        "seed",
        "datasets.a.turns",
        "datasets.a.count",
        "datasets.a.prompt",
        "datasets.a.prompt_text",
        "datasets.a.takes_separator",
    }

    # The default in words is the default.
    write_mixture(folder, {"turns": "all", "weight": 1.0, "count": None}, description="for readers", seed=0)
    assert fingerprint(folder) == before


def test_validation_counts(folder):
    before = fingerprint(folder)
    write_mixture(folder, validation={"share": 0.4})
    assert {"validation.share", "validation.records"} <= set(changed_fields(before, fingerprint(folder)))

    entry = {"name": "v", "format": "evaluation", "path": "v.jsonl", "images": "images"}
    files.write_lines(folder / "v.jsonl", [files.example(answer="steel", image="0.png")])
    write_mixture(folder, validation={"sets": [entry]})
    before = fingerprint(folder)
    replace_without_a_trace(folder / "v.jsonl", b"steel", b"zzzzz")
    assert changed_fields(before, fingerprint(folder)) == ["validation.v.files"]


def test_place_and_time_of_files_do_not_count(folder, tmp_path):
    before = fingerprint(folder)
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    (moved / "a.jsonl").rename(moved / "renamed.jsonl")
    write_mixture(moved, {"path": "renamed.jsonl"})
    assert fingerprint(moved) == before

    for file in folder.rglob("*.*"):
        os.utime(file, (1, 1))
    assert fingerprint(folder) == before


def test_bad_records_count_with_their_file(folder):
    lines = (folder / "a.jsonl").read_text().splitlines()
    (folder / "a.jsonl").write_text("\n".join([lines[0], "{", *lines[1:]]) + "\n")
    before = fingerprint(folder)
    assert before["datasets"]["a"]["records"] == 4
    replace_without_a_trace(folder / "a.jsonl", b"{\n", b"[\n")
    assert changed_fields(before, fingerprint(folder)) == ["datasets.a.files"]


def test_fingerprint_is_plain_json(folder):
    fields = fingerprint(folder)
    assert json.loads(json.dumps(fields)) == fields


def test_of_many_records_the_images_of_some_are_read(folder, monkeypatch):
    before = fingerprint(folder)
    monkeypatch.setattr(data_fingerprint, "MOST_RECORDS", 2)
    sampled = fingerprint(folder)
    assert sampled["datasets"]["a"]["images_of_every"] == 2
    assert "images_of_every" not in before["datasets"]["a"]

    # Images 0 and 2 are read, 1 is not; the records themselves always count.
    (folder / "images" / "1.png").unlink()
    assert fingerprint(folder) == sampled
    (folder / "images" / "2.png").unlink()
    assert changed_fields(sampled, fingerprint(folder)) == ["datasets.a.images"]
