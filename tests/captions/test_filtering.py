"""The filter: thresholds, small segments, repeated captions; grouping of the objects of several experts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib import boxes
from monkeylib.captions import experts, filtering
from monkeylib.captions.annotations import Caption
from tests.support.caption_records import boxes_within, line, record, region, regions


@given(st.lists(regions, max_size=8))
def test_suppression_retains_the_first_of_a_text_and_those_at_other_places(items):
    retained, repeated = filtering.suppress_same_caption(items, (1, 1))
    assert sorted(map(id, retained + repeated)) == sorted(map(id, items))

    # The first annotation of each text.
    first = {item.text: item for item in reversed(items)}
    assert all(any(item is k for k in retained) for item in first.values())
    for item in items:
        at_another_place = boxes.iou(first[item.text].box, item.box) < filtering.SAME_CAPTION_IOU
        assert any(item is k for k in retained) == (at_another_place or item is first[item.text])


@given(st.lists(regions, max_size=8), st.floats(0, 1))
def test_higher_threshold_keeps_no_more(items, limit):
    full_record = record(regions=items)
    for_all = filtering.Thresholds(region=0, same_caption=2)
    # Only the threshold of regions differs.
    stricter = for_all._replace(region=limit)
    loose, strict = (filtering.apply_filter(full_record, t) for t in (for_all, stricter))

    assert len(strict.regions) <= len(loose.regions)
    assert len(strict.regions) + len(strict.dropped) == len(items)


@given(st.lists(regions, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_only_segments_can_be_too_small(items, low, high):
    low, high = sorted((low, high))
    # Nothing but the size can drop a region.
    everything = filtering.Thresholds(region=-1, segment=-1, same_caption=2)
    segments = [item.model_copy(update={"kind": "segment"}) for item in items]
    full_record = record(regions=[*items, *segments])

    def apply(smallest):
        return filtering.apply_filter(full_record, everything, smallest_segment=smallest)

    assert set(items) <= set(apply(1).regions), "regions that are no segments pass, whatever their size"
    assert set(apply(high).regions) <= set(apply(low).regions) <= set(apply(0).regions)
    assert apply(0) == filtering.apply_filter(full_record, everything)
    for item in apply(low).regions:
        x0, y0, x1, y1 = boxes.normalise(item.box, (full_record.width, full_record.height))
        assert item.kind == "region" or (x1 - x0) * (y1 - y0) >= low

    assert len(apply(high).regions) + len(apply(high).dropped) == len(full_record.regions)


def test_small_segment_is_dropped_with_its_size():
    speck = region("clock", (0, 0, 10, 10), kind="segment")
    part = region("wall", (0, 0, 50, 40), kind="segment")
    filtered = filtering.Filter(smallest_segment=0.02)(record(regions=[speck, part]))

    assert filtered.regions == (part,)
    assert filtered.dropped[0].reason == "it covers 1.00% of the image, less than 2.00%"


def test_taggers_have_a_smallest_segment_and_the_paper_has_none():
    assert experts.smallest_segment("paper") == experts.smallest_segment(["sam-blip2", "pp-ocr"]) == 0
    limit = experts.smallest_segment(["pp-ocr", "tagged-segments"])
    assert experts.smallest_segment("demonstration") == limit > experts.smallest_segment("cpu") == 0
    assert "smallest_segment" not in filtering.Filter().provenance.settings
    assert filtering.Filter(smallest_segment=0.1).provenance.settings["smallest_segment"] == 0.1
    with pytest.raises(ValueError, match="covers 0 to 1 of the image, got 2"):
        filtering.Filter(smallest_segment=2)


def test_thresholds_are_the_released_ones_and_must_be_exceeded():
    filtered = filtering.apply_filter(
        record(
            regions=[region("a", score=0.4), region("b", score=0.41), region("c", score=0.45, kind="segment"),
                     region("d", score=0.9, match=0.4), region("e", score=0.1, match=0.51, kind="segment")],
            lines=[line("f", confidence=0.85), line("g", confidence=0.86)],
        )
    )  # fmt: skip

    assert [item.text for item in filtered.regions] == ["b", "e"] and [
        item.text for item in filtered.lines
    ] == ["g"]

    reasons = {item.text: item.reason for item in filtered.dropped}
    assert reasons == {
        "a": "score 0.40 is not above 0.4",
        "c": "score 0.45 is not above 0.5",
        "d": "match 0.40 is not above 0.4",
        "f": "confidence 0.85 is not above 0.85",
    }


class Detector(experts.Expert):
    """Has scores of its own, and names of a list."""

    name, version, licence = "detector", "1", "CC0-1.0"
    score_threshold, names_classes = 0.75, True

    def prepare(self):
        """Nothing to load."""

    def annotate(self, images):
        raise NotImplementedError


def test_threshold_belongs_to_the_kind_of_a_score():
    filters = filtering.Filter().for_experts([Detector()])
    weak, matched = (
        region("a", score=0.7, expert="detector"),
        region("b", score=0.7, expert="detector", match=0.5),
    )
    filtered = filters(record(regions=[weak, matched, region("c", (60, 60, 90, 90), score=0.7)]))

    # The release's threshold is one of matching scores; it serves for scores of which nothing is known.
    assert [item.text for item in filtered.regions] == ["b", "c"]
    assert filtered.dropped[0].reason == "score 0.70 is not above 0.75"
    settings = filters.provenance.settings
    assert settings["scores"] == {"detector": 0.75} and settings["class_experts"] == ["detector"]
    assert filtering.Filter().for_experts([]).provenance == filtering.Filter().provenance


def test_a_place_has_one_name_of_a_list_the_surest():
    bus, truck = (
        region("bus", expert="detector"),
        region("truck", (11, 10, 50, 60), score=0.8, expert="detector"),
    )
    elsewhere = region("truck", (60, 60, 90, 90), score=0.8, expert="detector")
    phrases = [region("a man"), region("a blue shirt")]
    filters = filtering.Filter().for_experts([Detector()])
    filtered = filters(record(regions=[truck, bus, elsewhere, *phrases]))

    # Phrases of one place may both be right.
    assert filtered.regions == (bus, elsewhere, *phrases)
    assert filtered.dropped[0].reason == "its place has a surer name: bus"


def test_a_lion_is_not_also_a_cat():
    tag = Caption(text="a picture of a lion", expert="detector", score=0.9)
    filters = filtering.Filter().for_experts([Detector()])

    def names(*captions, box=(0, 0, 95, 95), text="cat"):
        full_record = record(captions=captions, regions=[region(text, box, expert="detector")])
        return [item.text for item in filters(full_record).regions]

    assert names(tag) == [] and names() == ["cat"]
    assert names(tag, text="lion") == ["lion"] and names(tag, box=(0, 0, 30, 30)) == ["cat"]
    # A caption without a tag only counts regions, and another's is free text.
    assert names(tag.model_copy(update={"score": None})) == ["cat"]
    assert names(tag.model_copy(update={"expert": "blip2"})) == ["cat"]


@pytest.mark.parametrize(
    ("first", "second", "agree"),
    [("cat", "Egyptian cat", True), ("minibus", "bus", True), ("cat", "lion", False), ("ox", "fox", False)],
)
def test_names_agree_by_a_word_or_its_end(first, second, agree):
    assert filtering.names_agree(first, second) == filtering.names_agree(second, first) == agree


def test_released_iou_merges_two_people_side_by_side():
    people = record(regions=[region("person", (10, 10, 20, 30)), region("person", (30, 10, 40, 30))])
    assert len(filtering.apply_filter(people).regions) == 2

    # The released code adds 1 to sides that are fractions of the image, so that distant boxes overlap.
    released = filtering.apply_filter(people, overlap=boxes.released_iou)
    assert len(released.regions) == 1 and released.dropped[0].reason == "the same text was said of this place"


def test_repeated_line_is_retained_once():
    twice = record(lines=[line("STOP"), line("STOP"), line("STOP", (10, 70, 60, 80))])
    assert [item.box for item in filtering.apply_filter(twice).lines] == [(10, 10, 60, 20), (10, 70, 60, 80)]


# --- objects of several experts -------------------------------------------------------------------


competing_regions = st.builds(
    region,
    text=st.sampled_from(["cat", "a cat", "dog"]),
    box=boxes_within(16),
    score=st.sampled_from([0, 0.25, 0.5, 1]),
    expert=st.sampled_from("abc"),
    match=st.none() | st.just(0.5),
)


@given(st.lists(competing_regions, max_size=8))
def test_every_region_is_in_one_object_led_by_its_best_region(regions):
    groups = filtering.group_objects(regions)
    assert sorted(id(item) for group in groups for item in group) == sorted(map(id, regions))
    for group in groups:
        assert all(filtering.confidence(group[0]) >= filtering.confidence(item) for item in group)
        assert all(filtering.same_object(group[0], item) for item in group[1:])
        assert len({item.expert for item in group}) == len(group)

    # Groups are in the order of their best regions.
    leaders = [next(i for i, item in enumerate(regions) if item is group[0]) for group in groups]
    assert leaders == sorted(leaders)


@given(competing_regions, competing_regions)
def test_same_object_is_symmetric(first, second):
    assert filtering.same_object(first, second) == filtering.same_object(second, first)


def test_same_object_compares_places_and_names():
    cat = region(expert="a")
    assert filtering.same_object(cat, region("tabby", (11, 10, 50, 60), expert="b"))
    assert filtering.same_object(cat, region("the Cat", (15, 15, 30, 30), expert="b")), (
        "a part of the same name"
    )
    assert not filtering.same_object(cat, region("ear", (15, 15, 30, 30), expert="b")), (
        "a part of another name"
    )
    assert not filtering.same_object(cat, region("cat", (12, 10, 50, 60), expert="a")), (
        "an expert's own regions stay apart"
    )
    assert not filtering.same_object(cat, region("cat", (60, 10, 90, 60), expert="b"))
