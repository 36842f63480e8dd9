import pytest

from monkeylib import resources
from monkeylib.data.synthetic import make_test_set
from monkeylib.data.synthetic.transfer import CHANGES_OF
from monkeylib.experiments import image_sets
from monkeylib.inference import load_model

COUNTS = {"large": 6, "general": 4}


@pytest.fixture(scope="module")
def rows():
    # One model twice: the differences are known.
    base = load_model(resources.models() / "nano-base")
    return image_sets.compare_on_image_sets({"first": base, "last": base}, COUNTS)


def test_every_set_split_and_model_is_scored(rows):
    keys = {(row["images"], row["split"], row["metric"], row["model"]) for row in rows}
    assert keys == {
        (images, split, metric, model)
        for images in ("test", "fresh", "transfer")
        for split in ("large", "general")
        for metric in ("exact match", "log-likelihood")
        for model in ("first", "last", "last - first")
    }
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert {row["n"] - COUNTS[row["split"]] for row in rows if row["change"] == "all"} == {0}


def test_equal_models_differ_by_nothing(rows):
    differences = [row for row in rows if row["model"] == "last - first"]
    assert differences and all(row["value"] == 0 for row in differences)


def test_changes_of_transfer_add_up(rows):
    of_model = [row for row in rows if (row["model"], row["metric"]) == ("first", "exact match")]
    for split in ("large", "general"):
        changes = {
            row["change"]: row["n"]
            for row in of_model
            if (row["images"], row["split"]) == ("transfer", split)
        }
        assert changes.pop("all") == sum(changes.values())
        assert set(changes) <= {change for names in CHANGES_OF.values() for change in names}
    assert all(row["change"] == "all" for row in of_model if row["images"] != "transfer")


def test_fresh_images_are_others():
    test = make_test_set("fine", 20)
    fresh = make_test_set("fine", 20, make=lambda number: image_sets._make_fresh_sample(number, (192, 192)))
    assert {question.sample.seed for question in test}.isdisjoint(question.sample.seed for question in fresh)
