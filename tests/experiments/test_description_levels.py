"""Composite scenes, their descriptions at each level, and the scores of these."""

import numpy as np
import pytest

from monkeylib import resources
from monkeylib.captions.annotations import Caption, ExpertOutput, Mask, OcrLine, Record, Region
from monkeylib.captions.experts import Expert
from monkeylib.captions.record_files import read_records
from monkeylib.data.synthetic import collages
from monkeylib.experiments import description_levels
from monkeylib.plots.captions import colour_segments, draw_levels, draw_segments


@pytest.fixture(scope="module")
def scenes():
    return [collages.make_composite_scene(seed) for seed in range(6)]


def annotations_of(scene: collages.CompositeScene) -> Record:
    """Return correct annotations of a scene, and wrong ones with lower scores."""

    def region(name, box, kind, score):
        return Region(box=box, text=name, score=score, expert="e", kind=kind)

    regions = [region(placed.photograph.name, placed.box, "region", 0.9) for placed in scene.photographs]
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


def values(rows):
    return {(row["level"], row["filter"], row["metric"]): row["value"] for row in rows}


def test_scene_is_deterministic_and_contains_its_ground_truth(scenes):
    for scene in scenes:
        again = collages.make_composite_scene(int(scene.name.removeprefix("scene-")))
        assert again.image.tobytes() == scene.image.tobytes() and again.references == scene.references
        assert (
            scene.image.size == collages.SIZE
            and 2 <= len(scene.photographs) <= 3
            and 1 <= len(scene.texts) <= 2
        )
        for placed in scene.photographs:
            x0, y0, x1, y1 = placed.box
            assert 0 <= x0 < x1 <= collages.SIZE[0] and 0 <= y0 < y1 <= collages.SIZE[1]
            assert (
                placed.photograph.name in scene.references[0] and placed.photograph.name in scene.true_words
            )
        assert all(text in scene.references[1] for text in scene.texts)
        boxes = [placed.box for placed in scene.photographs]
        for first, second in zip(boxes, boxes[1:], strict=False):
            assert min(first[2], second[2]) <= max(first[0], second[0]) or min(first[3], second[3]) <= max(
                first[1], second[1]
            )
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_photograph_lies_in_its_box(scenes):
    folder = collages.assets.fetch(collages.ASSET)
    placed = scenes[0].photographs[0]
    box = tuple(int(side) for side in placed.box)
    shown = np.asarray(scenes[0].image.crop(box), dtype=float)
    source = collages._open(folder, placed.photograph.file)
    source.thumbnail((box[2] - box[0] + 1, box[3] - box[1] + 1))
    expected = np.asarray(source.resize(shown.shape[1::-1]), dtype=float)
    assert min(np.abs(shown - expected).mean(), np.abs(shown - expected[:, ::-1]).mean()) < 12


def test_recall_grows_with_every_level_and_filtering_raises_precision(scenes):
    records = [annotations_of(scene) for scene in scenes]
    rows = description_levels.score_levels(scenes, records)
    at = values(rows)
    recalls = [at[level, "none", "object recall"] for level in description_levels.LEVELS]
    assert recalls == sorted(recalls) and recalls[0] < 1 and recalls[-1] == 1
    assert at["+ regions", "none", "object precision"] < 1 and at["+ regions", "none", "hallucinating"] == 1
    assert at["+ regions", "scores", "object precision"] == 1
    assert at["+ segments", "none", "object precision"] < at["+ regions", "none", "object precision"]
    assert at["+ texts", "scores", "text recall"] == at["+ texts", "scores", "text precision"] == 1
    assert at["+ texts", "none", "text precision"] < 1 and at["+ segments", "none", "text recall"] == 0
    assert ("+ segments", "none", "text precision") not in at
    assert at["+ texts", "scores", "hallucinating"] == 0
    assert at["+ texts", "scores", "CIDEr-D"] > at["original", "scores", "CIDEr-D"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


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
    assert texts == {"none": ["cat", "dog", "gong"], "scores": ["cat", "gong"], "scores and size": ["cat"]}


def test_mentions_are_whole_words_outside_of_quotations_the_longest_first():
    words = {"cat": "cat", "cats": "cat", "tiger cat": "tiger cat", "bus": "bus", "people": "person"}
    text = 'Two cats and a tiger cat, but no concatenation. Three people. The text reads "bus stop".'
    assert description_levels.find_mentions(text, words) == {"cat", "tiger cat", "person"}
    assert description_levels.count_quoted_words('The text reads "Bus stop" and "stop".') == {
        "bus": 1,
        "stop": 2,
    }


def test_vocabulary_has_the_names_of_annotations_and_ground_truth(scenes):
    record = annotations_of(scenes[0]).model_copy(
        update={
            "captions": (Caption(text="a picture of a red fox, with two people and an oboe", expert="t"),)
        }
    )
    words = description_levels.build_vocabulary([record])
    assert {"violin", "oboe", "red fox", "astronaut", "coins"} <= set(words.values())
    assert words["violins"] == "violin" and words["people"] == "person"


def test_every_metric_has_its_panel(scenes):
    rows = description_levels.score_levels(scenes, [annotations_of(scene) for scene in scenes])
    metrics = ["object recall", "object precision", "text recall", "CIDEr-D"]
    fig = draw_levels(rows, metrics, columns=2)
    assert [ax.get_title() for ax in fig.axes] == metrics
    drawn = fig.axes[0].lines[0].get_ydata()
    at = values(rows)
    assert drawn.tolist() == [at[level, "none", "object recall"] for level in description_levels.LEVELS]
    assert len(fig.legends[0].get_texts()) == len(description_levels.FILTERS)
    with pytest.raises(ValueError, match="no rows of 'charm'"):
        draw_levels(rows, ["charm"])


def test_segments_are_coloured_small_over_large():
    image = collages.make_composite_scene(0).image.crop((0, 0, 40, 30))
    large, small = np.zeros((30, 40), dtype=bool), np.zeros((30, 40), dtype=bool)
    large[:, :20], small[5:9, 5:9] = True, True
    regions = [
        Region(box=box, text=text, score=0.5, expert="s", kind="segment", mask=Mask.from_array(mask))
        for box, text, mask in [((5, 5, 9, 9), "dot", small), ((0, 0, 20, 30), "", large)]
    ]
    pixels = colour_segments(image, regions)
    assert pixels.shape == (30, 40, 3)
    tints = [np.ptp(pixels[at].astype(int)) for at in ((0, 0), (6, 6), (0, 35))]
    assert tints[0] > 20 and tints[1] > 20 and tints[2] == 0
    fig = draw_segments([image, image], [regions, []], columns=2)
    assert [text.get_text() for ax in fig.axes for text in ax.texts] == ["dot 0.50"]


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
