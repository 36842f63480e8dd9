"""Monkey for any vision-language model of transformers: more pixels by tiles, a global view and per-tile
LoRA."""

from monkeylib.raising.check import RaisingCheck, check_raising
from monkeylib.raising.collator import ConversationCollator
from monkeylib.raising.parts import set_trainable
from monkeylib.raising.raised import Raised, load_raised, raise_resolution

__all__ = [
    "ConversationCollator",
    "Raised",
    "RaisingCheck",
    "check_raising",
    "load_raised",
    "raise_resolution",
    "set_trainable",
]
