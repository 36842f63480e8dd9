"""An address is fetched where that is allowed, within limits, and never by way of anything but http."""

import time
from pathlib import Path

import pytest

from monkeylib import image_addresses
from monkeylib.image_errors import ImageError
from monkeylib.images import open_image
from tests.support.image_files import encoded, pdf, scene
from tests.support.web_server import web_server

PNG = encoded(scene(), "PNG")
FILES = {"/a.png": PNG, "/a.pdf": pdf([scene(), scene((30, 20))]), "/page.html": b"<html>", "/empty": b""}


@pytest.fixture(scope="module")
def server():
    with web_server(FILES) as server:
        yield server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_address_is_fetched_where_it_is_allowed(server):
    address, paths = server
    for path in ("/a.png", "/a.png?token=abcdef", "/to//a.png", f"/to/{address}/a.png"):
        assert open_image(address + path, allow_address=True).tobytes() == scene().tobytes()
    assert open_image(f"{address}/a.pdf#2", allow_address=True).size == (30, 20)
    assert "/a.pdf" in paths


@pytest.mark.parametrize("make", [str, Path])
def test_address_is_refused_otherwise(server, make):
    address, paths = server
    before = len(paths)
    with pytest.raises(ImageError, match="127.0.0.1.* is an address: download.*--allow-address") as error:
        open_image(make(f"{address}/a.png"))
    assert error.value.code == "unsupported" and len(paths) == before


def test_nothing_but_http_is_fetched_where_addresses_are_allowed(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    for address in (f"file://{tmp_path}/a.png", "ftp://127.0.0.1/a.png", "s3://bucket/a.png"):
        with pytest.raises(ImageError, match="is an address: download the image and pass its path"):
            open_image(address, allow_address=True)


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("/gone.png", "missing", "gone.png answers 404 Not Found: check the address"),
        ("/forbidden", "permission", "answers 403"),
        ("/page.html", "unsupported", "page.html cannot be read as an image"),
        ("/empty", "empty", "has no bytes"),
        ("/cut-off", "missing", "cannot be fetched .the last 990 bytes did not come"),
        ("/to/file:///etc/passwd", "missing", "file:///etc/passwd' is not allowed"),
        ("/to/ftp://127.0.0.1/a.png", "missing", "which is not http or https"),
        ("/to/data:image/png;base64,abc", "missing", "base64,abc' is not allowed"),
        ("/a.pdf#7", "missing", "a.pdf#7: the file has 2 pages"),
    ],
)
def test_what_is_no_image_is_refused_with_the_address(server, path, code, message):
    address, _ = server
    with pytest.raises(ImageError, match=message) as error:
        open_image(address + path, allow_address=True)
    assert error.value.code == code and address in str(error.value) and "\n" not in str(error.value)


def test_redirects_come_to_an_end(server):
    address, paths = server
    before = len(paths)
    with pytest.raises(ImageError, match="cannot be fetched|answers 302"):
        image_addresses.fetch(f"{address}/to/" * 30 + "a.png")
    assert len(paths) - before < 30


def test_endless_body_ends_at_the_limit_of_size(server):
    with pytest.raises(ImageError, match="sends more than 1,000,000 bytes") as error:
        image_addresses.fetch(f"{server[0]}/endless", max_bytes=1_000_000)
    assert error.value.code == "too-large"


@pytest.mark.parametrize("path", ["/slow", "/slow-headers", "/silent"])
def test_slow_server_ends_at_the_limit_of_time(server, path):
    start = time.monotonic()
    with pytest.raises(ImageError, match=r"within 0.3 s|cannot be fetched \(.*(timed out|TimeoutError)"):
        image_addresses.fetch(f"{server[0]}{path}", max_seconds=0.3)
    assert time.monotonic() - start < 15, "the server would go on for 20 seconds, or for ever"


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/a.png", "http:///a.png", "http:/a.png", "https://[::1", "http://a b/c"]
)
def test_address_without_a_server_is_refused(address):
    with pytest.raises(ImageError, match="cannot be fetched") as error:
        open_image(address, allow_address=True)
    assert error.value.code == "missing"


def test_secrets_of_an_address_are_not_repeated(server):
    address = server[0].replace("//", "//me:hunter22@")
    for allow in (True, False):
        with pytest.raises(ImageError) as error:
            open_image(f"{address}/gone.png?token=abcdefgh", allow_address=allow)
        assert "hunter22" not in str(error.value) and "abcdefgh" not in str(error.value)
