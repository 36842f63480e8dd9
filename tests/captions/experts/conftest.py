"""Tiny weights in place of those of the paper's experts."""

import pytest

from monkeylib.captions.experts import pretrained
from tests.support import tiny_experts


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """A folder with tiny weights of each of the paper's experts."""
    root = tmp_path_factory.mktemp("weights")
    tiny_experts.blip2(root)
    tiny_experts.blip2_itm(root)
    tiny_experts.sam(root)
    tiny_experts.grit(root)
    tiny_experts.florence2(root, tiny_experts.PLAIN, tiny_experts.ANSWERS)
    return root


@pytest.fixture
def tiny(tiny_weights, monkeypatch):
    """Let experts load tiny weights."""
    tiny_experts.use_tiny_grit(monkeypatch, tiny_weights)
    monkeypatch.setenv(pretrained.WEIGHTS, str(tiny_weights))
    return tiny_weights
