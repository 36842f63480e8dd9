"""Synthetic records: what runs train on when no data is named."""

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from monkeylib.data.synthetic import label_levels
from monkeylib.data.synthetic.renderings import QUADRANTS, quadrant_transforms
from monkeylib.profiles import Profile, build, load_profile
from monkeylib.prompts import SEPARATOR, build_prompt
from monkeylib.training.batches import ExampleEncoder
from monkeylib.training.synthetic_records import FIRST_UNSEEN_IMAGE, MIXES, SyntheticRecords, synthetic_data

# Before there were renderings.
NANO_DIGEST = "24654abb0d03645bd6949ccf925f8bb42f0f0b4f8fdff410caced472aaa7b226"


def test_ordinary_records_have_not_changed():
    assert synthetic_data(load_profile("nano")).digest == NANO_DIGEST


@pytest.mark.parametrize(
    ("images", "scenes", "of_three"), [("usual", 0.42, 1 / 3), ("several_signs", 0.62, 0.85)]
)
def test_training_images_have_as_many_signs_as_their_mix_says(images, scenes, of_three):
    profile = load_profile("nano").model_copy(update={"training_images": images})
    records = SyntheticRecords(profile, "train")
    samples = [records.sample(FIRST_UNSEEN_IMAGE + index) for index in range(400)]

    with_signs = [sample for sample in samples if sample.signs]
    assert len(with_signs) / len(samples) == pytest.approx(scenes, abs=0.06)

    # A third sign that finds no free space is left out.
    share = sum(len(sample.signs) == 3 for sample in with_signs) / len(with_signs)
    assert of_three - 0.16 < share < of_three + 0.04


def test_profiles_may_name_each_mix_of_images():
    names = get_args(Profile.model_fields["training_images"].annotation)
    assert names == tuple(MIXES)


@pytest.mark.parametrize(("split", "labels"), [("val", "questions"), ("train", "text")])
def test_images_to_compare_on_are_usual_ones(split, labels):
    profile = load_profile("nano").model_copy(update={"labels": labels})
    several, usual = (
        SyntheticRecords(profile.model_copy(update={"training_images": images}), split)
        for images in ("several_signs", "usual")
    )
    for index in range(FIRST_UNSEEN_IMAGE, FIRST_UNSEEN_IMAGE + 12):
        assert several.sample(index) == usual.sample(index)


def test_renderings_ask_the_same_about_images_with_other_quadrants():
    profile = load_profile("nano")
    fixed, dealt = (
        SyntheticRecords(profile.model_copy(update={"rendering": rendering}), "train")
        for rendering in ("fixed", "dealt")
    )

    for index in range(12):
        assert fixed[index].turns == dealt[index].turns

        # A deal may be the fixed order by chance.
        pixels = [np.asarray(records[index].images[0]) for records in (fixed, dealt)]
        is_same_order = quadrant_transforms("dealt", index) == QUADRANTS
        assert np.array_equal(*pixels) == is_same_order


# --- labels of synthetic images ------------------------------------------------------------------------


def label_records(labels, **changes):
    profile = load_profile("nano").model_copy(update={"labels": labels, **changes})
    return SyntheticRecords(profile, "train")


def test_labels_differ_in_nothing_but_the_answer():
    datasets = {labels: label_records(labels) for labels in label_levels.LEVELS}
    for index in range(FIRST_UNSEEN_IMAGE, FIRST_UNSEEN_IMAGE + 6):
        records = {labels: dataset[index] for labels, dataset in datasets.items()}
        assert len({record.images[0].tobytes() for record in records.values()}) == 1

        # The same questions first.
        assert len({tuple(record.turns[:-1]) for record in records.values()}) == 1

        captions = [record.turns[-1] for record in records.values()]
        assert {prompt for prompt, _ in captions} == {build_prompt("detailed_caption", separator=SEPARATOR)}
        assert all(after.startswith(before) for (_, before), (_, after) in pairwise(captions))


def test_runs_on_captions_see_each_of_their_images_once_in_an_epoch(monkeypatch):
    profile = load_profile("nano").model_copy(update={"labels": "short"})
    first, second = (synthetic_data(profile.with_seed(seed)) for seed in (0, 1))
    assert first.offset % label_levels.NUM_IMAGES == second.offset % label_levels.NUM_IMAGES == 0

    # Fewer images than there are, which divide the offsets as well.
    count = 20
    monkeypatch.setattr(label_levels, "NUM_IMAGES", count)

    # Two epochs of a seed, and one of another.
    starts = [first.offset, first.offset + count, second.offset]
    epochs = [[first.train[start + i].id for i in range(count)] for start in starts]

    # The same images in another order each time.
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(len(set(epoch)) == count for epoch in epochs)
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])


def test_no_caption_is_cut_off():
    profile = load_profile("nano")
    encoder = ExampleEncoder(build.build_processor(profile), profile.training.max_length)
    dataset = label_records("text")

    # Turns that are too long would be left out, the caption first.
    for index in range(FIRST_UNSEEN_IMAGE, FIRST_UNSEEN_IMAGE + label_levels.NUM_IMAGES):
        record = dataset[index]
        assert int(encoder.encode(record).turns.max()) + 1 == len(record.turns)


def test_validation_keeps_its_questions():
    questions, captions = (
        SyntheticRecords(load_profile("nano").model_copy(update={"labels": labels}), "val")
        for labels in ("questions", "text")
    )
    assert captions[5].turns == questions[5].turns


def test_captions_of_the_pipeline_are_of_its_images_only():
    with pytest.raises(ValueError, match="images of 192 x 192 pixels only: train with labels: text"):
        label_records("pipeline", image_width=96, image_height=96)
    with pytest.raises(ValueError, match="images of 192 x 192 pixels only"):
        label_records("pipeline", grid="auto")
    with pytest.raises(ValueError, match="has described ordinary synthetic images"):
        label_records("pipeline", rendering="fixed")
