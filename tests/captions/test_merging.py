"""What several experts say of one object is one object."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeylib import boxes
from monkeylib.captions import filtering
from monkeylib.captions.annotations import Record, Region
from monkeylib.captions.composers import rules


def region(text="cat", box=(10, 10, 50, 60), score=0.9, expert="a", **more) -> Region:
    return Region(text=text, box=box, score=score, expert=expert, **more)


@st.composite
def some_box(draw):
    x0, y0 = draw(st.integers(0, 12)), draw(st.integers(0, 12))
    return x0, y0, draw(st.integers(x0 + 1, 16)), draw(st.integers(y0 + 1, 16))


found = st.builds(
    region,
    text=st.sampled_from(["cat", "a cat", "dog"]),
    box=some_box(),
    score=st.sampled_from([0, 0.25, 0.5, 1]),
    expert=st.sampled_from("abc"),
    match=st.none() | st.just(0.5),
)


@given(st.lists(found, max_size=8))
def test_every_region_is_in_one_object_that_its_best_one_leads(regions):
    groups = filtering.group_objects(regions)
    assert sorted(id(item) for group in groups for item in group) == sorted(map(id, regions))
    for group in groups:
        assert all(filtering.confidence(group[0]) >= filtering.confidence(item) for item in group)
        assert all(filtering.same_object(group[0], item) for item in group[1:])
        assert len({item.expert for item in group}) == len(group)
    leaders = [next(i for i, item in enumerate(regions) if item is group[0]) for group in groups]
    assert leaders == sorted(leaders)


@given(found, found)
def test_sameness_is_mutual(first, second):
    assert filtering.same_object(first, second) == filtering.same_object(second, first)


@given(some_box(), some_box())
def test_the_shared_part_is_that_of_common_cells(first, second):
    cells = [{(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])} for b in (first, second)]
    expected = len(cells[0] & cells[1]) / min(map(len, cells))
    assert boxes.overlap_of_smaller(first, second) == pytest.approx(expected)


def test_what_is_one_object():
    cat = region()
    assert filtering.same_object(cat, region("tabby", (11, 10, 50, 60), expert="b"))
    assert filtering.same_object(cat, region("the Cat", (15, 15, 30, 30), expert="b")), (
        "a part of the same name"
    )
    assert not filtering.same_object(cat, region("ear", (15, 15, 30, 30), expert="b")), (
        "a part of another name"
    )
    assert not filtering.same_object(cat, region("cat", (12, 10, 50, 60))), (
        "an expert's own regions stay apart"
    )
    assert not filtering.same_object(cat, region("cat", (60, 10, 90, 60), expert="b"))


def test_the_rules_name_an_object_once_by_its_best_name():
    regions = [
        region("animal", (0, 0, 40, 40), score=0.99, match=0.5, expert="seer"),
        region("cat", (1, 0, 40, 40), score=0.3, match=0.8, expert="cutter"),
        region("vase", (70, 70, 95, 95), expert="seer"),
    ]
    record = Record(name="a", sha256="0" * 64, width=100, height=100, regions=regions)
    text = rules.RuleComposer().compose(record)
    assert text.startswith("The picture shows a cat at the top left; a vase at the bottom right.")
    assert "animal" not in text
