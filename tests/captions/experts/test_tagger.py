"""The tagger: the network's shape and padding, its names, its caption; the real weights where fetched."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from monkeylib import assets
from monkeylib.captions.annotations import ExpertOutput, Region
from monkeylib.captions.experts import _efficientnet_lite, tagger
from monkeylib.captions.experts.base import Expert
from monkeylib.english import as_sentence, join_with_and, with_count


def region(text, box=(0.0, 0.0, 10.0, 10.0), score=0.9) -> Region:
    return Region(box=box, text=text, score=score, expert="yolox-nano")


def published(model: _efficientnet_lite.EfficientNetLite0) -> dict[str, torch.Tensor]:
    """The weights under the names of the published file."""
    state = {}
    for name, value in model.state_dict().items():
        for old, new in _efficientnet_lite.BLOCK_NAMES.items():
            if name.startswith("blocks.") and f".{new}" in name:
                number = name.split(".")[1]
                state[f"_blocks.{number}.{old}{name.split(new)[1]}"] = value
        for old, new in _efficientnet_lite.NAMES.items():
            if name.startswith(new):
                state[old + name.removeprefix(new)] = value
    return state


def test_the_network_is_read_back_from_the_published_names(tmp_path):
    torch.manual_seed(0)
    model = _efficientnet_lite.EfficientNetLite0()
    assert sum(p.numel() for p in model.parameters()) == 4_652_008  # the published size
    state = published(model)
    assert state.keys() == {name for name in state} and len(state) == len(model.state_dict())
    torch.save(state, tmp_path / "weights.pth")
    again = _efficientnet_lite.load_efficientnet(tmp_path / "weights.pth")
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    state.pop("_fc.bias")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="no EfficientNet-Lite0: fetch the asset"):
        _efficientnet_lite.load_efficientnet(tmp_path / "weights.pth")


@pytest.mark.parametrize("kernel, stride, side", [(3, 2, 224), (5, 2, 56), (3, 2, 7), (5, 1, 14), (1, 1, 7)])
def test_padding_is_tensorflows_same(kernel, stride, side):
    """Rounded up, the odd pixel right and below: a kernel that copies its middle picks these places."""
    layer = _efficientnet_lite.Layer(1, 1, kernel, stride, linear=True).eval()
    nn.init.zeros_(layer.convolution.weight)
    layer.convolution.weight.data[0, 0, kernel // 2, kernel // 2] = 1
    image = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side)
    out = layer(image)[0, 0] * (1 + 1e-3) ** 0.5  # the norm's epsilon
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    first = kernel // 2 - total // 2
    assert torch.allclose(out, image[0, 0, first::stride, first::stride], rtol=1e-5)
    assert out.shape[0] == -(-side // stride)


class Network(nn.Module):
    """Knows three colours."""

    def forward(self, pixels):
        assert pixels.shape[1:] == (3, 224, 224) and pixels.shape[0] <= 2
        return 9 * pixels.mean(dim=(2, 3))


@pytest.fixture
def colours(tmp_path, monkeypatch) -> tagger.Tagger:
    names = {"0": "red fox, Vulpes", "1": "green mamba", "2": "blue whale, orca"}
    (tmp_path / "names.json").write_text(json.dumps(names))
    monkeypatch.setattr(tagger.assets, "fetch", lambda name: tmp_path / "names.json")
    made = tagger.Tagger(minimum=0.6, batch_size=2)
    made.__dict__["_network"] = Network()
    return made


def test_crops_are_tagged_in_batches_and_the_unsure_ones_not(colours):
    red, blue, grey = (Image.new("RGB", (30, 20), c) for c in ((255, 0, 0), (0, 0, 255), (90, 90, 90)))
    said = colours.tags([red, blue, grey])
    assert [text for text, _ in said] == ["red fox", "blue whale", ""]
    assert said[0][1] > 0.99 and said[2][1] == pytest.approx(1 / 3, abs=1e-4)
    (thin,) = colours.caption([Image.new("RGB", (64, 1), (255, 0, 0))])
    assert thin[0] == ""  # it lies on white: next to nothing of the square is red
    assert colours.caption([]) == []
    assert np.asarray(tagger.on_white_square(Image.new("RGB", (4, 2), (9, 9, 9))))[0, 0].tolist() == [
        255,
        255,
        255,
    ]


def test_a_caption_names_the_tag_and_counts_what_lies_beside_it():
    size = (100, 100)
    cats = [region("cat"), region("cat", (50.0, 50.0, 60.0, 60.0)), region("dog", score=0.3)]
    whole = region("person", (0.0, 0.0, 90.0, 90.0))
    assert tagger.tag_caption("espresso", [whole, *cats], size) == "a picture of an espresso, with two cats"
    assert tagger.tag_caption("", [whole, *cats], size) == "a picture of a person and two cats"
    assert tagger.tag_caption("espresso", [whole], size) == "a picture of an espresso"
    assert tagger.tag_caption("", [region("cat", score=0.4)], size) == ""


class Seen(Expert):
    name, version, licence = "seen", "1", "CC0-1.0"

    def prepare(self):
        raise AssertionError("a refiner's source is prepared by the pipeline")

    def annotate(self, images):
        return [ExpertOutput(regions=(region("cat"),)) for _ in images]


def test_the_caption_expert_refines_its_source_and_keeps_none_of_its_regions(colours):
    made = tagger.TagCaption(Seen(), colours, minimum=0.9)
    images = [Image.new("RGB", (50, 50), c) for c in ((255, 0, 0), (90, 90, 90))]
    red, grey = made.annotate_from(images, Seen().annotate(images))
    assert red.regions == () and red.captions[0].text == "a picture of a red fox, with a cat"
    assert red.captions[0].score > 0.9 and red.captions[0].expert == made.name
    assert grey.captions[0].text == "a picture of a cat" and grey.captions[0].score is None
    assert made.settings["source"]["expert"] == "seen"
    assert made.provenance != tagger.TagCaption(Seen(), tagger.Tagger(0.5), minimum=0.9).provenance
    (nothing,) = made.annotate_from(images[1:], [ExpertOutput()])
    assert nothing.captions == ()


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
def test_the_real_network_knows_a_cup_of_coffee_and_a_cat():
    folder = assets.fetch("scikit-image-images")
    made = tagger.Tagger()
    made.prepare()
    said = made.tags([Image.open(folder / name) for name in ("coffee.png", "chelsea.png")])
    assert [text for text, _ in said] == ["espresso", "Egyptian cat"] and min(
        share for _, share in said
    ) > 0.5
