import hashlib
import os
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from monkeylib import digests

VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_digests_are_equal_exactly_for_equal_values(first, second):
    equal = ordered(first) == ordered(second)
    assert (digests.data_digest(first) == digests.data_digest(second)) == equal


def ordered(value) -> str:
    """The value in writing, keys in order."""
    if isinstance(value, dict):
        return f"{{{[(key, ordered(value[key])) for key in sorted(value)]}}}"
    return str([ordered(item) for item in value]) if isinstance(value, list) else repr(value)


def test_last_bits_of_a_float_do_not_count_and_the_others_do():
    array = np.array([0.1, -0.0, 3.0])
    assert digests.data_digest(array) == digests.data_digest(array + 1e-12)
    assert digests.data_digest(array) != digests.data_digest(array + 1e-3)
    assert digests.data_digest(0.3) == digests.data_digest(0.1 + 0.2)
    assert digests.data_digest(array) == digests.data_digest(torch.tensor(array))
    assert digests.data_digest(array) != digests.data_digest(array.reshape(3, 1))


def test_images_tables_and_files_count_with_their_content(tmp_path):
    white, black = Image.new("RGB", (4, 4), "white"), Image.new("RGB", (4, 4))
    assert digests.data_digest(white) != digests.data_digest(black)

    first, second = pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})
    assert digests.data_digest(first) != digests.data_digest(second)

    file = tmp_path / "a.csv"
    file.write_bytes(b"a\n1\n")

    assert digests.file_digest(file) == hashlib.sha256(b"a\n1\n").hexdigest()

    digest = digests.data_digest([file])
    file.write_bytes(b"a\n2\n")

    assert digests.data_digest([file]) != digest


def test_what_has_no_digest_is_refused():
    with pytest.raises(ValueError, match="got object"):
        digests.data_digest(object())


def test_bytes_text_and_json_have_the_usual_sha256():
    sha256 = hashlib.sha256(b"caf\xc3\xa9").hexdigest()

    assert digests.bytes_digest(b"caf\xc3\xa9") == sha256
    assert digests.text_digest("café") == sha256
    assert digests.json_digest({"b": 1, "a": [2]}) == digests.text_digest('{"a": [2], "b": 1}')


def test_numbers_of_texts_are_stable_and_spread():
    assert digests.text_number("monkey", 4) == int(hashlib.sha256(b"monkey").hexdigest()[:8], 16)

    shares = [digests.text_number(str(i), 4) / 2**32 for i in range(1000)]
    assert abs(sum(shares) / 1000 - 0.5) < 0.05


def test_image_digest_depends_on_size_and_pixels():
    wide, tall = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    assert digests.image_digest(wide) != digests.image_digest(tall)
    assert digests.image_digest(wide) == digests.image_digest(wide.copy())


def test_quick_digest_reads_both_ends_of_a_large_file(tmp_path):
    content = bytearray(random.Random(0).randbytes(3 << 20))
    path = tmp_path / "weights.bin"

    def digest_with_change_at(position):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        return digests.quick_file_digest(path)

    path.write_bytes(content)
    original = digests.quick_file_digest(path)

    assert digest_with_change_at(0) != original
    assert digest_with_change_at(-1) != original
    assert digest_with_change_at(3 << 19) == original  # the middle isn't read


def test_folder_digest_reads_large_files_whole(tmp_path):
    """Training that leaves the weights at both ends frozen changes the middle alone."""
    content = bytearray(random.Random(0).randbytes(3 << 20))
    (tmp_path / "model.safetensors").write_bytes(content)
    original = digests.folder_digest(tmp_path)
    content[3 << 19] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    assert digests.folder_digest(tmp_path) != original


def test_folder_digest_depends_on_names_and_content(tmp_path):
    file = tmp_path / "a"
    file.write_text("1")
    original = digests.folder_digest(tmp_path)

    file.write_text("2")

    assert digests.folder_digest(tmp_path) != original

    file.write_text("1")
    file.rename(tmp_path / "b")

    assert digests.folder_digest(tmp_path) != original


def test_weights_digest_depends_on_names_values_and_settings():
    weight = torch.arange(10.0)
    original = digests.weights_digest({"a": weight}, [1])

    assert digests.weights_digest({"a": weight.clone()}, [1]) == original
    assert digests.weights_digest({"b": weight}, [1]) != original
    assert digests.weights_digest({"a": weight + 1}, [1]) != original
    assert digests.weights_digest({"a": weight}, [2]) != original


# Remembered digests


@pytest.fixture()
def write(tmp_path, monkeypatch):
    """Return a function that writes a file, which is remembered at once."""
    monkeypatch.setattr(digests, "_SETTLED_NS", -1_000_000_000)

    def write_file(name, content, seconds=1_000_000):
        path = tmp_path / name
        path.write_text(content)
        os.utime(path, (seconds, seconds))
        return path

    return write_file


def test_files_are_read_once(write, tmp_path, monkeypatch):
    remembered = digests.FileDigests(tmp_path / "cache" / "digests.sqlite")
    paths = [write(f"{number}", f"content {number}") for number in range(1200)]
    progress = []
    expected = {path: digests.file_digest(path) for path in paths}
    assert remembered.digests([*paths, paths[0]], lambda *counts: progress.append(counts)) == expected
    assert progress == [(1, True)] + 1200 * [(1, False)], "the repeated one is known by then"

    monkeypatch.setattr(digests, "file_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert remembered.digests(paths) == expected
    another_process = digests.FileDigests(remembered.database)
    assert another_process.digests(paths[5:7]) == {path: expected[path] for path in paths[5:7]}


def test_changed_files_are_read_again(write, tmp_path):
    remembered = digests.FileDigests(tmp_path / "digests.sqlite")
    path = write("a", "old")
    before = remembered.digests([path])

    assert remembered.digests([write("a", "new", 1_000_001)]) == {path: digests.text_digest("new")}
    assert remembered.digests([write("a", "longer", 1_000_001)]) == {path: digests.text_digest("longer")}
    assert remembered.digests([write("a", "old")]) == before

    # The same size, and the time set back, as programs that copy files do.
    assert remembered.digests([write("a", "new")]) == {path: digests.text_digest("new")}


def test_file_that_has_just_been_written_is_not_remembered(tmp_path):
    remembered = digests.FileDigests(tmp_path / "digests.sqlite")
    path = tmp_path / "a"
    path.write_text("old")
    state = path.stat()
    remembered.digests([path])

    # Clocks of file systems are coarse: it may change again within one tick.
    path.write_text("new")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert remembered.digests([path]) == {path: digests.text_digest("new")}


def test_missing_files_and_a_broken_database(write, tmp_path):
    path, missing = write("a", "old"), tmp_path / "none"
    expected = {path: digests.text_digest("old"), missing: digests.MISSING}

    (tmp_path / "broken.sqlite").write_text("not a database " * 100)
    (tmp_path / "file").write_text("")
    for database in ("digests.sqlite", "broken.sqlite", "file/digests.sqlite"):
        for _ in range(2):
            assert digests.FileDigests(tmp_path / database).digests([path, missing]) == expected


def test_pages_of_a_document_have_digests_of_their_own(tmp_path):
    document = tmp_path / "a.pdf"
    document.write_bytes(b"%PDF")
    pages = [tmp_path / "a.pdf#1", tmp_path / "a.pdf#2"]
    file_digests = digests.FileDigests()

    each = list(file_digests.image_digests([document, *pages]).values())
    assert len(set(each)) == 3
    assert each == [digests.image_file_digest(path) for path in (document, *pages)]
    assert each[0] == digests.file_digest(document)

    document.write_bytes(b"%PDF-1.7")
    assert file_digests.image_digests(pages[:1])[pages[0]] != each[1]
    gone = tmp_path / "gone.pdf#1"
    assert file_digests.image_digests([gone]) == {gone: digests.MISSING}


def test_interrupted_reading_stores_what_it_has_read(write, tmp_path, monkeypatch):
    paths = [write(f"{number}", f"content {number}") for number in range(20)]
    expected = digests.file_digest(paths[0])

    def interrupt(files, are_known):
        if not are_known:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digests.FileDigests(tmp_path / "digests.sqlite").digests(paths, interrupt)

    monkeypatch.setattr(digests, "file_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert digests.FileDigests(tmp_path / "digests.sqlite").digests(paths[:1]) == {paths[0]: expected}


def test_file_whose_name_is_not_utf8_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_SETTLED_NS", -(10**12))
    file = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")))
    file.write_bytes(b"first")
    database = tmp_path / "digests.sqlite"
    expected = digests.bytes_digest(b"first")

    known = []
    for _ in range(2):
        calls = []
        found = digests.FileDigests(database).digests([file], lambda *call, calls=calls: calls.append(call))
        assert found == {file: expected}
        known.append((1, True) in calls)
    assert known == [False, True]


def test_set_of_digests_holds_its_texts():
    numbers = map(digests.DigestSet.number, ["a", "b", "caf\udce9"])
    texts = digests.DigestSet(list(numbers))
    assert [text in texts for text in ("a", "b", "caf\udce9", "c", "")] == [True, True, True, False, False]
    assert "a" not in digests.DigestSet()


def test_running_digest_tells_values_and_their_order_apart():
    def digest(*values):
        running = digests.RunningDigest()
        for value in values:
            running.add(value)
        return running.digest()

    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len({digest("ab", "c"), digest("a", "bc"), digest("c", "ab"), digest()}) == 4
