"""What `make test-browser` says where there is no Chromium."""

import os
import subprocess
import sys

import pytest

from monkeylib import resources


def test_skipped_tests_are_reported_aloud(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="`make test-browser` has it")
    environment = {name: value for name, value in os.environ.items() if name != "CHROMIUM"}
    environment |= {"PATH": str(tmp_path), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "tests/browser/test_demo.py"]
    completed = subprocess.run(
        command, cwd=resources.REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert "NOT TESTED IN A BROWSER" in completed.stdout
    assert "tests were skipped: there is no Chromium: install it" in completed.stdout
