"""Penn Treebank tokens of captions; `test_foreign_scorers` compares thousands with those of pycocoevalcap."""

import json
import time
from pathlib import Path

import pytest

from monkeylib.evaluation.metrics import ptb
from tests.support.hostile_texts import HOSTILE_TEXTS

CAPTIONS = json.loads((Path(__file__).parents[2] / "goldens" / "captions.json").read_text())


@pytest.mark.parametrize("item", CAPTIONS["items"], ids=lambda item: f"set{item['id']}")
def test_tokens_equal_the_treebank_tokeniser(item):
    assert " ".join(ptb.tokenize_caption(item["hypothesis"])) == item["tokenized_hypothesis"]
    for reference, tokenised in zip(item["references"], item["tokenized_references"], strict=True):
        assert " ".join(ptb.tokenize_caption(reference)) == tokenised


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        # clitics and split words
        ("It's a dog's", "it 's a dog 's"), ("don't, can't", "do n't ca n't"),
        ("I cannot, gonna", "i can not gon na"),
        ("'tis rock 'n' roll", "'t is rock 'n' roll"), ("O'Brien's o'clock", "o'brien 's o'clock"),
        ("c'mon", "c'mon"),
        # abbreviations and initials
        ("No. 5", "no. 5"), ("says no.", "says no"), ("etc. vs. Ave. Ltd.", "etc. vs. ave. ltd."),
        ("J. K. Rowling, Ph.D.", "j. k. rowling ph.d."), ("Dr. Pepper", "dr. pepper"),
        ("John B. The end", "john b the end"),
        # numbers
        ("24/7 1/2 12/25/2010 2010-2011", "24/7 1/2 12/25/2010 2010-2011"),
        ("7th 100ml 4x4", "7th 100ml 4x4"),
        ("1-800-555-1234", "1-800-555-1234"), ("€20 £5 3¢ 5%", "$ 20 # 5 3 cents 5 %"), ("½ 1½", "1/2 1 1/2"),
        ("(555) 123-4567", "-lrb-555-rrb- 123-4567"), ("1 1/2 cups", "1 1/2 cups"), ("the '90s", "the '90s"),
        # signs and addresses
        ("“quoted” — yes…", "quoted yes"), ("a (b) [c] {d}", "a -lrb- b -rrb- -lsb- c -rsb- -lcb- d -rcb-"),
        ("&amp; &lt;", "& <"), ("#hashtag @user", "#hashtag @user"),
        ("www.a.com http://b.org/c?d", "www.a.com http://b.org/c?d"),
        ("AT&T C++ US$5", "at&t c++ us$ 5"), ("x-ray and/or e-mail", "x-ray and/or e-mail"),
        (":-) <br/>", ":--rrb- <br/>"),
        ("a 😀 dog", "a dog"), ("", ""), (" \n", ""), ("two\nlines", "two lines"),
        ("soft\u00adhyphen", "softhyphen"),
    ],
)  # fmt: skip
def test_words_of_every_kind_are_tokens_as_in_the_treebank(caption, tokens):
    assert " ".join(ptb.tokenize_caption(caption)) == tokens


@pytest.mark.parametrize(
    "text", [*HOSTILE_TEXTS, "a." * 5000, "<" * 20_000, "a-" * 9000, "http://" * 2000, "'" * 9000]
)
def test_hostile_text_is_tokenised_quickly(text):
    started = time.process_time()
    tokens = ptb.tokenize_caption(text)
    assert time.process_time() - started < 5
    assert all(token and token == token.lower() for token in tokens)
