"""Checks of captions: their length, coordinates, single letters, and grounding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.captions import checks
from monkeylib.captions.annotations import Caption, OcrLine, Record, Region
from monkeylib.captions.composers import rules


def box(number):
    """A small box, at another place for each number."""
    x, y = 31 * number % 90, 47 * number % 90
    return x, y, x + 9, y + 9


def record(text, captions=(), regions=(), lines=(), original="") -> Record:
    quad = ((0, 0), (9, 0), (9, 9), (0, 9))
    return Record(
        name="a", sha256="0" * 64, width=100, height=100, original_caption=original, detailed_caption=text,
        captions=[Caption(text=item, expert="c") for item in captions],
        regions=[Region(box=box(i), text=t, score=1, expert="r") for i, t in enumerate(regions)],
        lines=[OcrLine(quad=quad, text=item, confidence=1, expert="o") for item in lines],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("a cat", 1),
        ("A cat. A dog.", 2),
        ("Is it? Yes! So be it...", 3),
        ("It costs 3.50 euros.", 1),
        ("Mr. Smith met J. Doe, e.g. in St. Ives. They talked.", 2),
        ('The sign says "Stop. Look. Listen." and hangs low.', 1),
        ('The sign says "Stop. Look." It hangs low.', 1),  # the quotation ends no sentence
        ("one. two. three.", 3),
    ],
)
def test_sentences_are_counted(text, count):
    assert len(checks.split_sentences(text)) == count


@given(st.text(alphabet='ab .!?"x1', max_size=60))
def test_sentences_lose_nothing(text):
    assert "".join("".join(checks.split_sentences(text)).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A. " * 3 + "Cats are here. " * 6, "sentences, not fewer than 6"),
        ("A cat at [0.10, 0.20, 0.30, 0.40].", "coordinates: [0.10, 0.20, 0.30, 0.40]"),
        ("A cat at (12, 40) looks.", "coordinates: (12, 40)"),
        ("A cat at 0.1, 0.25 looks.", "coordinates: 0.1, 0.25"),
        ('The letter "A" is red.', 'a single letter: letter "A"'),
    ],
)
def test_broken_rules_are_named(text, problem):
    assert any(problem in message for message in checks.check_caption(record(text)).problems)


def test_quoted_numbers_and_envelopes_break_no_rule():
    text = 'The text reads "0.50, 0.60" and "(1, 2)". A letter in an envelope lies there, and a letterbox.'
    assert checks.check_caption(record(text)).problems == ()


def test_ungrounded_words_are_listed():
    captioned_record = record(
        'Two tabby cats sleep near an unicorn. The sign reads "STOP", and the sky is blue.',
        captions=["a cat sleeping on a sofa"], regions=["tabby cat", "tabby cat"], lines=["Stop"],
        original="Blue skies",
    )  # fmt: skip
    check = checks.check_caption(captioned_record)

    assert check.unsupported == ("unicorn", "sign")

    # Content words of the caption; grammar does not count.
    words = ["two", "tabby", "cats", "sleep", "unicorn", "sign", "STOP", "sky", "blue"]
    assert check.grounding == pytest.approx(1 - 2 / len(words))
    assert check.sentences == 2 and check.problems == ()

    marked = checks.mark_words(captioned_record.detailed_caption, check.unsupported)
    assert [part for part, is_marked in marked if is_marked] == ["unicorn", "sign"]
    assert "".join(part for part, _ in marked) == captioned_record.detailed_caption


def test_number_is_grounded_by_a_count_of_objects():
    for count, word in ((2, "two"), (3, "three")):
        caption = f"There are {word} dogs."
        assert checks.check_caption(record(caption, regions=["dog"] * count)).grounding == 1
        assert checks.check_caption(record(caption, regions=["dog"] * 5)).unsupported == (word,)


def test_caption_without_content_words_is_grounded():
    for text in ("", "It is here."):
        assert checks.check_caption(record(text)).grounding == 1


@pytest.mark.parametrize(
    ("words", "stem"),
    [
        (["cat", "cats"], "cat"),
        (["run", "running"], "run"),
        (["lie", "lies"], "lie"),
        (["box", "boxes"], "box"),
        (["glass", "glasses"], "glass"),
        (["person", "people"], "person"),
        (["house", "houses"], "hous"),
        (["knife", "knives"], "knif"),
        (["bake", "baking", "baked", "bakes"], "bak"),
        (["bus"], "bus"),
        (["fall", "falling"], "fall"),
        (["city", "cities"], "city"),
    ],
)
def test_forms_of_a_word_have_one_stem(words, stem):
    assert {checks.stem(word) for word in words} == {stem}


NAMES = ["cat", "dog", "traffic light", "a man with a red hat", "knife", "potted plant", "3 people"]
TEXTS = ["STOP", "12 km", "a", 'the "best" in town', "3.50", "0.1, 0.2", "line\nbreak"]
CAPTIONS = ["a room", "a street. with cars. and houses.", "Mr. Smith's dog", "", "  "]


@given(
    st.lists(st.sampled_from(NAMES), max_size=9),
    st.lists(st.sampled_from(TEXTS), max_size=4),
    st.lists(st.sampled_from(CAPTIONS), max_size=3),
    st.sampled_from(CAPTIONS),
)
def test_captions_of_the_rules_pass_every_check(regions, lines, captions, original):
    captioned_record = record("", captions, regions, lines, original)
    text = rules.RuleComposer().compose(captioned_record)
    check = checks.check_caption(captioned_record.model_copy(update={"detailed_caption": text}))

    assert (check.grounding, check.unsupported, check.problems) == (1, (), ())
    assert check.sentences <= checks.MAXIMUM_SENTENCES
