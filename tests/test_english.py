"""Plurals, articles and lists of captions."""

import pytest

from monkeylib.english import as_sentence, join_with_and, with_count


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(" a dog ", "A dog."), ("Stop!", "Stop!"), ("why?", "Why?"), ("done.", "Done."), ("", ".")],
)
def test_sentence_has_a_capital_letter_and_an_end(text, sentence):
    assert as_sentence(text) == sentence


def test_lists_end_with_and():
    assert join_with_and(["a"]) == "a"
    assert join_with_and(["a", "b"]) == "a and b"
    assert join_with_and(["a", "b", "c"]) == "a, b and c"


@pytest.mark.parametrize(
    ("noun", "count", "phrase"),
    [
        ("dog", 1, "a dog"),
        ("apple", 1, "an apple"),
        ("Orange", 1, "an Orange"),
        ("skis", 1, "skis"),
        ("dog", 3, "three dogs"),
        ("dog", 7, "many dogs"),
        ("person", 2, "two people"),
        ("sheep", 2, "two sheep"),
        ("bus", 2, "two buses"),
        ("knife", 2, "two knives"),
        ("wine glass", 2, "two wine glasses"),
        ("toothbrush", 2, "two toothbrushes"),
        # These have an article or a number.
        ("a man with a hat", 2, "a man with a hat"),
        ("two dogs", 1, "two dogs"),
        ("3 dogs", 3, "3 dogs"),
    ],
)
def test_nouns_take_articles_and_numbers(noun, count, phrase):
    assert with_count(noun, count) == phrase
