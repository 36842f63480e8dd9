"""Images in tar files, tables and saved datasets."""

import os
import pickle
import tarfile
from collections import Counter

import pytest

from monkeylib.captions.image_containers import StoredImage, is_container, stored_images
from monkeylib.digests import bytes_digest
from tests.support.image_containers import png, webdataset

CAPTIONS = {"000000000": "a sign", "000000001": "a tiger"}


def check(images, contents):
    """Check bytes and digests, here and in another process."""
    for image, content in zip(images, contents, strict=True):
        copy = pickle.loads(pickle.dumps(image))
        assert copy.content() == content and copy.sha256() == bytes_digest(content)


def test_downloaded_tar_gives_images_with_captions_and_addresses(tmp_path):
    file = webdataset(tmp_path / "00000.tar", CAPTIONS)
    images = list(stored_images(file))

    assert is_container(file)
    assert [(image.name, image.caption, image.address) for image in images] == [
        ("000000000", "a sign", "https://example.org/000000000.png"),
        ("000000001", "a tiger", "https://example.org/000000001.png"),
    ]
    check(images, [png(0), png(1)])


def test_record_without_an_image_and_a_torn_tar_are_counted(tmp_path):
    file = webdataset(tmp_path / "a.tar", CAPTIONS)
    with tarfile.open(file, "a") as archive:
        (tmp_path / "z.txt").write_text("no image")
        archive.add(tmp_path / "z.txt", "z.txt")

    left_out = Counter()
    assert len(list(stored_images(file, left_out))) == 2
    assert left_out == {"record of a tar file without an image": 1}

    content = file.read_bytes()
    torn = tmp_path / "torn.tar"
    torn.write_bytes(content[: len(content) // 4 - 100])
    left_out = Counter()
    list(stored_images(torn, left_out))
    assert left_out["damaged record of a tar file"] == 1


def test_container_that_changes_has_other_digests(tmp_path):
    file = webdataset(tmp_path / "a.tar", CAPTIONS)
    (first, _) = stored_images(file)
    before = first.sha256()

    webdataset(file, {"x": "", **CAPTIONS}, broken="x")
    os.utime(file, ns=(1, 1))
    assert next(stored_images(file)).sha256() == bytes_digest(b"no image") != before


def test_container_in_place_of_another_of_its_size_and_time_has_other_digests(tmp_path):
    file = webdataset(tmp_path / "a.tar", CAPTIONS)
    os.utime(file, ns=(1, 1))
    image = next(stored_images(file))
    before, content = image.sha256(), image.content()

    other = tmp_path / "b.tar"
    other.write_bytes(file.read_bytes().replace(content, content[::-1]))
    os.utime(other, ns=(1, 1))
    os.replace(other, file)
    assert next(stored_images(file)).sha256() == bytes_digest(content[::-1]) != before


def test_parquet_with_images_is_a_container_and_one_without_is_none(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"image": {"bytes": png(0), "path": "a.png"}, "caption": "a sign"},
        {"image": {"bytes": None, "path": None}, "caption": "nothing"},
        {"image": {"bytes": png(1), "path": "b.png"}, "caption": None},
    ]
    file = tmp_path / "train-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    facts = tmp_path / "00000.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"key": "0", "caption": "a"}]), facts)
    assert is_container(file) and not is_container(facts)

    left_out = Counter()
    images = list(stored_images(file, left_out))
    assert [(image.name, image.caption) for image in images] == [("00000000", "a sign"), ("00000002", "")]
    assert left_out == {"row of a table without an image": 1}
    check(images, [png(0), png(1)])


def test_table_that_is_written_again_is_read_again(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / "a.parquet"
    for numbers in ([0, 1], [1], [2, 0]):
        rows = [{"image": png(number), "caption": f"caption {number}"} for number in numbers]
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        images = list(stored_images(file))
        assert [image.caption for image in images] == [f"caption {number}" for number in numbers]
        check(images, [png(number) for number in numbers])


def test_saved_dataset_is_a_container(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(3)], "text": ["a", "b", "c"]}
    features = datasets.Features({"image": datasets.Image(decode=False), "text": datasets.Value("string")})
    folder = tmp_path / "saved"
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder))

    assert is_container(folder) and not is_container(tmp_path)
    images = list(stored_images(folder))
    assert [image.caption for image in images] == ["a", "b", "c"]
    check(images, [png(0), png(1), png(2)])


def test_image_that_cannot_be_read_has_no_digest(tmp_path, monkeypatch):
    file = webdataset(tmp_path / "a.tar", CAPTIONS)
    (image, _) = stored_images(file)
    assert isinstance(image, StoredImage)

    def fail(member):
        raise OSError("the disk is broken")

    monkeypatch.setattr(type(image.content), "__call__", fail)
    with pytest.raises(OSError, match=r"the image 000000000 of .*a.tar cannot be read"):
        image.sha256()
