"""The nano world: images made in code, deterministic per seed, with complete ground truth (see
`data/README.md`)."""

from .samples import FAMILIES, Question, Sample, make_sample
from .splits import Asked, test_set

__all__ = ["FAMILIES", "Asked", "Question", "Sample", "make_sample", "test_set"]
