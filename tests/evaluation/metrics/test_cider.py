"""CIDEr-D against the numbers of pycocoevalcap."""

import json
from pathlib import Path

import numpy as np
import pytest

from monkeylib.evaluation.metrics import cider, text

CAPTIONS = json.loads((Path(__file__).parents[2] / "goldens" / "captions.json").read_text())
ITEMS = {item["id"]: item for item in CAPTIONS["items"]}


@pytest.mark.parametrize("corpus", [name for name in CAPTIONS["corpora"] if name != "single_image"])
def test_cider_d_equals_pycocoevalcap_on_tokenised_captions(corpus):
    expected = CAPTIONS["corpora"][corpus]
    items = [ITEMS[i] for i in expected["ids"]]
    scores = cider.cider_d(
        [item["tokenized_hypothesis"].split() for item in items],
        [[reference.split() for reference in item["tokenized_references"]] for item in items],
    )

    np.testing.assert_allclose(scores, expected["CIDEr_per_image"], atol=1e-9)
    assert scores.mean() == pytest.approx(expected["CIDEr"], abs=1e-9)


def test_cider_d_of_strings_is_that_of_their_tokens():
    items = list(ITEMS.values())
    scores = text.cider_d([i["hypothesis"] for i in items], [i["references"] for i in items])
    assert scores.mean() == pytest.approx(CAPTIONS["corpora"]["all"]["CIDEr"], abs=1e-9)


def test_corpora_without_a_score_raise():
    # With one image, every word is in all images and weighs log 1 = 0.
    with pytest.raises(ValueError, match="at least two images"):
        text.cider_d(["a cat"], [["a cat"]])
    with pytest.raises(ValueError, match="image 1 has none"):
        cider.cider_d([["a"], ["b"]], [[["a"]], []])
    with pytest.raises(ValueError, match="one caption for each image"):
        cider.cider_d([["a"]], [[["a"]], [["b"]]])
