"""Texts that name images are told apart, without a library for images."""

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from monkeylib import resources
from monkeylib.image_errors import ImageError
from monkeylib.image_sources import (
    decode_data_uri,
    is_address,
    is_data_uri,
    missing_image,
    page_of_address,
    split_page,
)


@pytest.mark.parametrize("address", ["http://host/a.png", "HTTPS://host/a.png#2", "https:/host/a.png"])
def test_addresses_of_the_web_are_addresses(address):
    assert is_address(address) and not is_data_uri(address)


@pytest.mark.parametrize(
    "source", ["a.png", "file:///a.png", "s3://b/a.png", "http.png", b"http://a", Path("a"), 5]
)
def test_other_sources_are_no_addresses_of_the_web(source):
    assert not is_address(source) and not is_data_uri(source)


def test_page_is_split_from_a_path_unless_a_file_bears_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("scan.pdf#4").touch()

    for path, expected in {
        "scan.pdf#3": ("scan.pdf", 3),
        "scan.pdf#4": ("scan.pdf#4", None),
        "scan.pdf": ("scan.pdf", None),
        "scan.pdf#": ("scan.pdf#", None),
        "scan.pdf#last": ("scan.pdf#last", None),
        "a#2.pdf#1": ("a#2.pdf", 1),
        "~/scan.pdf#3": (tmp_path / "home" / "scan.pdf", 3),
    }.items():
        assert split_page(path) == split_page(Path(path)) == (Path(expected[0]), expected[1])


def test_page_of_an_address_is_its_last_number():
    assert page_of_address("https://host/scan.pdf#12") == 12
    assert page_of_address("https://host/scan.pdf") is page_of_address("https://host/#page") is None


@pytest.mark.parametrize("beginning", ["data:image/png;base64,", "DATA:image/png;BASE64,", "data:;base64,"])
def test_data_uri_gives_its_bytes(beginning):
    content = bytes(range(256))
    assert is_data_uri(beginning)
    assert decode_data_uri(beginning + base64.b64encode(content).decode()) == content
    assert decode_data_uri(beginning + base64.encodebytes(content).decode()) == content, "in lines"


@pytest.mark.parametrize(
    ("uri", "code", "message"),
    [
        ("data:image/png,abc", "unsupported", "must look like data:image/png;base64,CONTENT"),
        ("data:image/png;base64", "unsupported", "must look like"),
        ("data:image/png;base64,@@@", "truncated", "holds no valid base64"),
    ],
)
def test_data_uri_of_another_form_is_refused(uri, code, message):
    with pytest.raises(ImageError, match=message) as error:
        decode_data_uri(uri)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("gone.png", "missing", "there is no image at gone.png: check the path"),
        (" gone.png", "missing", "begins or ends with white space"),
        ("/9j/4AAQSkZJRgABAQ", "unsupported", "is base64, not a path"),
        ("s3://user:secret@bucket/a.png", "unsupported", "is an address: download the image"),
    ],
)
def test_error_for_what_is_missing_tells_what_the_text_was(name, code, message):
    error = missing_image(name)
    assert error.code == code and message in str(error) and "secret" not in str(error)
    assert isinstance(error, FileNotFoundError) == (code == "missing")


def test_shipped_image_of_a_missing_name_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(resources.samples() / "receipt.png") in str(missing_image("receipt.png"))
    assert "shipped" not in str(missing_image("receipts.png"))


def test_names_are_told_apart_without_a_library_for_images():
    code = "import sys, monkeylib.image_sources; print({'PIL', 'numpy'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
