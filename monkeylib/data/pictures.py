"""Images with a description each, out of packages that hold many: Tux Paint's stamps and OpenMoji.

An image has an alpha channel, so that it can be laid on any background. Letters, signs, money, flags and
brands are left out, and so are variants that differ in the tone of skin.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image

from monkeylib import assets

STAMPS, OPENMOJI = "tuxpaint-stamps", "openmoji"
DRAWN_SIDE = 256  # pixels to which an SVG is drawn
_STAMPS_ROOT = "./usr/share/tuxpaint/stamps/"
_UNUSED_GROUPS = ("flags", "symbols", "extras-unicode", "component")
_UNUSED_SUBGROUPS = ("brand", "flags", "interaction", "technology", "user-interface")


@dataclass(frozen=True)
class Described:
    """An image with its description in a few words; `name` is its path in the package."""

    source: str
    name: str
    text: str
    image: Image.Image  # RGBA


def stamps() -> Iterator[Described]:
    """The photographed and drawn stamps (PNG) that have an English description.

    Raises:
        AssetUnavailable: the package isn't here and can't be fetched.
    """
    texts: dict[str, str] = {}
    images: dict[str, bytes] = {}
    with assets.fetch(STAMPS).open("rb") as package:
        for name, content in _members(_data_of(package), (".png", ".txt")):
            stem, _, kind = name.removeprefix(_STAMPS_ROOT).rpartition(".")
            if stem.startswith("symbols/"):
                continue
            if kind == "png":
                images[stem] = content
            else:
                texts[stem] = content.decode("utf-8", "replace").split("\n")[0]
    for stem in sorted(images.keys() & texts.keys()):
        text = _plain(texts[stem])
        if text:
            yield Described(STAMPS, stem, text, _opened(images[stem]))


def openmoji() -> Iterator[Described]:
    """The emoji of things, beings and actions, drawn from their SVG; the description is their annotation.

    Raises:
        AssetUnavailable: the package isn't here and can't be fetched.
        ModuleNotFoundError: cairosvg isn't installed.
    """
    try:
        from cairosvg import svg2png
    except ImportError as error:
        raise ModuleNotFoundError(
            "Drawing OpenMoji needs cairosvg: install monkeylib with its extra `matching`."
        ) from error
    path = assets.fetch(OPENMOJI)
    wanted: dict[str, str] = {}
    with tarfile.open(path) as archive:
        listed = archive.extractfile("package/data/openmoji.json")
        for entry in json.load(listed) if listed else ():
            if _is_thing(entry):
                wanted[f"package/color/svg/{entry['hexcode']}.svg"] = _plain(entry["annotation"])
    drawn = {}
    with path.open("rb") as package:
        for name, content in _members(package, (".svg",)):
            if name in wanted:
                drawn[name] = svg2png(bytestring=content, output_width=DRAWN_SIDE, output_height=DRAWN_SIDE)
    for name in sorted(drawn):
        yield Described(OPENMOJI, name, wanted[name], _opened(drawn[name]))


def _is_thing(entry: dict[str, str]) -> bool:
    return (
        not entry["skintone"]
        and entry["group"] not in _UNUSED_GROUPS
        and entry["subgroups"] not in _UNUSED_SUBGROUPS
    )


def _plain(text: str) -> str:
    """A description in lower case, without the full stop and without its article."""
    text = re.sub(r"\s+", " ", text).strip().rstrip(".!").lower()
    return re.sub(r"^(an?|the) ", "", text)


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGBA")


def _members(package: IO[bytes], endings: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the regular files of a compressed tar with one of some endings, in its order."""
    with tarfile.open(fileobj=package, mode="r|*") as archive:
        for member in archive:
            if member.isreg() and member.name.endswith(endings):
                stream = archive.extractfile(member)
                if stream is not None:
                    yield member.name, stream.read()


def _data_of(package: IO[bytes]) -> IO[bytes]:
    """The compressed tar of files in a Debian package, which is an archive of `ar`.

    Raises:
        ValueError: the file is no Debian package.
    """
    if package.read(8) == b"!<arch>\n":
        while len(header := package.read(60)) == 60:
            size = int(header[48:58])
            if header[:8] == b"data.tar":
                return io.BytesIO(package.read(size))
            package.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError(
        f"{Path(getattr(package, 'name', 'the file')).name} is no Debian package: fetch it anew."
    )
