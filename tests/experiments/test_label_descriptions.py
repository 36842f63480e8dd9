"""Descriptions of training images by the caption pipeline, to train on."""

import numpy as np
import pytest

from monkeylib.captions.annotations import ExpertOutput, Mask, OcrLine, Region
from monkeylib.captions.experts import Expert, load_experts
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.record_files import read_records, write_records
from monkeylib.data.synthetic import label_levels
from monkeylib.experiments import label_descriptions
from monkeylib.profiles import build, load_profile
from monkeylib.prompts import SEPARATOR, build_prompt
from monkeylib.training.synthetic_records import FIRST_UNSEEN_IMAGE, SyntheticRecords


class StaticExpert(Expert):
    """Annotates every image with the same line, a segment, and one that the filter drops."""

    name, version, licence = "static", "1", "CC0-1.0"

    def prepare(self):
        pass

    def annotate(self, images):
        quad = ((0, 0), (50, 0), (50, 9), (0, 9))
        mask = Mask.from_array(np.ones(label_levels.IMAGE_SIZE, dtype=bool))
        regions = tuple(
            Region(box=(0, 0, 90, 90), text=text, score=score, expert="static", kind="segment", mask=mask)
            for text, score in (("oboe", 0.9), ("gong", 0.1))
        )
        line = OcrLine(quad=quad, text="KEEP LEFT", confidence=0.99, expert="static")
        return [ExpertOutput(regions=regions, lines=(line,)) for _ in images]


@pytest.fixture(scope="module")
def samples():
    return label_descriptions.label_samples(3)


@pytest.fixture(scope="module")
def records(samples, tmp_path_factory):
    return label_descriptions.describe(samples, [StaticExpert()], tmp_path_factory.mktemp("labels"))


@pytest.fixture()
def described(records, monkeypatch, tmp_path):
    """The records as a file in place of the committed one."""
    path = write_records(records, tmp_path / "records.jsonl")
    monkeypatch.setattr(label_levels, "pipeline_file", lambda: path)
    label_levels.pipeline_captions.cache_clear()
    yield path
    label_levels.pipeline_captions.cache_clear()


def test_records_are_compact_and_named_after_their_images(samples, records):
    assert [record.name for record in records] == [str(sample.seed) for sample in samples]

    for sample, record in zip(samples, records, strict=True):
        assert record.original_caption == sample.caption
        assert 'The text reads "KEEP LEFT".' in record.detailed_caption
        assert "oboe" in record.detailed_caption and "gong" not in record.detailed_caption
        assert record.dropped == () and all(region.mask is None for region in record.regions)


def test_runs_train_on_the_descriptions_of_the_same_images(samples, described):
    captions = {record.name: record.detailed_caption for record in read_records(described)}
    for sample in samples:
        _, answer = label_levels.label_turn(sample, "pipeline")
        assert answer == captions[str(sample.seed)]


def test_profile_selects_the_descriptions(samples, described, monkeypatch):
    monkeypatch.setattr(label_levels, "NUM_IMAGES", len(samples))
    profiles = [
        load_profile("nano").model_copy(update={"labels": labels}) for labels in ("pipeline", "short")
    ]
    by_pipeline, short = (SyntheticRecords(profile, "train") for profile in profiles)

    for index in range(FIRST_UNSEEN_IMAGE, FIRST_UNSEEN_IMAGE + 6):
        assert by_pipeline[index].images[0].tobytes() == short[index].images[0].tobytes()
        assert 'The text reads "KEEP LEFT".' in by_pipeline[index].turns[-1][1]


def test_image_without_a_description_raises(described):
    other = label_descriptions.label_samples(4)[-1]
    with pytest.raises(ValueError, match="has not described image 20000003 of the split train, only 3"):
        label_levels.label_turn(other, "pipeline")


def test_missing_descriptions_raise(samples, described):
    described.unlink()
    with pytest.raises(FileNotFoundError, match="write them with python -m monkeylib.experiments.label_desc"):
        label_levels.label_turn(samples[0], "pipeline")


def test_committed_descriptions_are_of_the_images_that_runs_train_on():
    records = list(read_records(label_levels.pipeline_file()))
    numbers = range(FIRST_UNSEEN_IMAGE, FIRST_UNSEEN_IMAGE + label_levels.NUM_IMAGES)
    assert [record.name for record in records] == [str(number) for number in numbers]
    assert all(record.status == "ok" and record.detailed_caption for record in records)
    experts = [expert.name for expert in load_experts("cpu")]
    assert all([item.expert for item in record.provenance][:-2] == experts for record in records)

    for sample, record in zip(label_descriptions.label_samples(12), records, strict=False):
        assert InputImage(sample.image, record.name).sha256() == record.sha256
        assert record.original_caption == sample.caption


def test_committed_descriptions_fit_into_a_conversation():
    profile = load_profile("nano")
    processor = build.build_processor(profile)
    prompt = build_prompt("detailed_caption", separator=SEPARATOR)

    for caption in label_levels.pipeline_captions().values():
        images = [processor.visual_tokens()]
        processor.layout.encode_conversation(images, [(prompt, caption)], profile.training.max_length)


def test_labels_are_longer_the_more_levels_they_have(samples, described):
    rows = {row["labels"]: row for row in label_descriptions.measure_labels(samples)}
    characters = [rows[level]["characters"] for level in label_levels.LEVELS]
    assert characters == sorted(characters) and len(set(characters)) > 1
    # Text that is not legible has no place in a caption.
    assert rows["short"]["text_recall"] < rows["text"]["text_recall"] <= 1
    # The static expert has read nothing that is there.
    assert rows["pipeline"]["text_recall"] <= rows["short"]["text_recall"]
