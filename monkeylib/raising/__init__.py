"""Monkey for any vision-language model of transformers: more pixels by tiles, a global view and per-tile
LoRA."""

from monkeylib.raising.check import RaisingCheck, check_raising
from monkeylib.raising.collator import ConversationCollator
from monkeylib.raising.costs import RaisingCosts, raising_costs
from monkeylib.raising.parts import set_trainable
from monkeylib.raising.raised import Raised, load_raised, raise_resolution

__all__ = [
    "ConversationCollator",
    "Raised",
    "RaisingCheck",
    "RaisingCosts",
    "check_raising",
    "load_raised",
    "raise_resolution",
    "raising_costs",
    "set_trainable",
]
