"""Statements that a second expert confirms."""

import pytest

from monkeylib.captions.annotations import Caption, Provenance
from monkeylib.captions.confirmation import Confirmation, count_confirmed
from tests.support.caption_records import record, region

DETECTOR = Provenance(expert="detector", version="1")
TAGGER = {"expert": "tagger", "version": "1"}
# A caption of a tag and of what the detector counted; segments with the same tagger.
WHOLE = Provenance(
    expert="whole", version="1", settings={"source": DETECTOR.model_dump(mode="json"), "tagger": TAGGER}
)
SEGMENTS = Provenance(expert="segments", version="1", settings={"describer": TAGGER})


def count(*captions, regions=(), original=""):
    whole = tuple(Caption(text=text, expert="whole") for text in captions)
    return count_confirmed(
        record(
            captions=whole, regions=regions, original_caption=original, provenance=(DETECTOR, WHOLE, SEGMENTS)
        )
    )


def test_second_expert_confirms_a_name_at_the_same_place():
    cat = region("cat", (0, 0, 40, 40), expert="detector")
    same = region("the black cats", (2, 2, 40, 40), expert="other")
    elsewhere = region("a cat", (60, 60, 90, 90), expert="other")

    assert count(regions=(cat, same)) == Confirmation(2, 2)
    assert count(regions=(cat, elsewhere)) == Confirmation(2, 0)
    assert count(regions=(cat, region("a dog", cat.box, expert="other"))) == Confirmation(2, 0)
    assert count("a picture of a tomcat", regions=(cat,)) == Confirmation(2, 2)
    # Two of one expert are no second opinion.
    assert count(regions=(cat, cat)) == Confirmation(2, 0)
    assert count() == Confirmation(0, 0) and count().share is None


@pytest.mark.parametrize(
    ("caption", "confirmed"),
    [
        ("a picture of an Egyptian cat", 2),  # the tagger's own word
        ("a picture of two cats", 0),  # the detector's, counted
        ("a picture of a sofa, with a cat", 0),
    ],
)
def test_what_a_caption_repeats_confirms_nothing(caption, confirmed):
    cats = region("cat", expert="detector")
    assert count(caption, regions=(cats,)).confirmed == confirmed


def test_experts_with_one_tagger_are_one():
    sofa = region("sofa", expert="segments", kind="segment")
    assert count("a picture of a sofa", regions=(sofa,)) == Confirmation(2, 0)
    assert count("a picture of a sofa", regions=(sofa,), original="my new sofa") == Confirmation(2, 2)
