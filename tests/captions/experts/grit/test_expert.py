"""GRIT as an expert of the caption pipeline, with small random weights on real images."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from monkeylib import resources
from monkeylib.captions import experts
from monkeylib.captions.experts.grit import GritRegions, expert, model
from monkeylib.captions.experts.pretrained import WEIGHTS
from monkeylib.captions.input_images import find_images
from monkeylib.captions.pipeline import Pipeline
from tests.support import tiny_experts

SAMPLES = sorted((resources.REPOSITORY / "data" / "samples").glob("*.[jp][pn]g"))[:3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    tiny_experts.grit(root)
    return root


@pytest.fixture(scope="module", autouse=True)
def grit_expert(folder):
    """An expert with small weights, which other ones find, too."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv(WEIGHTS, str(folder))
        tiny_experts.use_tiny_grit(monkeypatch, folder)
        yield GritRegions(device="cpu")


def open_samples() -> list[Image.Image]:
    images = []
    for path in SAMPLES:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    return images


def test_regions_lie_inside_their_images(grit_expert):
    images = [*open_samples(), Image.new("L", (40, 90), 99)]
    outputs = grit_expert.annotate(images)

    for image, output in zip(images, outputs, strict=True):
        assert output.regions
        for region in output.regions:
            x0, y0, x1, y1 = region.box
            assert 0 <= x0 < x1 <= image.width and 0 <= y0 < y1 <= image.height
            assert 0 < region.score <= 1 and region.expert == "grit" and region.kind == "region"
            assert "##" not in region.text and "[" not in region.text


def test_results_do_not_depend_on_the_batch_size(grit_expert, monkeypatch):
    """Images of one padded size share a batch; the order is that of the images."""
    sizes = []
    forward = model.Grit.forward
    monkeypatch.setattr(
        model.Grit, "forward", lambda self, images: sizes.append(len(images)) or forward(self, images)
    )
    first = open_samples()[0]
    tall = first.transpose(Image.Transpose.ROTATE_90).crop((0, 0, 50, 90))
    images = [first, tall, first.transpose(Image.Transpose.FLIP_LEFT_RIGHT), first]

    monkeypatch.setattr(grit_expert, "batch_size", 2)
    together = grit_expert.annotate(images)
    assert sizes == [2, 1, 1]
    alone = [grit_expert.annotate([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert [region.text for region in one.regions] == [region.text for region in other.regions]
        np.testing.assert_allclose(
            [region.box for region in one.regions], [region.box for region in other.regions], atol=1e-2
        )
    assert grit_expert.annotate([]) == []


def test_it_is_an_expert_of_the_pipeline(grit_expert, tmp_path):
    """From image files to records: the regions, and what they came from."""
    pipeline = Pipeline([grit_expert])
    pipeline.run(find_images(SAMPLES), tmp_path / "out", progress=False)
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]

    assert len(records) == len(SAMPLES)
    for record in records:
        assert not record["failures"]
        assert any(item["expert"] == "grit" for item in (*record["regions"], *record["dropped"]))
        (provenance,) = [one for one in record["provenance"] if one["expert"] == "grit"]
        assert provenance["version"].startswith("grit_b_densecap@")
        assert provenance["settings"] == {"confidence": 0.02} and provenance["licence"].startswith("MIT")


def test_confidence_decides_what_is_a_region():
    image = open_samples()[0]
    assert GritRegions(device="cpu", confidence=0.999).annotate([image])[0].regions == ()
    assert GritRegions(confidence=0.3).provenance != GritRegions(confidence=0.4).provenance


def test_texts_are_those_of_berts_vocabulary(tmp_path):
    words = ["[PAD]", "▁", *(f"[unused{i}]" for i in range(1, 99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += ["[unused99]", "▁a", "▁man", "▁'", "▁s", "▁straw", "berries", "▁.", "▁don", "▁t", "▁[", "["]
    (tmp_path / "words.json").write_text(json.dumps(words), encoding="utf-8")
    tokenizer = expert.build_tokenizer(tmp_path / "words.json")

    def text(*tokens: str) -> str:
        ids = [words.index(token) for token in tokens]
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=True)

    assert len(tokenizer) == len(words)
    caption = ["▁a", "▁man", "▁'", "▁s", "▁straw", "berries", "▁.", "[UNK]", "▁don", "▁'", "▁t"]
    assert text(*caption, "[SEP]", "[SEP]", "[PAD]") == "a man's strawberries. don't"
    assert text("[SEP]", "[SEP]") == ""


def test_empty_captions_are_no_regions(grit_expert):
    detections = model.Detections(
        torch.tensor([[0.0, 0, 5, 5], [1, 1, 9, 9]]),
        torch.tensor([0.7, 0.8]),
        torch.tensor([[101, 102, 102], [101, 108, 102]]),
    )
    (region,) = grit_expert._regions(detections)
    assert region.box == (1, 1, 9, 9) and region.text == "word108"


def test_missing_weights_raise_and_say_where_they_belong(tmp_path, monkeypatch):
    for place in (None, str(tmp_path)):
        monkeypatch.delenv(WEIGHTS) if place is None else monkeypatch.setenv(WEIGHTS, place)
        grit_expert = GritRegions(device="cpu")
        assert grit_expert.version == "grit_b_densecap@missing"
        for load_or_check in (grit_expert.check, grit_expert.prepare):
            with pytest.raises(FileNotFoundError, match="download grit_b_densecap.pth .*MONKEYLIB_WEIGHTS"):
                load_or_check()


def test_weights_are_identified_by_their_digest(folder, tmp_path, monkeypatch):
    before = GritRegions().version
    content = (folder / "grit_b_densecap.pth").read_bytes()
    (tmp_path / "grit_b_densecap_objectdet.pth").write_bytes(content + b" ")
    monkeypatch.setenv(WEIGHTS, str(tmp_path))

    joint = GritRegions().version
    assert joint.startswith("grit_b_densecap_objectdet@") and joint.split("@")[1] != before.split("@")[1]


def test_expert_is_loaded_by_name_and_goes_to_other_processes():
    (loaded,) = experts.load_experts(["grit"])
    copy = pickle.loads(pickle.dumps(loaded))
    assert isinstance(copy, GritRegions) and copy.provenance == loaded.provenance
    assert GritRegions().gpu_share > 0 == GritRegions(device="cpu").gpu_share
    loaded.check()

    loaded.prepare()
    network = loaded.parts[0]
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    loaded.release()
    assert loaded._loaded is None
