"""The images of a folder, their names and their original captions."""

import json
import os
from collections import Counter

import pytest
from PIL import Image

from monkeylib.captions import input_images
from monkeylib.captions.input_images import InputImage
from monkeylib.images import ImageError
from tests.support.image_containers import webdataset
from tests.support.image_files import pdf


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "images"
    for name in ("b.JPG", "a.png", "sub/a.png", "sub/c.webp", "x.y.jpeg"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (len(name), 0, 0)).save(home / name)

    (home / "notes.txt").write_text("no image")
    (home / "d.png").mkdir()
    return home


def test_folder_gives_its_images_in_order_named_by_their_path(folder):
    images = input_images.find_images([folder])
    assert [image.name for image in images] == ["a.png", "b.JPG", "sub/a.png", "sub/c.webp", "x.y.jpeg"]
    assert all(image.open().size == (9, 9) for image in images)


def test_files_that_are_no_images_are_counted_by_reason(folder):
    (folder / "._a.png").write_bytes(b"of macOS")
    (folder / ".thumbnails").mkdir()
    Image.new("RGB", (9, 9)).save(folder / ".thumbnails" / "a.png")
    (folder / "sub" / "noending").touch()
    (folder / "sub" / "more.txt").touch()
    os.mkfifo(folder / "pipe.png")
    (folder / "broken.png").symlink_to(folder / "gone.png")

    listing = input_images.list_images([folder, folder / "a.png"])
    assert len(list(listing)) == 6
    assert listing.left_out == {
        ".txt": 2, "hidden": 2, "without an ending": 1, "pipe or device": 1, "broken link": 1
    }  # fmt: skip
    assert not input_images.list_images([folder / "notes.txt"]).left_out

    sentence = input_images.describe_left_out(listing.left_out)
    assert sentence.startswith("left out: 7 files (2 .txt, 2 hidden, 1 ") and sentence.endswith(
        ", 1 without an ending)"
    )
    assert input_images.describe_left_out(Counter({".txt": 1})) == "left out: 1 file (1 .txt)"
    many = Counter({f".{number}": 1 for number in range(9)})
    assert input_images.describe_left_out(many).endswith("1 .4, 4 others)")


def test_images_are_known_by_any_of_their_endings_and_by_content_without_one(tmp_path):
    image = Image.new("RGB", (9, 9), "red")
    for ending, format in [("jfif", "JPEG"), ("JPE", "JPEG"), ("avif", "AVIF"), ("jp2", "JPEG2000")]:
        image.save(tmp_path / f"a.{ending}", format)
    image.save(tmp_path / "photo", "PNG")
    (tmp_path / "page").write_bytes(pdf([image]))
    (tmp_path / "README").write_text("no image")

    listing = input_images.list_images([tmp_path])
    names = ["a.JPE", "a.avif", "a.jfif", "a.jp2", "page#1", "photo"]
    assert [image.name for image in list(listing)] == names
    assert listing.left_out == {"without an ending": 1}
    assert all(image.open().size in [(9, 9), (10, 10)] for image in list(listing))


def test_linked_folders_are_followed_once(tmp_path):
    home, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    for path in (home / "sub" / "a.png", elsewhere / "b.png"):
        path.parent.mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(path)
    (home / "link").symlink_to(elsewhere)
    (home / "again").symlink_to(home / "sub")
    (elsewhere / "back").symlink_to(home)

    assert [image.name for image in input_images.find_images([home])] == ["link/b.png", "sub/a.png"]


def test_pages_of_documents_are_images(tmp_path):
    pages = [Image.new("RGB", (20, 20), color) for color in ("red", "lime", "blue")]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.pdf").write_bytes(pdf(pages))
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "c.tif")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4")

    images = input_images.find_images([tmp_path])
    names = [f"{file}#{number}" for file in ("b.tif", "sub/a.pdf") for number in (1, 2, 3)]
    assert [image.name for image in images] == [*names[:3], "broken.pdf", "c.tif", *names[3:]]
    assert len({image.sha256() for image in images}) == len(images)
    assert images[-1].open().getpixel((9, 9))[2] > 200
    with pytest.raises(ImageError, match="^broken.pdf cannot be read as a PDF file"):
        images[3].open()

    document = tmp_path / "sub" / "a.pdf"
    assert [image.name for image in input_images.find_images([document])] == ["a.pdf#1", "a.pdf#2", "a.pdf#3"]
    (second,) = input_images.find_images([f"{document}#2"])
    assert second.name == "a.pdf#2" and second.open().getpixel((9, 9))[1] > 200
    (beyond,) = input_images.find_images([f"{document}#9"])
    with pytest.raises(ImageError, match="^a.pdf#9: the file has 3 pages"):
        beyond.open()


def test_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "p.jpg")
    with pytest.raises(ValueError, match="p.jpg is no regular file: expected an image or a folder"):
        input_images.find_images([tmp_path / "p.jpg"])


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (3, 900), (900, 7)])
def test_image_that_is_too_small_to_be_described_is_refused(size):
    with pytest.raises(ImageError, match=f"^a has {size[0]} x {size[1]} pixels: .* a side needs 8") as error:
        InputImage(Image.new("RGB", size, "red"), "a").open()
    assert error.value.code == "too-small"
    assert InputImage(Image.new("RGB", (8, 8)), "a").open().size == (8, 8)


def test_notices_name_the_image(tmp_path):
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (image,) = input_images.find_images([tmp_path])
    assert image.read()[1] == ("a.gif has 2 frames: the first is read, 1 left out",)


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
    with pytest.raises(ValueError, match=r"nothing to caption: found no images \(.apng .avif"):
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
    listing = input_images.list_images([folder], file)
    captions = {image.name: image.original_caption for image in listing}

    assert captions == {
        "a.png": "first", "b.JPG": "second", "sub/a.png": "", "sub/c.webp": "by its file name", "x.y.jpeg": ""
    }  # fmt: skip
    assert listing.remarks()[-1] == (
        "original captions: 3 of 5 images have one; 1 of 4 captions match no image"
    )


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.json", "[1, 2]", "a.json holds no captions: expected"),
        ("a.json", "{", "a.json holds no captions: expected"),
        ("a.csv", "name;words\nx;y\n", "a.csv holds no captions: expected"),
        ("a.jsonl", '{"caption": "no name"}', "a.jsonl holds no captions: expected"),
        ("a.json", '{"z.png": "x"}', "no caption of these images: it names 'z.png', the first"),
    ],
)  # fmt: skip
def test_files_without_captions_raise(folder, tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=complaint):
        input_images.list_images([folder], tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no captions at"):
        input_images.list_images([folder], tmp_path / "gone.json")


def test_listing_is_counted_and_can_be_iterated_again(folder):
    listing = input_images.list_images([folder])
    assert len(listing) == 5 and listing.captioned == 0
    assert [image.name for image in listing] == [image.name for image in listing]
    assert listing.remarks() == ["left out: 1 file (1 .txt)"]

    # Images that are added later are seen, and nothing of what was listed is held.
    Image.new("RGB", (9, 9)).save(folder / "0.png")
    assert next(iter(listing)).name == "0.png"


def test_text_files_beside_images_are_their_captions(folder):
    (folder / "a.txt").write_text(" a small image \n", encoding="utf-8")
    (folder / "x.y.txt").write_bytes(b"\xef\xbb\xbfof two dots")
    (folder / "sub" / "c.json").write_text('{"url": "https://example.org/c"}')

    listing = input_images.list_images([folder])
    captions = {image.name: image.original_caption for image in listing if image.original_caption}
    assert captions == {"a.png": "a small image", "x.y.jpeg": "of two dots"}
    # What belongs to an image is not left out.
    assert listing.left_out == {".txt": 1} and listing.captioned == 2

    # A file of captions takes precedence where it has one.
    (folder / "captions.json").write_text('{"a.png": "from the file"}')
    listing = input_images.list_images([folder], folder / "captions.json")
    captions = {image.name: image.original_caption for image in listing if image.original_caption}
    assert captions == {"a.png": "from the file", "x.y.jpeg": "of two dots"}


def test_results_among_the_images_are_not_searched(folder):
    out = folder / "out"
    (out / "exports").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(out / "exports" / "a.png")
    listing = input_images.list_images([folder], without=folder / "sub" / ".." / "out")
    assert [image.name for image in listing] == ["a.png", "b.JPG", "sub/a.png", "sub/c.webp", "x.y.jpeg"]
    assert listing.left_out == {".txt": 1}


def test_captions_that_are_not_utf8_are_counted_and_none(folder):
    (folder / "a.txt").write_bytes("caf\xe9".encode("latin-1"))
    (folder / "b.txt").write_bytes(b"x" + "\xe9".encode() * input_images._LONGEST_CAPTION)
    listing = input_images.list_images([folder])
    captions = {image.name: image.original_caption for image in listing}
    assert captions["a.png"] == "" and set(captions["b.JPG"]) == {"x", "\xe9"}
    assert listing.left_out[".txt that is not UTF-8"] == 1

    addresses = folder / "list.tsv"
    addresses.write_bytes("caf\xe9\thttps://example.org/a.png\n".encode("latin-1"))
    with pytest.raises(ValueError, match="line 1 is not UTF-8"):
        input_images.list_images([folder], addresses)


def test_folder_that_is_only_linked_within_a_hidden_one_is_searched(tmp_path):
    hidden = tmp_path / "images" / ".store" / "x"
    hidden.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(hidden / "a.png")
    (tmp_path / "images" / "one").symlink_to(hidden)
    (tmp_path / "images" / "two").symlink_to(hidden)
    assert [image.name for image in input_images.find_images([tmp_path / "images"])] == ["one/a.png"]


def test_list_of_captions_is_no_image(folder, tmp_path):
    (tmp_path / "a.tsv").write_text("a caption\thttps://example.org/0.jpg\n")
    with pytest.raises(ValueError, match="a.tsv is a list, not an image: name the folder.*--captions"):
        input_images.list_images([tmp_path / "a.tsv"])


def test_containers_in_a_folder_are_listed_with_its_images(folder):
    webdataset(folder / "sub" / "b.tar", {"1": "one", "2": "two"})
    images = input_images.find_images([folder])
    assert [image.name for image in images] == [
        "a.png", "b.JPG", "sub/a.png", "sub/b/1", "sub/b/2", "sub/c.webp", "x.y.jpeg"
    ]  # fmt: skip
    assert images[3].original_caption == "one" and images[3].open().size == (9, 9)

    # Two containers of one name.
    webdataset(folder / "b.tar", {"1": "another"})
    images = input_images.find_images([folder / "b.tar", folder / "sub" / "b.tar"])
    assert [image.name for image in images] == [
        f"{folder}/b.tar/1", f"{folder}/sub/b.tar/1", "b/2"
    ]  # fmt: skip


def test_broken_image_in_a_container_is_named(tmp_path):
    webdataset(tmp_path / "b.tar", {"1": "one", "2": "two"}, broken="2")
    first, second = input_images.find_images([tmp_path / "b.tar"])
    assert first.open().size == (9, 9)
    with pytest.raises(ImageError, match="^b/2 .*"):
        second.open()
    assert second.sha256() != first.sha256()
