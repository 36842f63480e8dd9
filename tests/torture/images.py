"""Images: 140 files, whole and broken, alone and in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from monkeylib import resources
from monkeylib.captions.input_images import find_images
from monkeylib.images import ImageError, open_image
from tests.support import image_files
from tests.support.image_files import ImageFile
from tests.torture import sandbox
from tests.torture.cases import Case, require_one_sentence

BASE = resources.models() / "nano-base"
MEMORY = 1 << 30  # bytes for opening one image


def cases() -> Iterator[Case]:
    """Yield the cases."""
    readable, unreadable = image_files.readable_files(), image_files.unreadable_files()

    for name, file in {**readable, **unreadable}.items():
        yield Case("images", name, partial(_open, file))

    for name, file in unreadable.items():
        yield Case("images", f"{name}, by `answer`", partial(_answer, file))

    yield Case("images", "PostScript while `gs` is there", _postscript)
    yield Case("images", "a folder of them all, by `caption`", _caption_all)
    for name, make in SPECIAL_FILES.items():
        yield Case("images", name, partial(_answer_special, make))


def _open(file: ImageFile, folder: Path) -> str:
    outcome = sandbox.run(partial(_open_in_process, file, folder / file.name), folder, 60, memory=MEMORY)
    assert outcome.code == 0, outcome.output[-400:]
    return outcome.last_line


def _open_in_process(file: ImageFile, path: Path) -> None:
    path.write_bytes(file.content)
    try:
        image = open_image(path)
    except ImageError as error:
        assert error.code == file.expected, f"{error.code} for {file.expected}: {error}"
        print(f"refused: {error.code}")
        return

    assert not isinstance(file.expected, str), f"read as {image.size}, expected {file.expected}"
    difference = np.asarray(image).astype(float) - np.asarray(file.reference.convert("RGB"))
    assert np.abs(difference).mean() <= file.expected, (
        f"{np.abs(difference).mean():.1f} from what a viewer shows"
    )
    print("as a viewer shows it")


def _answer(file: ImageFile, folder: Path) -> str:
    (folder / file.name).write_bytes(file.content)
    outcome = sandbox.run(["answer", file.name, "what?", "--model", BASE], folder)
    require_one_sentence(outcome, file.name)
    return f"refused: {file.expected}"


def _postscript(folder: Path) -> str:
    program = folder / "gs"
    program.write_text(f"#!/bin/sh\ntouch '{folder}/executed'\n", encoding="utf-8")
    program.chmod(0o755)
    (folder / "photo.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")

    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    command = ["answer", "photo.png", "what?", "--model", BASE]
    outcome = sandbox.run(command, folder, environment={"PATH": path})
    require_one_sentence(outcome, "photo.png")
    assert not (folder / "executed").exists(), "it was started"
    return "not started"


def _caption_all(folder: Path) -> str:
    images = folder / "images"
    images.mkdir()
    files = [*image_files.readable_files().values(), *image_files.unreadable_files().values()]
    for number, file in enumerate(files):
        (images / f"{number:03}{Path(file.name).suffix or '.png'}").write_bytes(file.content)

    command = ["caption", images, "--out", "out", "--experts", "pp-ocr", "--report", "0"]
    outcome = sandbox.run(command, folder, 600, memory=None)
    assert outcome.code is not None and not outcome.has_traceback, outcome.output[-400:]
    records = (folder / "out" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    # Each page of a document is an image.
    pages = len(find_images([images]))
    assert len(records) == pages >= len(files), f"{len(records)} records for {pages} images"
    return f"{len(records)} records"


# --- what only looks like a file


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def _dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("gone.png"))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _nothing(path: Path) -> None:
    pass


SPECIAL_FILES = {
    "a pipe": _fifo,
    "a link to itself": _link_to_itself,
    "a link to nothing": _dangling_link,
    "a link to /dev/zero": _device,
    "a folder": Path.mkdir,
    "no file": _nothing,
}


def _answer_special(make, folder: Path) -> str:
    make(folder / "a.png")
    outcome = sandbox.run(["answer", "a.png", "what?", "--model", BASE], folder, 30)
    return require_one_sentence(outcome, "a.png")
