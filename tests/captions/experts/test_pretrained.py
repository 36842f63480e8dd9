"""Weights of transformers' models: hub or folder, and their identification in provenance."""

import pickle

import numpy as np
import pytest

from monkeylib import digests
from monkeylib.captions.experts import blip2, florence2, pretrained, sam
from tests.support import tiny_experts
from tests.support.tiny_experts import IMAGES, PLAIN

pytestmark = pytest.mark.usefixtures("tiny")

HUB = [
    blip2.Blip2Captions,
    blip2.Blip2Segments,
    blip2.Blip2Matcher,
    sam.SamMasks,
    florence2.Florence2Regions,
]


@pytest.mark.parametrize("kind", HUB)
def test_provenance_names_the_weights_before_they_are_loaded(kind, monkeypatch):
    monkeypatch.delenv(pretrained.WEIGHTS)
    expert = pickle.loads(pickle.dumps(kind(device="cpu")))

    assert len(kind.revision) == 40 and expert.settings["revision"] == kind.revision
    assert expert.settings["weights"] == kind.hub and "/" in kind.hub
    assert expert.version == f"{kind.hub.split('/')[1]}@{kind.revision[:12]}"
    assert expert.provenance.licence.split(",")[0] in ("MIT", "Apache-2.0")
    assert kind().gpu_share > 0 and expert.gpu_share == 0
    assert expert.settings["dtype"] == "float32" and kind(dtype="bfloat16").settings["dtype"] == "bfloat16"


def test_weights_in_a_folder_are_identified_by_their_digest(tmp_path, monkeypatch, tiny):
    expert = blip2.Blip2Captions()
    (name, digest) = expert.settings["weights"], expert.settings["revision"]

    assert name == "blip2-opt-2.7b" and expert.version == f"{name}@{digest[:12]}"
    assert digest == digests.folder_digest(tiny / name)

    tiny_experts.blip2(tmp_path, seed=1)
    monkeypatch.setenv(pretrained.WEIGHTS, str(tmp_path))
    assert blip2.Blip2Captions().version != expert.version
    assert blip2.Blip2Matcher().settings["weights"] == "Salesforce/blip2-itm-vit-g"  # isn't in this folder


def test_digest_of_large_files_covers_both_ends(tmp_path):
    path = tmp_path / "weights"
    file_digests = set()
    for start, end, length in [(0, 0, 5 << 20), (1, 0, 5 << 20), (0, 1, 5 << 20), (0, 0, (5 << 20) + 1)]:
        path.write_bytes(bytes([start]) + bytes(length - 2) + bytes([end]))
        file_digests.add(digests.quick_file_digest(path))
    assert len(file_digests) == 4


def test_missing_weights_raise_and_say_how_to_fetch_them(tmp_path, monkeypatch):
    monkeypatch.delenv(pretrained.WEIGHTS)
    # Offline, with an empty cache.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    for load_or_check in (sam.SamMasks().prepare, sam.SamMasks().check):
        with pytest.raises(
            FileNotFoundError, match="hf download facebook/sam-vit-huge --revision .*MONKEYLIB_WEIGHTS"
        ):
            load_or_check()


def test_check_looks_into_folder_and_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv(pretrained.WEIGHTS, str(tmp_path / "folders"))
    folder = tmp_path / "folders" / "sam-vit-huge"
    folder.mkdir(parents=True)
    expert = sam.SamMasks()
    with pytest.raises(FileNotFoundError, match="sam-vit-huge holds no weights"):
        expert.check()

    (folder / "model.safetensors").touch()
    expert.check()

    # In the hub's cache.
    monkeypatch.delenv(pretrained.WEIGHTS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = tmp_path / "cache" / "models--facebook--sam-vit-huge" / "snapshots" / expert.revision
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    sam.SamMasks().check()


def test_release_frees_weights_and_the_next_call_reloads_them():
    expert = blip2.Blip2Segments()
    expert.release()
    expert.prepare()
    network = expert.parts[0]

    assert expert.parts[0] is network and not network.training

    # The weights are loaded again on demand, with the same results.
    before = expert.caption(IMAGES[:1])
    expert.release()
    assert expert._loaded is None
    assert expert.caption(IMAGES[:1]) == before and expert.parts[0] is not network


def test_half_precision_gives_nearly_the_same_results():
    full, half = (blip2.Blip2Matcher(dtype=dtype) for dtype in ("float32", "bfloat16"))
    np.testing.assert_allclose(
        half.match(IMAGES, ["a cat", "two dogs", "the sign"]),
        full.match(IMAGES, ["a cat", "two dogs", "the sign"]),
        atol=0.1,
    )
    assert len(blip2.Blip2Captions(dtype="bfloat16", maximum_tokens=5).caption(IMAGES)) == 3
    assert len(sam.SamMasks(points=6, stability=0.5, dtype="bfloat16").annotate(IMAGES)) == 3

    expert = florence2.Florence2Regions(dtype="bfloat16", maximum_tokens=60)
    assert expert.annotate(PLAIN[1:])[0].regions[0].text == "the sign"
