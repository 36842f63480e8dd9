"""Described pictures out of packages made here: a Debian package of stamps, an npm package of emoji."""

import io
import json
import sys
import tarfile
import types

import pytest
from PIL import Image

from monkeylib.data import assets, pictures

ROOT = "./usr/share/tuxpaint/stamps/"


def png(colour, size=(8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def packed(contents: dict[str, bytes], compression: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def deb(members: dict[str, bytes]) -> bytes:
    """An archive of `ar`, in which members start at even places."""
    out = b"!<arch>\n"
    for name, content in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Puts a package in the place of the asset."""

    def put(content: bytes):
        path = tmp_path / "package"
        path.write_bytes(content)
        monkeypatch.setattr(assets, "fetch", lambda name: path)

    return put


STAMPS = {
    ROOT + "animals/cat.png": png((255, 0, 0, 255)),
    ROOT + "animals/cat.txt": b"A cat.\nde.utf8=Eine Katze.\n",
    ROOT + "animals/mute.png": png((0, 255, 0, 255)),
    ROOT + "animals/lost.txt": b"The lost one.\n",
    ROOT + "animals/cat.ogg": b"meow",
    ROOT + "symbols/a.png": png((0, 0, 255, 255)),
    ROOT + "symbols/a.txt": b"The letter A.\n",
    ROOT + "food/apple.png": png((9, 9, 9, 0)),
    ROOT + "food/apple.txt": "An  apple —\u00a0red.\n".encode(),
}


def test_stamps_are_read_out_of_a_debian_package(fetched):
    data = packed(STAMPS, "xz")
    fetched(deb({"debian-binary": b"2.0", "control.tar.xz": b"odd", "data.tar.xz": data}))
    found = list(pictures.stamps())
    assert [(item.name, item.text) for item in found] == [
        ("animals/cat", "cat"),
        ("food/apple", "apple — red"),
    ]
    assert found[0].image.mode == "RGBA" and found[0].image.getpixel((0, 0)) == (255, 0, 0, 255)
    assert {item.source for item in found} == {pictures.STAMPS}


@pytest.mark.parametrize("content", [b"", b"!<arch>\n", b"PK" + b"0" * 99])
def test_what_is_no_debian_package_is_refused(fetched, content):
    fetched(content)
    with pytest.raises(ValueError, match="no Debian package"):
        list(pictures.stamps())


def entry(code, text, group="animals-nature", subgroup="animal-mammal", skintone=""):
    named = {"hexcode": code, "annotation": text, "group": group, "subgroups": subgroup}
    return {**named, "skintone": skintone}


def test_emoji_of_things_are_drawn_and_others_left_out(fetched, monkeypatch):
    entries = [
        entry("1F638", "grinning cat"),
        entry("1F1E6", "flag: there", "flags", "country-flag"),
        entry("E040", "some brand", "extras-openmoji", "brand"),
        entry("1F44B-1F3FB", "waving hand: light skin tone", "people-body", "hand", "1"),
    ]
    files = {f"package/color/svg/{e['hexcode']}.svg": e["annotation"].encode() for e in entries}
    files["package/data/openmoji.json"] = json.dumps(entries).encode()
    drawn = []

    def svg2png(bytestring, output_width, output_height):
        drawn.append(bytestring)
        return png((1, 2, 3, 255), (output_width, output_height))

    monkeypatch.setitem(sys.modules, "cairosvg", types.SimpleNamespace(svg2png=svg2png))
    fetched(packed(files, "gz"))
    (found,) = pictures.openmoji()
    assert found.text == "grinning cat" and drawn == [b"grinning cat"]
    assert found.image.size == (pictures.DRAWN_SIDE,) * 2


def test_drawing_needs_cairosvg_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    with pytest.raises(ModuleNotFoundError, match="install monkeylib with its extra `matching`"):
        list(pictures.openmoji())


def test_cairosvg_draws_with_alpha():
    cairosvg = pytest.importorskip("cairosvg")
    half = b'<rect width="5" height="10" fill="red"/>'
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">' + half + b"</svg>"
    image = pictures._opened(cairosvg.svg2png(bytestring=svg, output_width=20, output_height=20))
    assert image.getpixel((2, 10)) == (255, 0, 0, 255) and image.getpixel((17, 10))[3] == 0
