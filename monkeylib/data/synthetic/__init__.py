"""Synthetic data of the nano profile: rendered images with complete ground truth, deterministic per seed.

See `data/README.md` for its contents and for how its splits are kept disjoint.
"""

from monkeylib.data.synthetic.samples import (
    FAMILIES,
    Question,
    Sample,
    TestQuestion,
    make_sample,
    make_test_set,
)

__all__ = ["FAMILIES", "Question", "Sample", "TestQuestion", "make_sample", "make_test_set"]
