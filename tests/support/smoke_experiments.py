"""The smoke profile with as little training and as few questions as possible."""

from monkeylib import profiles
from monkeylib.profiles import Profile

COUNTS = {"fine": 2, "large": 1, "general": 2, "caption": 2}


def smallest_profile() -> Profile:
    """Return the smoke profile with one training step and a few questions."""
    smoke = profiles.load_profile("smoke")
    return smoke.model_copy(
        update={
            "training": smoke.training.model_copy(update={"steps": 1}),
            "evaluation": smoke.evaluation.model_copy(update={"counts": COUNTS}),
            "ablation": smoke.ablation.model_copy(update={"counts": COUNTS, "steps": 1}),
        }
    )
