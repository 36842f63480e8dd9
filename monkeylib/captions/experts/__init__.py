"""The experts of the caption pipeline, by name. Importing this package loads no model, no heavy library."""

from monkeylib.captions.models import (
    DependentExpert,
    Expert,
    ImageTextMatcher,
    Model,
    RegionCaptioner,
)
from monkeylib.captions.registry import (
    EXPERTS,
    MATCHERS,
    ExpertEntry,
    MatcherEntry,
    expert_names,
    expert_sets,
    load_experts,
    load_matcher,
    missing_assets,
    register_expert,
    register_matcher,
    smallest_segment,
)

__all__ = [
    "EXPERTS",
    "MATCHERS",
    "DependentExpert",
    "Expert",
    "ExpertEntry",
    "ImageTextMatcher",
    "MatcherEntry",
    "Model",
    "RegionCaptioner",
    "expert_names",
    "expert_sets",
    "load_experts",
    "load_matcher",
    "missing_assets",
    "register_expert",
    "register_matcher",
    "smallest_segment",
]
