"""Records, tables and tar archives that are broken or hostile, read by `train` and by `data inspect`."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.support import record_files as files
from tests.torture import sandbox
from tests.torture.cases import Case, require_one_sentence, require_success

GOOD = files.talk("<image>\nWhat does it say?", "steel")


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name, write in FILES.items():
        yield Case("records", f"{name}, by `train`", partial(_train, write))
        yield Case("records", f"{name}, by `data inspect`", partial(_inspect, write))
    for name, members in ARCHIVES.items():
        yield Case("archives", f"{name}, by `train`", partial(_train, partial(_write_archive, members)))
    yield Case("records", "one bad record of twenty, with --skip-bad", _skip_one)
    yield Case("records", "nothing but bad records, with --skip-bad", _skip_all)


def _write_mixture(write: Callable[[Path], None], folder: Path) -> None:
    (folder / "a.png").write_bytes(files.png(40, 30))
    write(folder / "a.json")
    is_archive = (folder / "a.tar").exists()
    format, path = ("webdataset", "a.tar") if is_archive else ("llava", "a.json")
    entry = f"sets:\n  - {{name: a, format: {format}, path: {path}}}\n"
    (folder / "mixture.yaml").write_text(entry, encoding="utf-8")


def _train(write: Callable[[Path], None], folder: Path) -> str:
    _write_mixture(write, folder)
    options = ["--profile", "smoke", "--data", "mixture.yaml", "--out", "run", "--steps", "1"]
    outcome = sandbox.run(["train", *options], folder)

    sentence = require_one_sentence(outcome)
    assert not (folder / "run" / "model").exists(), "it left a model"
    return sentence


def _inspect(write: Callable[[Path], None], folder: Path) -> str:
    _write_mixture(write, folder)
    outcome = sandbox.run(["data", "inspect", "mixture.yaml", "--profile", "smoke"], folder)

    # A report that names what is bad, or one sentence if there is nothing to report on.
    assert outcome.code in (0, 2) and not outcome.has_traceback, outcome.output[-400:]
    if outcome.code == 2:
        return require_one_sentence(outcome)
    assert "dataset a" in outcome.output, f"the report names no problem: {outcome.output[-400:]}"
    return "reported"


# --- files of records


def _bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def _rows(*rows: object) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(list(rows)), encoding="utf-8") and None


def _nothing(path: Path) -> None:
    pass


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _image_is_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe.png"))
    _rows(files.talk("<image>\nWhat?", "x", image="pipe.png"))(path)


def _deep(path: Path) -> None:
    path.write_text("[" * 100_000 + "]" * 100_000, encoding="utf-8")


FILES = {
    "no file": _nothing,
    "an empty file": lambda path: path.touch(),
    "a folder": Path.mkdir,
    "a pipe": _pipe,
    "a list that is cut off": _bytes(json.dumps([GOOD] * 3).encode()[:-30]),
    "nesting of 100,000 brackets": _deep,
    "random bytes": _bytes(bytes(range(256)) * 40),
    "HTML": _bytes(b"<!doctype html><title>404</title>"),
    "UTF-16 that is cut off": _bytes(json.dumps([GOOD]).encode("utf-16")[:-1]),
    "an empty list": _rows(),
    "a number": _bytes(b"5"),
    "numbers": _rows(1, 2, 3),
    "a number of 5,000 digits": _bytes(b'[{"id": ' + b"9" * 5000 + b"}]"),
    "half a surrogate pair": _rows(files.talk("<image>\nWhat?", "\ud83d")),
    "an empty answer": _rows(files.talk("<image>\nWhat?", "")),
    "null for an answer": _rows(files.talk("<image>\nWhat?", None)),
    "an image that is not there": _rows(files.talk("<image>\nWhat?", "x", image="gone.png")),
    "an image that is a folder": _rows(files.talk("<image>\nWhat?", "x", image=".")),
    "an image that is a pipe": _image_is_a_pipe,
    "an image that is an address": _rows(
        files.talk("<image>\nWhat?", "x", image="https://example.org/a.png")
    ),
    "an image that is a text file": _rows(files.talk("<image>\nWhat?", "x", image="a.json")),
    "an image of a zero byte": _rows(files.talk("<image>\nWhat?", "x", image="a\0b.png")),
    "an answer of 100,000 words": _rows(files.talk("<image>\nWhat?", "word " * 100_000)),
}


# --- archives


def _tar(*members: tuple[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def _links() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../etc/passwd")):
            member = tarfile.TarInfo(f"{kind.decode()}.jpg")
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return data.getvalue()


def _claiming(size: int) -> bytes:
    """Return an archive whose only member claims a size."""
    member = tarfile.TarInfo("1.jpg")
    member.size = size
    return member.tobuf() + files.png() + b"\0" * 1024


_JSON = json.dumps({"question": "what?", "answer": "a cat"}).encode()
_WHOLE = _tar(("1.png", files.png(40, 30)), ("1.json", _JSON))

ARCHIVES = {
    "an empty archive": b"",
    "no archive": b"not a tar file" * 100,
    "an archive that is cut off": _WHOLE[:700],
    "an archive without members": _tar(),
    "a member of another folder": _tar(("../../../evil.png", b"x"), ("/etc/evil.json", b"x")),
    "links to files outside": _links(),
    "a member that claims a terabyte": _claiming(1 << 40),
    "a member of JSON that is broken": _tar(("1.png", files.png()), ("1.json", b"{")),
    "a member of JSON that is a list": _tar(("1.png", files.png()), ("1.json", b"[]")),
    "an image that is broken": _tar(("1.png", b"x"), ("1.json", _JSON)),
    "an image without a text": _tar(("1.png", files.png())),
    "a text without an image": _tar(("1.json", _JSON)),
    "a compressed archive": gzip.compress(_WHOLE),
}


def _write_archive(content: bytes, path: Path) -> None:
    path.with_suffix(".tar").write_bytes(content)


# --- leaving bad records out


def _skip_one(folder: Path) -> str:
    rows = [files.talk("<image>\nWhat does it say?", f"word {number}") for number in range(20)]
    rows[7]["image"] = "gone.png"
    _write_mixture(_rows(*rows), folder)
    options = ["--profile", "smoke", "--data", "mixture.yaml", "--out", "run", "--steps", "5", "--skip-bad"]
    require_success(sandbox.run(["train", *options], folder))

    skipped = (folder / "run" / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(skipped) == 1 and "gone.png" in skipped[0], skipped
    return "19 trained on, 1 left out"


def _skip_all(folder: Path) -> str:
    rows = [files.talk("<image>\nWhat does it say?", "x", image="gone.png") for _ in range(20)]
    _write_mixture(_rows(*rows), folder)
    options = ["--profile", "smoke", "--data", "mixture.yaml", "--out", "run", "--steps", "5", "--skip-bad"]
    sentence = require_one_sentence(sandbox.run(["train", *options], folder))
    assert not (folder / "run" / "model").exists(), "it left a model"
    return sentence
