"""Errors of images keep their code, and say what is wrong on one line."""

import pickle

import pytest

from monkeylib.image_errors import ImageError, MissingImageError, truncated


@pytest.mark.parametrize("kind", [ImageError, MissingImageError])
def test_errors_pass_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("empty", "a.png is an empty file")))
    assert type(error) is kind and isinstance(error, ValueError)
    assert (error.code, str(error)) == ("empty", "a.png is an empty file")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("broken\n  data stream"), "(broken data stream)"),
        (EOFError(), "(EOFError)"),
        (ValueError("x" * 900), f"({'x' * 200})"),
    ],
)
def test_reason_of_a_decoder_is_one_short_line(error, reason):
    refusal = truncated("a.png", error)
    assert refusal.code == "truncated" and str(refusal).startswith(
        f"a.png cannot be read as an image {reason}"
    )
