"""The caption pipeline on one image."""

import pytest
from PIL import Image

from monkeylib.captions import registry
from monkeylib.captions.annotations import Record, Region
from monkeylib.captions.filtering import Filter
from monkeylib.explore.caption_stages import (
    available_experts,
    filter_again,
    filter_of,
    movable_thresholds,
    move_thresholds,
    run_stages,
)
from monkeylib.explore.widgets.captions import caption_rows
from tests.support.caption_models import Colours, Halves


def test_stages_add_to_the_record_and_the_filter_can_move():
    image = Image.new("RGB", (40, 30), "red")
    experts = [Colours(), Halves()]
    results = list(run_stages(image, experts))
    assert [len(result.record.regions) for result in results[:-1]] == [1, 3]

    unfiltered, last = results[-2].record, results[-1].record
    assert not unfiltered.detailed_caption and last.detailed_caption
    assert (last.width, last.height) == image.size
    filters = filter_of(experts)
    assert filter_again(unfiltered, filters) == last
    assert movable_thresholds(unfiltered, filters) == {"region": 0.4, "segment": 0.5, "same_caption": 0.6}

    lowest = filter_again(unfiltered, move_thresholds(filters, {"region": 0, "segment": 0}))
    highest = filter_again(unfiltered, move_thresholds(filters, {"region": 1, "segment": 1}))
    assert len(lowest.dropped) < len(highest.dropped)
    with pytest.raises(ValueError, match="no threshold called 'score'"):
        move_thresholds(filters, {"score": 0.5})


def test_the_filter_is_that_of_the_experts():
    # As for the set `demonstration`: thresholds of own scores, names of one place, size of segments.
    filters = filter_of(["yolox", "tagged-segments"])
    assert filters.smallest_segment == registry.smallest_segment("demonstration") > 0
    assert filters.scores["yolox-nano"] == 0.75 and len(filters.class_experts) == 2

    # A set's name stands for all of its experts.
    assert filter_of(["demonstration"]) == filter_of(registry.expert_sets()["demonstration"])
    assert filter_of("demonstration") == filter_of(["yolox", "demonstration"])  # each expert once
    assert filter_of(["demonstration"]).smallest_segment == filters.smallest_segment
    assert len(filter_of(["demonstration"]).class_experts) >= 2

    region = Region(box=(0, 0, 9, 9), text="clock", score=0.7, expert="yolox-nano")
    record = Record(name="x", sha256="0" * 64, width=30, height=30, regions=(region,))
    assert movable_thresholds(record, filters) == {"yolox-nano": 0.75, "same_caption": 0.6}
    assert not filter_again(record, filters).regions
    assert filter_again(record, move_thresholds(filters, {"yolox-nano": 0.6})).regions == (region,)
    assert not filter_again(record, Filter(scores={"yolox-nano": 0.8})).regions


def test_stage_that_fails_is_told_of(monkeypatch):
    def fail(expert, images):
        raise RuntimeError("the model is broken")

    monkeypatch.setattr(Halves, "annotate", fail)
    *_, last = run_stages(Image.new("RGB", (40, 30), "red"), [Colours(), Halves()])
    assert "the model is broken" in dict(caption_rows(last.record))["failures"]


def test_only_experts_whose_files_are_here_are_offered(monkeypatch):
    monkeypatch.setattr(registry, "missing_assets", lambda name: ["x"] if name == "yolox" else [])
    assert "yolox" not in available_experts() and "pp-ocr" in available_experts()
    assert "tagged-segments" in available_experts("demonstration")
    with pytest.raises(ValueError, match="no set called 'all': choose one of cpu, demonstration"):
        available_experts("all")
