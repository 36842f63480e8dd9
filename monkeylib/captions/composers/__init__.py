"""The composers of the caption pipeline, by name. Importing this package loads no model, no heavy library."""

from monkeylib.captions.composers.base import Composer
from monkeylib.captions.composers.registry import COMPOSERS, load_composer, register_composer

__all__ = ["COMPOSERS", "Composer", "load_composer", "register_composer"]
