"""Results of models: what is stored is found again, whatever happens to the files in between."""

import errno
import hashlib
import multiprocessing
import os
import pickle

import numpy as np
import pytest

from monkeylib.captions import result_store
from monkeylib.captions.result_store import ResultStore

RESULTS = {hashlib.sha256(f"{number}".encode()).hexdigest(): [number, "é"] * number for number in range(30)}
KEYS = list(RESULTS)


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path, list)


def fill(folder, keys=KEYS):
    store = ResultStore(folder, list)
    store.put({key: RESULTS[key] for key in keys})
    store.close()


def files(folder):
    return sorted(path.name.rpartition(".")[2] for path in folder.iterdir())


def test_results_are_found_by_this_and_by_the_next_process(store, tmp_path):
    assert store.get(KEYS) == {}
    store.put(RESULTS)
    assert store.get([*KEYS, "f" * 64]) == RESULTS
    assert pickle.loads(pickle.dumps(store)).get(KEYS) == RESULTS

    store.close()
    assert ResultStore(tmp_path, list).get(KEYS) == RESULTS
    assert files(tmp_path) == ["index", "results"]


def test_processes_after_each_other_write_into_one_file(tmp_path):
    for key in KEYS[:5]:
        fill(tmp_path, [key])
    assert files(tmp_path) == ["index", "results"]
    assert set(ResultStore(tmp_path, list).get(KEYS)) == set(KEYS[:5])


def test_full_file_is_followed_by_another(tmp_path):
    store = ResultStore(tmp_path, list, largest_file=1000)
    for key in KEYS:
        store.put({key: RESULTS[key]})
    store.close()

    assert files(tmp_path).count("results") > 3
    assert ResultStore(tmp_path, list, largest_file=1000).get(KEYS) == RESULTS


def test_two_at_a_time_write_into_two_files(tmp_path):
    first, second = ResultStore(tmp_path, list), ResultStore(tmp_path, list)
    first.put({KEYS[0]: RESULTS[KEYS[0]]})
    second.put({KEYS[1]: RESULTS[KEYS[1]]})
    first.put({KEYS[2]: RESULTS[KEYS[2]]})
    assert files(tmp_path) == ["results", "results"]

    # What the first has stored since is found when it has ended.
    assert set(second.get(KEYS)) == set(KEYS[:2])
    first.close()
    assert set(second.get(KEYS)) == set(KEYS[:3])


def test_file_that_is_cut_at_any_byte_loses_only_what_was_cut(tmp_path):
    fill(tmp_path / "whole", KEYS[:6])
    (whole,) = (tmp_path / "whole").glob("*.results")
    content = whole.read_bytes()
    ends = np.cumsum([len(line) for line in content.splitlines(keepends=True)])

    cut = tmp_path / "cut"
    cut.mkdir()
    file = cut / whole.name
    for size in (0, 1, 40, 64, 73, ends[0] - 1, ends[0], ends[2] + 70, ends[3] - 1, ends[4], ends[5] - 1):
        for left in cut.iterdir():
            left.unlink()
        file.write_bytes(content[:size])
        # The index of a longer file is no index of this one.
        (cut / whole.name).with_suffix(".index").write_bytes(whole.with_suffix(".index").read_bytes())

        stored = KEYS[: int((ends <= size).sum())]
        store = ResultStore(cut, list)
        assert set(store.get(KEYS)) == set(stored)

        store.put({KEYS[9]: RESULTS[KEYS[9]]})
        store.close()
        assert set(ResultStore(cut, list).get(KEYS)) == {*stored, KEYS[9]}
        assert all(line.endswith(b"]\n") for line in file.read_bytes().splitlines(keepends=True))


def test_damaged_result_is_none_and_is_stored_again(tmp_path):
    fill(tmp_path)
    (file,) = tmp_path.glob("*.results")
    lines = file.read_bytes().splitlines(keepends=True)
    lines[7] = lines[7].replace(b"7", b"8", 1) if lines[7][:1] == b"7" else lines[7][:-3] + b"1]\n"
    file.write_bytes(b"".join(lines))

    assert set(ResultStore(tmp_path, list).get(KEYS)) == set(KEYS) - {KEYS[7]}
    fill(tmp_path, [KEYS[7]])
    assert ResultStore(tmp_path, list).get(KEYS) == RESULTS
    # A result of an earlier type is none either.
    assert ResultStore(tmp_path, dict).get(KEYS) == {}


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"nonsense"])
def test_damaged_index_is_made_anew(tmp_path, content):
    fill(tmp_path, KEYS[:20])
    (index,) = tmp_path.glob("*.index")
    index.write_bytes(content)

    assert set(ResultStore(tmp_path, list).get(KEYS)) == set(KEYS[:20])
    fill(tmp_path, KEYS[20:])
    assert ResultStore(tmp_path, list).get(KEYS) == RESULTS


def test_index_is_merged_while_results_come(tmp_path, monkeypatch):
    monkeypatch.setattr(result_store, "_UNINDEXED", 4)
    store = ResultStore(tmp_path, list)
    for key in KEYS:
        store.put({key: ["an earlier one"]})
        store.put({key: RESULTS[key]})
    assert store.get(KEYS) == RESULTS

    store.close()
    (index,) = tmp_path.glob("*.index")
    assert index.stat().st_size == (2 + 3 * len(KEYS)) * 8, "each result once"


def _write_and_die(folder):
    store = ResultStore(folder, list)
    store.put(RESULTS)
    os.kill(os.getpid(), 9)


def test_results_of_a_killed_process_are_found_and_its_file_goes_on(tmp_path):
    child = multiprocessing.get_context("fork").Process(target=_write_and_die, args=(tmp_path,))
    child.start()
    child.join()

    fill(tmp_path, KEYS[:1])
    assert files(tmp_path) == ["index", "results"]
    assert ResultStore(tmp_path, list).get(KEYS) == RESULTS


def test_full_disk_tears_no_line(store, tmp_path, monkeypatch):
    store.put({KEYS[0]: RESULTS[KEYS[0]]})
    write = os.write

    def write_half(descriptor, content):
        if len(content) < 40:
            raise OSError(28, "No space left on device")
        return write(descriptor, content[: len(content) // 2])

    monkeypatch.setattr(result_store.os, "write", write_half)
    with pytest.raises(OSError, match="No space left"):
        store.put({KEYS[5]: RESULTS[KEYS[5]]})
    monkeypatch.undo()

    store.put({KEYS[6]: RESULTS[KEYS[6]]})
    store.close()
    assert set(ResultStore(tmp_path, list).get(KEYS)) == {KEYS[0], KEYS[6]}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_files_that_may_only_be_read_are_read(store, tmp_path, monkeypatch, code):
    fill(tmp_path, KEYS[:3])
    (file,) = tmp_path.glob("*.results")
    before = file.read_bytes()
    open_file = os.open

    def refuse(path, flags, *mode):
        if path == file and flags & os.O_RDWR:
            raise OSError(code, "not to be written")
        return open_file(path, flags, *mode)

    monkeypatch.setattr(result_store.os, "open", refuse)
    store.put({KEYS[5]: RESULTS[KEYS[5]]})
    assert set(store.get(KEYS)) == {*KEYS[:3], KEYS[5]}
    assert file.read_bytes() == before
