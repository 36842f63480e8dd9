"""The tagger: its tags, its captions, and the real weights."""

import json

import numpy as np
import pytest
from PIL import Image
from torch import nn

from monkeylib import assets
from monkeylib.captions.annotations import ExpertOutput, Region
from monkeylib.captions.experts import tagger
from monkeylib.captions.models import Expert
from monkeylib.english import as_sentence, join_with_and, with_count


def region(text, box=(0.0, 0.0, 10.0, 10.0), score=0.9) -> Region:
    return Region(box=box, text=text, score=score, expert="yolox-nano")


class Network(nn.Module):
    """Stand-in for the network: the mean of a channel is the logit of its class."""

    def forward(self, pixels):
        assert pixels.shape[1:] == (3, 224, 224) and pixels.shape[0] <= 2
        return 9 * pixels.mean(dim=(2, 3))


@pytest.fixture
def colours(tmp_path, monkeypatch) -> tagger.Tagger:
    names = {"0": "red fox, Vulpes", "1": "green mamba", "2": "blue whale, orca"}
    (tmp_path / "names.json").write_text(json.dumps(names))
    monkeypatch.setattr(tagger.assets, "fetch", lambda name: tmp_path / "names.json")
    colour_tagger = tagger.Tagger(minimum=0.6, batch_size=2)
    colour_tagger.__dict__["_network"] = Network()
    return colour_tagger


def test_crops_are_tagged_in_batches_and_unlikely_classes_give_no_tag(colours):
    red, blue, grey = (Image.new("RGB", (30, 20), c) for c in ((255, 0, 0), (0, 0, 255), (90, 90, 90)))
    tags = colours.tags([red, blue, grey])

    assert [text for text, _ in tags] == ["red fox", "blue whale", ""]
    assert tags[0][1] > 0.99 and tags[2][1] == pytest.approx(1 / 3, abs=1e-4)

    # A crop is tagged on a white square.
    (thin,) = colours.caption([Image.new("RGB", (64, 1), (255, 0, 0))])
    assert thin[0] == "", "on a white square, hardly anything is red"
    assert colours.caption([]) == []
    assert np.asarray(tagger.on_white_square(Image.new("RGB", (4, 2), (9, 9, 9))))[0, 0].tolist() == [
        255,
        255,
        255,
    ]


def test_caption_joins_the_tag_and_counted_objects():
    size = (100, 100)
    cats = [region("cat"), region("cat", (50.0, 50.0, 60.0, 60.0))]
    # Fills most of the image, so the tag names it already.
    large_person = region("person", (0.0, 0.0, 90.0, 90.0))

    assert (
        tagger.tag_caption("espresso", [large_person, *cats], size)
        == "a picture of an espresso, with two cats"
    )
    assert tagger.tag_caption("", [large_person, *cats], size) == "a picture of a person and two cats"
    assert tagger.tag_caption("espresso", [large_person], size) == "a picture of an espresso"
    # One bus is not two of them.
    assert (
        tagger.tag_caption("minibus", [region("bus"), *cats], size) == "a picture of a minibus, with two cats"
    )
    assert tagger.tag_caption("", [], size) == ""


class Upstream(Expert):
    """Detects a cat in every image."""

    name, version, licence = "upstream", "1", "CC0-1.0"

    def prepare(self):
        raise AssertionError("the pipeline prepares upstream experts")

    def annotate(self, images):
        return [ExpertOutput(regions=(region("cat"),)) for _ in images]


def test_tag_caption_uses_upstream_regions_and_returns_none_of_them(colours):
    captioner = tagger.TagCaption(Upstream(), colours, minimum=0.9)
    images = [Image.new("RGB", (50, 50), c) for c in ((255, 0, 0), (90, 90, 90))]
    red, grey = captioner.annotate_from(images, Upstream().annotate(images))

    assert red.regions == () and red.captions[0].text == "a picture of a red fox, with a cat"
    assert red.captions[0].score > 0.9 and red.captions[0].expert == captioner.name
    assert grey.captions[0].text == "a picture of a cat" and grey.captions[0].score is None
    assert captioner.settings["source"]["expert"] == "upstream"
    assert captioner.provenance != tagger.TagCaption(Upstream(), tagger.Tagger(0.5), minimum=0.9).provenance

    # Neither a likely class nor an object, whose score counts by the threshold of its expert.
    weak = ExpertOutput(regions=(region("cat", score=0.5),))
    assert captioner.annotate_from(images[1:], [weak])[0].captions != ()
    captioner.upstream.score_threshold = 0.5
    nothing, silent = captioner.annotate_from(images[1:] * 2, [ExpertOutput(), weak])
    assert nothing.captions == silent.captions == ()


def test_what_fills_the_image_has_the_surer_of_two_names(colours):
    captioner = tagger.TagCaption(Upstream(), colours, minimum=0.5)
    image = Image.new("RGB", (50, 50), (160, 140, 140))  # a red fox with 0.67

    def caption(score):
        cat = region("cat", (0, 0, 50, 50), score=score)
        return captioner.annotate_from([image], [ExpertOutput(regions=(cat,))])[0].captions[0].text

    assert caption(0.5) == "a picture of a red fox" and caption(1.0) == "a picture of a cat"


def test_nouns_lists_and_sentences():
    assert [with_count(noun, 2) for noun in ("person", "bus", "knife", "sheep", "cat")] == [
        "two people", "two buses", "two knives", "two sheep", "two cats",
    ]  # fmt: skip
    assert [with_count(noun, 1) for noun in ("apple", "Egyptian cat", "scissors", "a man with a hat")] == [
        "an apple", "an Egyptian cat", "scissors", "a man with a hat",
    ]  # fmt: skip
    assert with_count("cat", 40) == "many cats"
    assert join_with_and(["a"]) == "a" and join_with_and(["a", "b", "c"]) == "a, b and c"
    assert as_sentence(" so it is") == "So it is." and as_sentence("Why?") == "Why?"


def fetched(*names: str) -> bool:
    return all(assets.cache_folder(name).is_dir() for name in names)


@pytest.mark.skipif(
    not fetched(tagger.WEIGHTS, tagger.NAMES),
    reason="needs `monkeylib assets fetch efficientnet-lite0 imagenet-names`",
)
def test_real_network_tags_a_cup_of_coffee_and_a_cat():
    folder = assets.fetch("scikit-image-images")
    real_tagger = tagger.Tagger()
    real_tagger.prepare()
    tags = real_tagger.tags([Image.open(folder / name) for name in ("coffee.png", "chelsea.png")])

    assert [text for text, _ in tags] == ["espresso", "Egyptian cat"] and min(
        share for _, share in tags
    ) > 0.5
