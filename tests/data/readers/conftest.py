"""A folder of data files."""

import pytest

from tests.support import record_files as files


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with an image, and with the caches."""
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))
    (tmp_path / "a.png").write_bytes(files.png())
    return tmp_path
