"""The public sets of the paper's Table 1: from their official downloads to records.

Each set says where its files come from, under which licence, and how they are laid out. The downloads
themselves were not at hand: names of files and fields were checked against public code that reads them, and
what could not be checked, above all licences, is said in the set's `unverified`. Images are not copied: the
records name them as they are named in the set's folder of images.
"""

from monkeylib.data.public import captions, documents, questions, text
from monkeylib.data.public.convert import Conversion, PublicSet, convert
from monkeylib.errors import choose

SETS: dict[str, PublicSet] = {
    entry.name: entry for module in (captions, questions, text, documents) for entry in module.SETS
}

__all__ = ["SETS", "Conversion", "PublicSet", "convert", "find"]


def find(name: str) -> PublicSet:
    """The set of that name.

    Raises:
        ValueError: there is none.
    """
    choose("public set", name, SETS)
    return SETS[name]
