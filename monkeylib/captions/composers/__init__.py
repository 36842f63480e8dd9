"""The composers of the caption pipeline, by name. Importing this package loads no model, no heavy library."""

from monkeylib.captions.models import Composer
from monkeylib.captions.registry import COMPOSERS, load_composer, register_composer

__all__ = ["COMPOSERS", "Composer", "load_composer", "register_composer"]
