"""GRIT (the paper's region captioner) in plain PyTorch.

An image goes through `vit`, `pyramid`, `proposals`, `cascade` and `decoder`; `model` joins them, `checkpoint`
loads the released weights, and `expert` makes it an expert of the caption pipeline.
"""

from monkeylib.captions.experts.grit.config import GritConfig
from monkeylib.captions.experts.grit.expert import GritRegions

__all__ = ["GritConfig", "GritRegions"]
