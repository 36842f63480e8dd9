"""Experts and matchers by name: every expert registers itself, and sets are made of the registrations."""

import subprocess
import sys

import pytest

from monkeylib import assets
from monkeylib.captions import experts
from monkeylib.captions.experts.ocr import PpOcr
from monkeylib.captions.experts.tagger import TagCaption
from monkeylib.captions.experts.yolox import YoloxRegions
from monkeylib.captions.registry import register_expert


def test_experts_are_loaded_by_name_or_by_set():
    loaded = experts.load_experts("cpu")
    assert [type(expert) for expert in loaded] == [PpOcr, YoloxRegions, TagCaption]
    assert [type(expert) for expert in experts.load_experts(["yolox"])] == [YoloxRegions]
    mixed = [expert.name for expert in experts.load_experts(["yolox", "cpu", "tagged-segments"])]
    assert mixed == ["yolox-nano", "pp-ocr", "tag-caption", "sam-distilled+efficientnet-lite0"]
    with pytest.raises(ValueError, match="no expert called 'vqa': choose .*or a set: cpu, demonstration"):
        experts.load_experts("vqa")


def test_sets_have_their_experts_in_order():
    assert experts.expert_sets() == {
        "cpu": ("pp-ocr", "yolox", "tag-caption"),
        "demonstration": ("pp-ocr", "yolox", "tag-caption", "tagged-segments"),
        "paper": ("blip2", "grit", "sam-blip2", "pp-ocr"),
        "vision": ("chat-vision", "pp-ocr"),
    }


def test_every_expert_has_a_different_provenance():
    loaded = [experts.load_experts([name])[0] for name in experts.expert_names()]
    assert len({expert.name for expert in loaded}) == len(loaded)
    for expert in loaded:
        assert expert.licence and expert.provenance.expert == expert.name and expert.provenance.version
    assert PpOcr(0.5).provenance != PpOcr(0.3).provenance


def test_every_expert_of_the_small_sets_names_its_assets():
    existing_assets = {asset.name for asset in assets.list_assets()}
    for name in experts.expert_sets()["demonstration"]:
        needed = experts.EXPERTS.entries[name].assets
        assert needed and set(needed) <= existing_assets


def test_missing_assets_are_listed_without_loading_an_expert(tmp_path, monkeypatch):
    assert experts.missing_assets("pp-ocr") == []  # installed with its package

    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(assets.resources, "REPOSITORY", tmp_path)
    assert experts.missing_assets("tagged-segments") == [
        "sam-distilled", "efficientnet-lite0", "imagenet-names",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="weights of the expert 'blip2' are no assets"):
        experts.missing_assets("blip2")


def test_two_experts_of_one_name_are_refused():
    assert "yolox" in experts.expert_names()
    with pytest.raises(ValueError, match="two experts called 'yolox': rename one"):
        register_expert("yolox")(YoloxRegions)


def test_looking_up_experts_and_composers_imports_no_heavy_library():
    code = (
        "import sys; from monkeylib.captions import composers, experts; experts.load_experts('cpu'); "
        "experts.load_experts('paper'); composers.COMPOSERS.entries; "
        "print({'torch', 'transformers', 'onnxruntime', 'rapidocr', 'openai'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "set()"
