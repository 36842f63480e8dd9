"""Descriptions of composite scenes at each level, and their scores."""

import numpy as np
import pytest

from monkeylib import resources
from monkeylib.captions.annotations import Caption, ExpertOutput, Mask, OcrLine, Record, Region
from monkeylib.captions.experts import Expert
from monkeylib.captions.record_files import read_records
from monkeylib.data.synthetic import collages
from monkeylib.experiments import description_levels


@pytest.fixture(scope="module")
def scenes():
    return [collages.make_composite_scene(seed) for seed in range(6)]


def _annotate(scene: collages.CompositeScene) -> Record:
    """Return correct annotations of a scene, and wrong ones with lower scores."""

    def region(name, box, kind, score):
        return Region(box=box, text=name, score=score, expert="e", kind=kind)

    regions = [region(placed.photograph.name, placed.box, "region", 0.9) for placed in scene.photographs]

    # Wrong names, which the filter should drop.
    regions += [region("violin", scene.photographs[0].box, "region", 0.2)]
    regions += [region("oboe", scene.photographs[1].box, "segment", 0.3)]

    quad = ((0.0, 0.0), (50.0, 0.0), (50.0, 9.0), (0.0, 9.0))
    lines = [OcrLine(quad=quad, text=text, confidence=0.99, expert="ocr") for text in scene.texts]
    lines += [OcrLine(quad=quad, text="XQZZ", confidence=0.4, expert="ocr")]

    return Record(
        name=scene.name,
        sha256="0" * 64,
        width=collages.SIZE[0],
        height=collages.SIZE[1],
        original_caption=scene.original_caption,
        captions=(Caption(text=f"a picture of a {scene.photographs[0].photograph.name}", expert="tag"),),
        regions=tuple(regions),
        lines=tuple(lines),
    )


def _values(rows):
    return {(row["level"], row["filter"], row["metric"]): row["value"] for row in rows}


def test_recall_grows_with_every_level_and_filtering_raises_precision(scenes):
    records = [_annotate(scene) for scene in scenes]
    rows = description_levels.score_levels(scenes, records)

    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)

    at = _values(rows)
    recalls = [at[level, "none", "object recall"] for level in description_levels.LEVELS]
    assert recalls == sorted(recalls) and recalls[0] < 1 and recalls[-1] == 1

    # Each scene has a wrong region and a wrong segment, both with low scores.
    assert at["+ regions", "none", "object precision"] < 1
    assert at["+ regions", "none", "hallucinating"] == 1
    assert at["+ regions", "scores", "object precision"] == 1
    assert at["+ segments", "none", "object precision"] < at["+ regions", "none", "object precision"]

    assert at["+ texts", "scores", "text recall"] == at["+ texts", "scores", "text precision"] == 1
    assert at["+ texts", "none", "text precision"] < 1 and at["+ segments", "none", "text recall"] == 0

    # Nothing is quoted before the level of texts.
    assert ("+ segments", "none", "text precision") not in at

    # Filtered, a complete description is correct and nearer to the references than the original caption.
    assert at["+ texts", "scores", "hallucinating"] == 0
    assert at["+ texts", "scores", "CIDEr-D"] > at["original", "scores", "CIDEr-D"]


def test_filters_use_scores_and_the_size_of_segments():
    regions = (
        Region(box=(0, 0, 9, 9), text="cat", score=0.9, expert="e"),
        Region(box=(20, 0, 29, 9), text="dog", score=0.1, expert="e"),
        Region(box=(0, 20, 3, 23), text="gong", score=0.9, expert="e", kind="segment"),
    )
    record = Record(name="a", sha256="0" * 64, width=30, height=30, regions=regions)
    texts = {
        name: [region.text for region in description_levels.apply_filter(record, name).regions]
        for name in description_levels.FILTERS
    }

    # The dog has a low score, the gong is too small.
    assert texts == {"none": ["cat", "dog", "gong"], "scores": ["cat", "gong"], "scores and size": ["cat"]}


def test_mentions_are_full_words_outside_of_quotations_the_longest_first():
    words = {"cat": "cat", "cats": "cat", "tiger cat": "tiger cat", "bus": "bus", "people": "person"}
    text = 'Two cats and a tiger cat, but no concatenation. Three people. The text reads "bus stop".'

    assert description_levels.find_mentions(text, words) == {"cat", "tiger cat", "person"}
    assert description_levels.count_quoted_words('The text reads "Bus stop" and "stop".') == {
        "bus": 1,
        "stop": 2,
    }


def test_vocabulary_has_the_names_of_annotations_and_ground_truth(scenes):
    record = _annotate(scenes[0]).model_copy(
        update={
            "captions": (Caption(text="a picture of a red fox, with two people and an oboe", expert="t"),)
        }
    )
    words = description_levels.build_vocabulary([record])

    assert {"violin", "oboe", "red fox", "astronaut", "coins"} <= set(words.values())
    assert words["violins"] == "violin" and words["people"] == "person"


class UnsureExpert(Expert):
    """Annotates one region with a mask and a low score."""

    name, version, licence = "unsure", "1", "CC0-1.0"

    def prepare(self):
        pass

    def annotate(self, images):
        mask = Mask.from_array(np.ones(collages.SIZE[::-1], dtype=bool))
        return [
            ExpertOutput(
                regions=(
                    Region(
                        box=(0, 0, 9, 9), text="cat", score=0.1, expert="unsure", kind="segment", mask=mask
                    ),
                )
            )
            for _ in images
        ]


def test_annotations_are_unfiltered_and_without_masks(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(description_levels, "load_experts", lambda names: [UnsureExpert()])
    records = description_levels.annotate(scenes[:3], tmp_path)

    assert [record.name for record in records] == [scene.name for scene in scenes[:3]]
    for record, scene in zip(records, scenes, strict=False):
        (region,) = record.regions
        assert (region.text, region.match, region.mask) == ("cat", None, None) and not record.dropped
        assert record.original_caption == scene.original_caption and record.detailed_caption == ""
        assert "unsure" in {source.expert for source in record.provenance}


@pytest.mark.skipif(not description_levels.record_path().is_file(), reason="no records are committed")
def test_committed_records_are_of_these_scenes_and_name_their_experts():
    records = list(read_records(description_levels.record_path()))
    assert [record.name for record in records] == [
        collages.make_composite_scene(seed).name for seed in range(len(records))
    ]
    for record in records:
        assert not record.failures and not record.dropped and record.provenance
        assert all(region.mask is None for region in record.regions)
        assert {"yolox-nano", "pp-ocr"} <= {source.expert for source in record.provenance}

    assert description_levels.record_path().stat().st_size < 300_000
    assert description_levels.record_path().is_relative_to(resources.REPOSITORY)
