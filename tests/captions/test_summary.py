"""Statistics of a run, as a sentence and as rows."""

from dataclasses import replace

from monkeylib.captions.pipeline import Pipeline
from monkeylib.captions.stages import StageStatistics
from monkeylib.captions.summary import Summary, add_up
from tests.support.caption_models import Billed, Colours

SUMMARY = Summary(
    records=9,
    described=4,
    undescribed=3,
    failed=2,
    pending=0,
    shards=2,
    already=1,
    seconds=3.0,
    stages=(
        StageStatistics("colours", computed=6, cached=3, failed=2, seconds=1.26),
        StageStatistics("billed", cost=0.0123456),
    ),
)


def test_sentence_counts_the_images():
    assert SUMMARY.sentence() == "9 images: 4 described, 3 without a description, 2 failed."


def test_row_of_a_stage_has_its_speed_and_cost():
    row = {"stage": "colours", "computed": 6, "cached": 3, "failed": 2, "seconds": 1.3, "images/s": 4.76}
    assert SUMMARY.rows()[0] == row | {"US$": 0}
    assert SUMMARY.rows()[1]["US$"] == 0.0123 and SUMMARY.cost == 0.0123456


def test_images_that_are_tried_again_are_told():
    summary = replace(SUMMARY, records=1, described=0, undescribed=0, failed=1, pending=1)
    failed = "1 failed, of which 1 are tried again by the next run."
    assert summary.sentence() == f"1 image: 0 described, 0 without a description, {failed}"


def test_statistics_of_shards_are_added_up_stage_by_stage(tmp_path):
    stages = Pipeline([Colours()], composer=Billed()).stages(tmp_path)
    runs = [
        [StageStatistics("colours", computed=2, seconds=1.0), StageStatistics("billed", cost=0.5)],
        [StageStatistics("colours", computed=3, failed=1, seconds=0.5)],
    ]
    colours, billed = add_up(stages, runs)
    assert (colours.computed, colours.failed, colours.seconds) == (5, 1, 1.5)
    assert billed == StageStatistics("billed", cost=0.5)
    assert add_up(stages, []) == (StageStatistics("colours"), StageStatistics("billed"))
