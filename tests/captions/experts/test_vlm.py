import pytest

from monkeylib import inference
from monkeylib.captions.experts.vlm import VLMCaptions
from monkeylib.captions.registry import load_experts
from tests.raising.conftest import noise_image
from tests.support.raised_models import save_base, save_raised


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm")
    base = save_base(folder / "base")
    return base, save_raised(folder / "raised", base)


def test_model_of_the_environment_captions(folders, monkeypatch):
    base, raised = folders
    monkeypatch.setenv("MONKEYLIB_VLM", str(raised))
    (expert,) = load_experts("vlm")
    expert.check()
    images = [noise_image(0), noise_image(1)]
    captions = [output.captions for output in expert.annotate(images)]

    monkey = inference.load_model(raised, "cpu")
    for image, of_image in zip(images, captions, strict=True):
        answer = monkey.answer(image, prompt="caption", max_new_tokens=60)
        assert [caption.text for caption in of_image] == (
            [" ".join(answer.text.split())] if answer.text else []
        )
        assert all(0 <= caption.score <= 1 for caption in of_image)

    expert.release()
    assert expert.provenance.settings["revision"] != VLMCaptions(str(base)).settings["revision"]
    assert expert.version.startswith("raised@")
    assert VLMCaptions(str(raised), grid="1x2").settings != expert.settings

    adapter = raised / "tile-0" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes() + b" ")
    assert VLMCaptions(str(raised)).version != expert.version


def test_missing_model_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("MONKEYLIB_VLM", raising=False)
    with pytest.raises(ValueError, match="set MONKEYLIB_VLM to its folder"):
        VLMCaptions().check()
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        VLMCaptions(str(tmp_path / "missing")).check()
