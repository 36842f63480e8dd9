"""The nano tokenizer: characters for text in images, whole words for the words of questions and captions.

Reading copies characters, so words that are drawn in images are spelled. The fixed words of prompts,
questions and captions never occur in a drawn text; they are one token each, with or without a blank before
them.
"""

from __future__ import annotations

import string

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from monkeylib.data.synthetic.documents import KINDS
from monkeylib.data.synthetic.scenes import COLOURS, NUMBERS, OBJECTS
from monkeylib.prompts import IMAGE_TOKENS

SPECIALS = ("<|endoftext|>", *IMAGE_TOKENS, "<unk>")
CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation + " "
WORDS = (
    *"what is the how much many are there where colour does sign say says written at of value shop".split(),
    *"this title which highest lowest generate caption detailed in english answer photograph a an on".split(),
    *"and with lines titled left right top bottom read all text boxes crosses".split(),
    *"zero one two three four five".split(),
    *COLOURS,
    *OBJECTS,
    *(f"{name}s" for name in OBJECTS),
    *KINDS,
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a fast tokenizer of about 250 tokens.

    Upper case is folded, and characters outside ASCII become `<unk>`.
    """
    # Single letters such as "a" are tokens already, among the characters; " a" is one more.
    words = sorted(set(WORDS) | {word for word in NUMBERS if len(word) > 1})
    tokens = [*SPECIALS, *CHARACTERS, *(word for word in words if len(word) > 1), *(f" {w}" for w in words)]

    # Split into a word with the blank before it, a word without one, or else a single character. Words stand
    # alone: no letter or digit may follow or precede them. Longer words are tried first.
    choice = "|".join(sorted(words, key=len, reverse=True))
    pattern = rf" (?:{choice})(?![a-z0-9])|(?<![a-z0-9])(?:{choice})(?![a-z0-9])|[\s\S]"

    ids = {token: id for id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=list(IMAGE_TOKENS),
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
