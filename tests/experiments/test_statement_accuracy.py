"""Right and wrong statements of experts on labelled photographs, and thresholds chosen on them."""

import pytest

from monkeylib import resources
from monkeylib.captions.annotations import Caption
from monkeylib.captions.experts import load_experts
from monkeylib.experiments import statement_accuracy
from monkeylib.experiments.statement_accuracy import LabelledObject, PhotographLabels, Statement
from tests.support.caption_records import line, record, region


def labels(**more):
    return PhotographLabels(**{"name": "a", "source": "p", "file": "a.jpg", "sha256": "0" * 64, **more})


def judge(full_record, **more):
    return [(item.text, item.right) for item in statement_accuracy.judge(full_record, labels(**more))]


def test_region_is_right_if_its_object_is_at_its_place_and_counts_once():
    cat = LabelledObject(names=("cat", "tabby"), box=(0.1, 0.1, 0.5, 0.6))
    boxes = [("cat", (10, 10, 50, 60)), ("tabby", (12, 10, 50, 60)), ("dog", (10, 10, 50, 60)),
             ("cat", (60, 60, 90, 90))]  # fmt: skip
    regions = [region(name, box, score=1 - number / 10) for number, (name, box) in enumerate(boxes)]

    assert judge(record(regions=regions), objects=[cat]) == [
        ("cat", True), ("tabby", False), ("dog", False), ("cat", False),
    ]  # fmt: skip
    # The surer of two is the right one; in a crowd, any number is.
    assert judge(record(regions=regions[1::-1]), objects=[cat])[0] == ("cat", True)
    crowd = cat.model_copy(update={"many": True})
    small = region("cat", (20, 20, 25, 25), score=0.1)
    assert all(right for _, right in judge(record(regions=[*regions[:2], small]), objects=[crowd]))


def test_each_expert_may_name_an_object():
    cat = LabelledObject(names=("cat",), box=(0.1, 0.1, 0.5, 0.6))
    place = (10, 10, 50, 60)
    by_others = [
        region("cat", place, score=0.9 - number / 10, kind=kind, expert=expert)
        for number, (kind, expert) in enumerate(
            [("region", "yolox-nano"), ("segment", statement_accuracy.SEGMENTS), ("region", "yolox-nano")]
        )
    ]
    assert [right for _, right in judge(record(regions=by_others), objects=[cat])] == [True, True, False]

    # What could not be decided about a segment may be clear about the whole image.
    full_record = record(captions=[Caption(text="cat", expert="tagger", score=0.5)], regions=by_others[1:2])
    assert judge(full_record, names=["cat"], unclear_segments=["cat"]) == [("cat", True)]


def test_tags_lines_and_unclear_statements():
    lines = [line(text) for text in ("no PARKING", "parking", "PARK", "5×500", "smudge")]
    full_record = record(captions=[Caption(text="alp", expert="tagger", score=0.5)], lines=lines)
    judged = judge(full_record, names=["alp"], texts=["No Parking today", "5x500"], unclear=["smudge"])

    assert judged == [
        ("alp", True), ("no PARKING", True), ("parking", True), ("PARK", False), ("5×500", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [
        ([(0.9, True), (0.8, True), (0.6, False), (0.3, True)], 0.6),
        ([(0.9, True)], 0.0),
        ([(0.9, False), (0.8, True)], 1.0),
        ([], 1.0),
    ],
)
def test_threshold_is_the_lowest_with_nearly_only_right_statements_above_it(scores, threshold):
    statements = [Statement("a", "e", "x", score, right) for score, right in scores]
    assert statement_accuracy.choose_threshold(statements) == threshold


def test_cross_fitted_thresholds_come_from_the_other_half():
    statements = [Statement("a", "e", "x", 0.6, False), Statement("b", "e", "x", 0.2, False)]
    statements += [Statement(name, "e", "x", 0.9, True) for name in "ab"]
    assert statement_accuracy.cross_fitted_thresholds(statements) == {("e", "a"): 0.2, ("e", "b"): 0.6}


def test_shipped_thresholds_and_tables_follow_from_the_committed_labels(monkeypatch, tmp_path):
    from monkeylib.captions.experts.tagger import tagged_images
    from monkeylib.captions.experts.yolox import YoloxRegions

    rows = statement_accuracy.count_statements(statement_accuracy.read_statements())
    after = {row["expert"]: row["threshold"] for row in rows if row["calibration"] == "after"}
    assert after["yolox-nano"] == YoloxRegions.score_threshold
    assert after["efficientnet-lite0"] == tagged_images().minimum

    # No threshold makes tags of segments right, so captions that are used have none.
    assert after[statement_accuracy.SEGMENTS] == 1
    assert statement_accuracy.SEGMENTS not in {expert.name for expert in load_experts("cpu")}

    # The committed tables are those of the committed labels.
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    committed = resources.REPOSITORY / "data" / "results" / "nano"
    for path in statement_accuracy.write_tables():
        assert path.is_relative_to(tmp_path) and path.read_bytes() == (committed / path.name).read_bytes()


def test_missing_photograph_is_named_with_its_package(tmp_path):
    (tmp_path / "other.png").write_bytes(b"no photograph")
    with pytest.raises(FileNotFoundError, match="64 of 64 photographs are not below .* of Debian opencv-doc"):
        statement_accuracy.find_photographs(tmp_path, statement_accuracy.read_labels())
