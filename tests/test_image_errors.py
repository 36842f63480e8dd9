"""Errors of images, which carry a code and cross processes."""

import pickle

import pytest

from monkeylib.image_errors import ImageError, MissingImageError, truncated


@pytest.mark.parametrize("kind", [ImageError, MissingImageError])
def test_error_keeps_its_code_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("missing", "there is no a.png")))
    assert type(error) is kind and error.code == "missing" and str(error) == "there is no a.png"
    assert isinstance(error, ValueError)


def test_missing_image_is_a_missing_file():
    assert issubclass(MissingImageError, FileNotFoundError)


def test_damage_is_told_in_one_line():
    error = truncated("a.png", OSError("broken\ndata " + "x" * 500))
    assert error.code == "truncated" and "\n" not in str(error) and len(str(error)) < 400
    assert str(error).startswith("a.png cannot be read as an image (broken data xxx")
    assert "(OSError)" in str(truncated("a.png", OSError()))
