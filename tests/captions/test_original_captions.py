"""Original captions of images: by name, file name, key, address, or position in CC3M's list."""

import json

import pytest

from monkeylib.captions.input_images import list_images
from monkeylib.captions.original_captions import OriginalCaptions
from tests.support.image_containers import png, webdataset

LIST = (
    'a sign\thttps://example.org/0.jpg\na "quoted" word\thttps://example.org/1.jpg\nnobody\thttps://x.org/2\n'
)


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "images"
    home.mkdir()
    for number in range(2):
        (home / f"00000000{number}.png").write_bytes(png(number))
    return home


def captions_of(listing):
    return {image.name: image.original_caption for image in listing}


def test_list_of_cc3m_is_matched_by_position(folder, tmp_path):
    file = tmp_path / "Train_GCC-training.tsv"
    file.write_text(LIST)
    listing = list_images([folder], file)

    assert captions_of(listing) == {"000000000.png": "a sign", "000000001.png": 'a "quoted" word'}
    assert listing.remarks() == [
        "original captions: 2 of 2 images have one; 1 of 3 captions match no image; names that are numbers "
        "were taken for lines of the list, counted from 0"
    ]


def test_list_of_cc3m_is_matched_by_the_address_that_a_downloader_wrote(folder, tmp_path):
    file = tmp_path / "list.tsv"
    file.write_text(LIST)
    # The downloader had left out the first row.
    (folder / "000000000.json").write_text(json.dumps({"url": "https://example.org/1.jpg"}))
    (folder / "000000001.json").write_text(json.dumps({"url": "https://elsewhere.org/"}))

    assert captions_of(list_images([folder], file)) == {
        "000000000.png": 'a "quoted" word', "000000001.png": ""
    }  # fmt: skip

    webdataset(tmp_path / "0.tar", {"a": "of the tar"})
    file.write_text("of the list\thttps://example.org/a.png\n")
    assert captions_of(list_images([tmp_path / "0.tar"], file)) == {"0/a": "of the list"}


def test_parquet_of_a_downloader_is_matched_by_key_and_failures_are_counted(folder, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"key": "000000000", "caption": "a sign", "status": "success"},
        {"key": "000000001", "caption": None, "status": "success"},
        {"key": "000000002", "caption": "gone", "status": "failed_to_download"},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "00000.parquet")
    listing = list_images([folder], tmp_path / "00000.parquet")

    assert captions_of(listing) == {"000000000.png": "a sign", "000000001.png": ""}
    assert listing.remarks() == [
        "original captions: 1 of 2 images have one; 1 images were not fetched"
    ]  # fmt: skip


def test_name_that_several_images_have_names_none(tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"a": "by its key", "b.png": "by its file name", "x/c.png": "by its path"}))
    captions = OriginalCaptions(file)
    captions.note_names(["x/a.png", "y/a.jpg", "x/b.png", "x/c.png", "c.png"])

    names = ["x/a.png", "y/a.jpg", "x/b.png", "x/c.png", "c.png"]
    assert [captions.find(name) for name in names] == [None, None, "by its file name", "by its path", None]
    assert (captions.count, captions.unmatched) == (3, 1)


def test_later_row_of_a_name_counts(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"image": "a", "caption": "old"}\n{"image": "a", "caption": "new"}\n')
    assert OriginalCaptions(tmp_path / "c.jsonl").find("a") == "new"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"a": null, "b": ["", "first", "second"], "c": "one", "d": 7}'),
        (
            "c.jsonl",
            '{"image": "a", "caption": null}\n{"image": "b", "caption": ["", "first", "second"]}\n'
            '{"image": "c", "caption": "one"}\n{"image": "d", "caption": 7}\n',
        ),
    ],
)
def test_of_several_captions_the_first_one_is_read_and_null_is_none(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    captions = OriginalCaptions(tmp_path / name)
    assert [captions.find(name) for name in "abcd"] == [None, "first", "one", "7"]
    assert captions.count == 3


@pytest.mark.parametrize("text", ['{"a": {"caption": "b"}}', '{"a": [["b"]]}', '{"a": true}'])
def test_what_is_no_caption_raises(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=r"c.json holds no captions: expected a JSON object of captions"):
        OriginalCaptions(tmp_path / "c.json")


def test_long_numbers_and_broken_addresses_have_no_caption(tmp_path):
    (tmp_path / "c.tsv").write_text(LIST)
    captions = OriginalCaptions(tmp_path / "c.tsv")
    assert captions.find(f"{10**30}.jpg") is None
    assert captions.find("a.jpg", "https://example.org/\ud800") is None
    assert captions.find(f"{'0' * 17}1.jpg") == 'a "quoted" word'


def test_line_without_a_tab_raises(tmp_path):
    (tmp_path / "c.tsv").write_text("a sign\thttps://example.org/0.jpg\nno tab\n")
    with pytest.raises(
        ValueError, match=r"c.tsv holds no captions: expected .* a caption, a tab and an address"
    ):
        OriginalCaptions(tmp_path / "c.tsv")
