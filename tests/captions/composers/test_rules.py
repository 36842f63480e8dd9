"""Captions in fixed sentences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib import boxes
from monkeylib.captions.annotations import Caption
from monkeylib.captions.composers import rules
from tests.support.caption_records import line, record, region, regions


def test_rules_name_every_annotation_and_its_place():
    text = rules.RuleComposer().compose(
        record(
            captions=[Caption(text="a room", expert="c")],
            original_caption="my two cats.",
            regions=[
                region("cat", (0, 40, 30, 60)),
                region("cat", (70, 40, 95, 60)),
                region("vase", (40, 0, 60, 20)),
            ],
            lines=[line("two", (60, 70, 90, 80)), line("one", (10, 70, 50, 80)), line("x", (10, 90, 20, 99))],
        )
    )
    assert text == (
        "A room. My two cats. The picture shows two cats on the left and on the right; a vase at the top. "
        'The text reads "one" and "two".'
    )


@pytest.mark.parametrize(
    ("regions", "relation"),
    [
        (
            [region("cat", (0, 0, 40, 40)), region("vase", (70, 10, 95, 30))],
            " The cat is to the left of the vase.",
        ),
        ([region("vase", (10, 70, 30, 90)), region("cat", (0, 0, 40, 40))], " The cat is above the vase."),
        ([region("cat", (0, 0, 40, 40)), region("vase", (10, 10, 30, 30))], ""),
        ([region("cat", (0, 0, 40, 40)), region("cat", (50, 0, 90, 40)), region("vase", (0, 80, 9, 99))], ""),
    ],
)
def test_rules_relate_the_two_largest_objects(regions, relation):
    text = rules.RuleComposer().compose(record(regions=regions))
    assert text.startswith("The picture shows") and text.partition(".")[2] == relation


def test_record_without_annotations_has_no_caption():
    assert rules.RuleComposer().compose(record()) == ""


@given(st.lists(regions, max_size=8), st.lists(st.sampled_from(["STOP", "12 km", "a"]), max_size=4))
def test_caption_is_short_grounded_and_without_coordinates(regions, texts):
    lines = [line(text, (5, 5 + 20 * i, 50, 15 + 20 * i)) for i, text in enumerate(texts)]
    full_record = record(regions=regions, lines=lines)
    text = rules.RuleComposer().compose(full_record)

    assert text.count(". ") + text.endswith(".") <= 5
    assert "[" not in text and "(" not in text
    for name in ("cat", "dog"):
        assert (name in text) == any(item.text == name for item in regions)
    assert ("STOP" in text) == ("STOP" in texts)
    assert rules.RuleComposer().compose(full_record) == text


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0, 0, 20, 20), "at the top left"), ((40, 40, 60, 60), "in the centre"),
        ((80, 40, 100, 60), "on the right"), ((40, 90, 60, 100), "at the bottom"),
        ((5, 5, 95, 95), "filling most of the picture"), ((99, 99, 100, 100), "at the bottom right"),
    ],
)  # fmt: skip
def test_places_in_words(box, words):
    fractions = boxes.normalise(box, (100, 100))
    assert rules.describe_place(boxes.center(fractions), boxes.area(fractions)) == words


def test_rules_quote_texts_and_cut_long_captions():
    captioned_record = record(
        original_caption="One. Two. Three. Four.",
        captions=[Caption(text="a. b. c.", expert="c")],
        lines=[line('the "best"')],
        regions=[region()],
    )
    text = rules.RuleComposer().compose(captioned_record)
    # Two sentences of each caption, as long as there are fewer than six in all.
    assert text == "A. B. One. The picture shows a cat on the left. The text reads \"the 'best'\"."


def test_rules_name_an_object_once_by_its_best_name():
    # Two experts name one object; the matcher prefers "cat".
    experts_regions = [
        region("animal", (0, 0, 40, 40), score=0.99, match=0.5, expert="seer"),
        region("cat", (1, 0, 40, 40), score=0.3, match=0.8, expert="cutter"),
        region("vase", (70, 70, 95, 95), expert="seer"),
    ]
    text = rules.RuleComposer().compose(record(regions=experts_regions))

    assert text.startswith("The picture shows a cat at the top left; a vase at the bottom right.")
    assert "animal" not in text
