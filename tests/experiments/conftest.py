"""Fixtures of the experiments' tests."""

import pytest


@pytest.fixture()
def outputs(monkeypatch, tmp_path):
    """An empty folder for everything that an experiment writes."""
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    return tmp_path
