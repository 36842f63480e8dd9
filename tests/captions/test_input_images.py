"""The images of a folder, their names and their original captions."""

import json

import pytest
from PIL import Image

from monkeylib.captions import input_images
from monkeylib.captions.input_images import InputImage


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "images"
    for name in ("b.JPG", "a.png", "sub/a.png", "sub/c.webp", "x.y.jpeg"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (len(name), 0, 0)).save(home / name)

    (home / "notes.txt").write_text("no image")
    (home / "d.png").mkdir()
    return home


def test_folder_gives_its_images_in_order_named_by_their_path(folder):
    images = input_images.find_images([folder])
    assert [image.name for image in images] == ["a.png", "b.JPG", "sub/a.png", "sub/c.webp", "x.y.jpeg"]
    assert all(image.open().size == (4, 4) for image in images)


def test_hidden_files_are_no_images_and_others_are_counted(folder):
    (folder / "._a.png").write_bytes(b"of macOS")
    (folder / "sub" / "noending").touch()
    (folder / "sub" / "more.txt").touch()

    assert len(input_images.find_images([folder])) == 5
    assert input_images.left_out([folder, folder / "a.png"]) == {".txt": 2, "": 1}
    assert not input_images.left_out([folder / "notes.txt"])


def test_images_of_one_name_get_their_full_paths(folder):
    images = input_images.find_images([folder / "a.png", folder / "sub", folder / "b.JPG"])
    full_paths = [(folder / name).as_posix() for name in ("a.png", "sub/a.png")]

    assert [image.name for image in images] == [*full_paths, "c.webp", "b.JPG"]

    twice = input_images.find_images([folder / "a.png", folder / "a.png"])
    assert [image.name for image in twice] == ["a.png", "a.png"], "one image twice is one image"


def test_missing_folder_raises_and_missing_image_becomes_an_input(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder and no image at .*gone: check"):
        input_images.find_images([tmp_path / "gone"])

    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"nothing to caption: found no images \(.avif .bmp"):
        input_images.find_images([tmp_path / "empty"])
    assert [image.name for image in input_images.find_images([tmp_path / "gone.png"])] == ["gone.png"]


def test_checksum_is_of_the_file_or_of_the_pixels_in_memory(folder):
    file, other = InputImage(folder / "a.png", "a"), InputImage(folder / "sub" / "a.png", "b")
    assert len(file.sha256()) == 64 and file.sha256() != other.sha256()

    # The same pixels in another shape are another image.
    first, same = Image.new("RGB", (2, 3), "red"), Image.new("RGB", (3, 2), "red")
    assert (
        InputImage(first, "a").sha256()
        == InputImage(first.copy(), "b").sha256()
        != InputImage(same, "a").sha256()
    )


CAPTIONS = {"a.png": "first", "b.JPG": " second ", "c.webp": "by its file name", "gone.png": "nobody"}


@pytest.mark.parametrize("kind", ["object.json", "rows.json", "rows.jsonl", "rows.csv", "rows.tsv"])
def test_original_captions_are_attached_by_name(folder, tmp_path, kind):
    rows = [{"image": name, "caption": text} for name, text in CAPTIONS.items()]
    file = tmp_path / kind
    if kind.endswith("sv"):
        mark = "\t" if kind == "rows.tsv" else ","
        lines = [
            mark.join(["caption", "image"]),
            *(mark.join(row[f] for f in ("caption", "image")) for row in rows),
        ]
        file.write_text("\n".join(lines))
    elif kind == "rows.jsonl":
        file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        file.write_text(json.dumps(CAPTIONS if kind == "object.json" else rows))

    # Two images are called a.png, so the bare name only stands for the one at the top.
    captioned = input_images.attach_captions(input_images.find_images([folder]), file)
    captions = {image.name: image.original_caption for image in captioned}

    assert captions == {
        "a.png": "first", "b.JPG": "second", "sub/a.png": "", "sub/c.webp": "by its file name", "x.y.jpeg": ""
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.json", "[1, 2]", "a.json holds no captions: expected"),
        ("a.json", "{", "a.json holds no captions: expected"),
        ("a.csv", "name;text\nx;y\n", "a.csv holds no captions: expected"),
        ("a.jsonl", '{"caption": "no name"}', "a.jsonl holds no captions: expected"),
        ("a.json", '{"z.png": "x"}', "no caption of these images: it names 'z.png', the first"),
    ],
)  # fmt: skip
def test_files_without_captions_raise(folder, tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=complaint):
        input_images.attach_captions(input_images.find_images([folder]), tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no captions at"):
        input_images.attach_captions(input_images.find_images([folder]), tmp_path / "gone.json")
