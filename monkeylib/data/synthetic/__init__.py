"""The nano world: images made in code, deterministic per seed, with complete ground truth (see
`data/README.md`)."""

from monkeylib.data.synthetic.samples import FAMILIES, Question, Sample, make_sample
from monkeylib.data.synthetic.splits import Asked, test_set

__all__ = ["FAMILIES", "Asked", "Question", "Sample", "make_sample", "test_set"]
