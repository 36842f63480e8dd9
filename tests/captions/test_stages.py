"""Stages: inputs of matchers, dependent experts and composers, caching, and failures."""

import pickle

import numpy as np
import pytest
from PIL import Image

from monkeylib.captions import experts, filtering, pipeline, stages
from monkeylib.captions.annotations import ExpertOutput
from monkeylib.captions.experts.segments import CaptionedSegments
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.record_files import read_records, write_records
from monkeylib.captions.stages import load_samples
from monkeylib.images import ImageWarning
from tests.support.caption_models import Billed, ChecksumMatcher, Colours, Halves, Shades, score


def image(*colours, size=(16, 10)) -> Image.Image:
    """Vertical stripes of equal width."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for number, colour in enumerate(colours):
        pixels[:, number * size[0] // len(colours) :] = colour
    return Image.fromarray(pixels)


@pytest.fixture
def images():
    stripes = {
        "dark-light": [(10, 10, 10), (200, 90, 90)],
        "light-white": [(90, 200, 90), (255, 255, 255)],
        "dark": [(10, 10, 60), (10, 10, 60)],
    }
    return [InputImage(image(*colours), name) for name, colours in stripes.items()]


# Everything passes, so that tests see all results of the models.
OPEN = filtering.Filter(filtering.Thresholds(region=-1, segment=-1, ocr=-1, same_caption=2))


def run_pipeline(
    images, out, *models, matcher=None, composer=None, retry_failed=False, fresh=False, **options
):
    """Return the summary and the records of a pipeline that filters nothing."""
    captioner = pipeline.Pipeline(models, matcher, composer, OPEN, **options)
    summary = captioner.run(images, out, retry_failed=retry_failed, fresh=fresh, progress=False)
    return summary, list(read_records(out / pipeline.RECORDS))


# --- images ---------------------------------------------------------------------------------------


def test_large_images_are_not_in_memory_at_once(images, tmp_path, monkeypatch):
    expert = Colours()
    _, together = run_pipeline(images, tmp_path / "a", expert, batch_size=3)
    monkeypatch.setattr(stages, "MAX_PIXELS", 2 * 16 * 10)
    _, divided = run_pipeline(images, tmp_path / "b", expert, batch_size=3)

    assert expert.batches == [3, 2, 1] and divided == together


def test_notices_of_an_image_are_in_its_record_and_said(tmp_path):
    frames = [image((200, 10, 10)), image((10, 200, 10))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    notice = "a.gif has 2 frames: the first is read, 1 left out"

    with pytest.warns(ImageWarning, match=f"^{notice}$"):
        _, (record,) = run_pipeline([InputImage(tmp_path / "a.gif", "a.gif")], tmp_path / "out", Colours())

    assert record.status == "ok" and record.notices == (notice,)
    write_records([record], tmp_path / "a.parquet")
    assert list(read_records(tmp_path / "a.parquet")) == [record]


# --- matching -------------------------------------------------------------------------------------


def test_each_region_gets_the_score_of_its_crop_and_text(images, tmp_path):
    matcher = ChecksumMatcher()
    _, records = run_pipeline(
        images, tmp_path, Colours(), CaptionedSegments(Halves(), Shades()), matcher=matcher, batch_size=2
    )
    regions = [region for record in records for region in record.regions]

    assert len(regions) == 3 + 5 and matcher.batches == [3 + 2, 1 + 2], "white gets no caption"
    for region in regions:
        x0, y0, x1, y1 = region.box
        assert region.match == pytest.approx(score((int(x1 - x0), int(y1 - y0)), region.text))


def test_filter_judges_by_the_matching_score(images, tmp_path):
    class Sceptic(ChecksumMatcher):
        def match(self, crops, texts):
            return [0.9 if text == "red" else 0.4 for text in texts]

    captioner = pipeline.Pipeline([Colours()], Sceptic())
    captioner.run(images, tmp_path, progress=False)
    red, green, _ = read_records(tmp_path / pipeline.RECORDS)

    assert [region.text for region in red.regions] == ["red"] and not red.dropped
    assert not green.regions and green.dropped[0].reason == "match 0.40 is not above 0.4"


def test_image_without_matching_scores_keeps_the_experts_confidence(images, tmp_path):
    # Fails on a single image.
    class Moody(ChecksumMatcher):
        def match(self, crops, texts):
            if "green" in texts:
                raise RuntimeError("not green")
            return super().match(crops, texts)

    summary, records = run_pipeline(images, tmp_path, Colours(), matcher=Moody())

    assert [[f.stage for f in r.failures] for r in records] == [[], ["tally"], []]
    assert [r.regions[0].match is None for r in records] == [False, True, False]
    assert records[1].status == "partial" and summary.failed == 1

    again = ChecksumMatcher()
    run_pipeline(images, tmp_path, Colours(), matcher=again, retry_failed=True)
    assert sum(again.batches) == 1, "only failures are tried again"


def test_scores_are_clipped_to_probabilities_and_missing_ones_recorded(images, tmp_path):
    class Logits(ChecksumMatcher):
        def match(self, crops, texts):
            return [7.5] * len(texts) if len(texts) > 1 else []

    _, records = run_pipeline(images[:2], tmp_path / "a", Colours(), matcher=Logits())

    assert [r.regions[0].match for r in records] == [1.0, 1.0]

    _, records = run_pipeline(images[:1], tmp_path / "b", Colours(), matcher=Logits())
    assert "returned 0 scores for 1 regions" in records[0].failures[0].error


# --- segments -------------------------------------------------------------------------------------


def test_dependent_expert_captions_the_regions_of_its_upstream_expert(images, tmp_path):
    halves, shades = Halves(), Shades()
    _, records = run_pipeline(images, tmp_path, CaptionedSegments(halves, shades))

    assert [[r.text for r in record.regions] for record in records] == [
        ["dark", "light"], ["light"], ["dark", "dark"]
    ]  # fmt: skip
    assert {(r.expert, r.kind) for record in records for r in record.regions} == {
        ("halves+shades", "segment")
    }
    assert records[0].regions[1].mask.array()[:, 8:].all() and records[0].regions[1].mask.area == 80

    settings = records[0].provenance[0].settings
    assert settings["source"]["expert"] == "halves" and settings["describer"]["expert"] == "shades"


def test_another_region_captioner_segments_no_image_again(images, tmp_path):
    run_pipeline(images, tmp_path, CaptionedSegments(Halves(), Shades()))
    # The same segments, captioned with other words.
    halves, other = Halves(), Shades(words=("black", "bright"))
    _, records = run_pipeline(images, tmp_path, CaptionedSegments(halves, other), fresh=True)

    assert halves.batches == [] and sum(other.batches) == 6
    assert records[0].regions[1].text == "bright"


def test_shared_upstream_output_is_computed_once_and_dropped_after_its_last_use(images, tmp_path):
    halves = Halves()
    pair = [CaptionedSegments(halves, Shades(words=words)) for words in (("a", "b"), ("c", "d"))]
    _, records = run_pipeline(images, tmp_path, *pair)

    assert halves.batches == [3] and [r.text for r in records[0].regions] == ["a", "b", "c", "d"]

    samples = load_samples(images, ["0" * 64, "1" * 64, "2" * 64])
    # Number of outputs that each sample carries along after each stage.
    num_carried = []
    for stage in pipeline.Pipeline(pair).stages(tmp_path / "new"):
        samples, _ = stage(samples)
        num_carried.append([len(sample.intermediate) for sample in samples])

    assert num_carried == [[1] * 3, [1] * 3, [0] * 3, [0] * 3]


def test_dependent_expert_does_not_run_where_its_upstream_expert_failed(images, tmp_path):
    class Blind(Halves):
        def annotate(self, images):
            raise RuntimeError("sees nothing")

    shades = Shades()
    summary, records = run_pipeline(images, tmp_path, CaptionedSegments(Blind(), shades), Colours())

    assert [[f.stage for f in record.failures] for record in records] == [["halves"]] * 3
    assert shades.batches == [] and all(record.regions for record in records)
    assert {stage.stage: stage.failed for stage in summary.stages} == {
        "halves": 3, "halves+shades": 0, "colours": 0, "rules": 0
    }  # fmt: skip


def test_upstream_expert_can_be_requested_too(images, tmp_path):
    halves = Halves()
    _, records = run_pipeline(images, tmp_path, halves, CaptionedSegments(halves, Shades()))

    assert halves.batches == [3]
    assert [item.expert for item in records[0].provenance] == ["halves", "halves+shades", "filter", "rules"]

    without_caption = [item for item in records[0].dropped if item.expert == "halves"]
    assert len(without_caption) == 2
    assert {item.reason for item in without_caption} == {"there is no description"}


@pytest.mark.parametrize("upstream_first", [True, False])
def test_upstream_expert_that_is_requested_too_is_one_stage(images, tmp_path, upstream_first):
    class Blind(Halves):
        def annotate(self, images):
            self.batches.append(len(images))
            raise RuntimeError("sees nothing")

    alone, inside = Blind(), Blind()
    models = [alone, CaptionedSegments(inside, Shades())]
    if not upstream_first:
        models = models[::-1]
    stages = pipeline.Pipeline(models).stages(tmp_path / "new")

    assert [stage.name for stage in stages] == ["halves", "halves+shades", "rules"]

    _, records = run_pipeline(images, tmp_path, *models, batch_size=1)
    assert sorted([alone.batches, inside.batches]) == [[], [1, 1, 1]]
    assert [[f.stage for f in record.failures] for record in records] == [["halves"]] * 3


def test_small_models_load_yolox_once(tmp_path):
    small_models = pipeline.Pipeline(experts.load_experts("demonstration"))
    names = [stage.name for stage in small_models.stages(tmp_path)]
    assert len(set(names)) == len(names) == 6 and "yolox-nano" in names


def test_largest_segments_are_captioned(images, tmp_path):
    class Uneven(Halves):
        def _cut(self, width, height):
            left, right = super()._cut(width, height)
            yield from (left, right.model_copy(update={"mask": None}))

    _, records = run_pipeline(images[:1], tmp_path, CaptionedSegments(Uneven(), Shades(), count=1))
    assert [region.box for region in records[0].regions] == [(0, 0, 8, 10)], "those without a mask come last"


def test_missing_region_captions_are_recorded(images, tmp_path):
    class Short(Shades):
        def caption(self, crops):
            return super().caption(crops)[1:]

    _, records = run_pipeline(images[:1], tmp_path, CaptionedSegments(Halves(), Short()))
    assert "shades captioned 1 of 2 segments" in records[0].failures[0].error


# --- images in memory -----------------------------------------------------------------------------


def test_sample_goes_to_another_process_without_its_pixels(images):
    (sample,) = load_samples(images[:1], ["0" * 64], largest_in_memory=16 * 10)
    assert sample.pixels is not None and sample.open() is sample.pixels

    (large,) = load_samples(images[:1], ["0" * 64], largest_in_memory=16 * 10 - 1)
    assert large.pixels is None and large == sample, "it would take too much memory"

    copy = pickle.loads(pickle.dumps(sample))
    assert copy == sample and copy.pixels is None and copy.open().size == sample.pixels.size


# --- composing ------------------------------------------------------------------------------------


def test_caption_is_paid_for_once(images, tmp_path):
    summary, records = run_pipeline(images, tmp_path, Colours(), composer=Billed())
    assert summary.cost == pytest.approx(0.03) and records[0].detailed_caption == "There are 1 things."
    assert summary.rows()[-1]["US$"] == pytest.approx(0.03)

    composer = Billed()
    again, same = run_pipeline(images[::-1], tmp_path, Colours(), composer=composer)
    assert (composer.composed, again.cost) == (0, 0) and same == records[::-1]


def test_changed_filter_runs_no_expert_again(images, tmp_path):
    run_pipeline(images, tmp_path, Colours(), composer=Billed())
    colours, composer = Colours(), Billed()
    strict = filtering.Filter(filtering.Thresholds(region=0.95))
    # The experts' results are cached unfiltered.
    pipeline.Pipeline([colours], None, composer, strict).run(images, tmp_path, fresh=True, progress=False)

    assert colours.batches == [] and composer.composed == 3

    (first, *_) = read_records(tmp_path / pipeline.RECORDS)
    assert not first.regions and first.provenance[1].settings["thresholds"]["region"] == 0.95


def test_damaged_cache_file_is_computed_again(images, tmp_path):
    run_pipeline(images, tmp_path, Colours())
    (path,) = tmp_path.glob("annotations/colours/*/*.results")
    path.write_bytes(path.read_bytes().replace(b'"box":[0.0', b'"box":[9.0'))
    # Without the shards, results have to come from the cache.
    for path in tmp_path.glob("shards/*"):
        path.unlink()
    colours = Colours()
    _, records = run_pipeline(images, tmp_path, colours)

    assert colours.batches == [3] and all(record.status == "ok" for record in records)


def test_expert_output_may_be_empty(images, tmp_path):
    class Silent(Colours):
        def annotate(self, images):
            return [ExpertOutput() for _ in images]

    _, records = run_pipeline(images, tmp_path, Silent(), matcher=ChecksumMatcher())
    assert {(r.status, r.detailed_caption, r.check) for r in records} == {("ok", "", None)}


# --- names ----------------------------------------------------------------------------------------


def test_set_has_a_default_matcher(monkeypatch):
    entry = experts.MatcherEntry(ChecksumMatcher, sets=("paper",))
    monkeypatch.setitem(experts.MATCHERS.entries, "blip2-itm", entry)

    assert experts.load_matcher("auto", "cpu") is None, "the scores of its experts filter better"
    assert isinstance(experts.load_matcher("auto", "paper"), ChecksumMatcher)
    assert experts.load_matcher("auto", "pp-ocr") is experts.load_matcher("none", "cpu") is None
    assert isinstance(experts.load_matcher("blip2-itm", "cpu"), ChecksumMatcher)
    with pytest.raises(ValueError, match="no matcher called 'clip': choose one of .*, auto or none"):
        experts.load_matcher("clip", "cpu")
