"""nano-llava: distillation, what the fine-tuning trains, and the recipe in its smallest form."""

import pytest
import torch
from safetensors.torch import load_file

from monkeylib import resources, tables
from monkeylib.model import MonkeyProjectorConfig
from monkeylib.model.resampler import Projector
from monkeylib.profiles import build, trainable
from recipes.nano_llava import train as llava


@pytest.fixture(scope="module")
def projector_of():
    """Return a function that builds a projector of the right sizes."""

    def build_projector(seed: int) -> Projector:
        torch.manual_seed(seed)
        config = build.build_config(llava.llava_profile())
        return Projector(config)

    return build_projector


def test_projector_learns_tokens_that_depend_on_each_patch_alone(projector_of):
    teacher, projector = projector_of(0), projector_of(1)
    features = torch.randn(1024, 160, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        tokens = teacher(features[None])[0]
        before = (projector(features[None])[0] - tokens).square().mean()

    llava.fit_projector(projector, features, tokens, llava.Distillation(epochs=20, batch_size=128))
    with torch.no_grad():
        after = (projector(features[None])[0] - tokens).square().mean()
    assert after < 0.2 * before


def test_resampler_of_the_teacher_has_a_query_at_each_patch():
    profile = llava.resampler_profile(144)
    processor = build.build_processor(profile)
    teacher = build.build_model(profile, processor).eval()
    features, tokens = llava.compute_tokens(teacher, processor, range(1), profile)
    assert features.shape == (5 * 144, 160) and tokens.shape == (5 * 144, 192)

    # A query sees most of the patch at its place.
    with torch.no_grad():
        _, attention = teacher.resampler(features.view(5, 144, 160), return_attention=True)
    places = attention.mean((0, 1)).argmax(-1)
    near = (places // 12 - torch.arange(144) // 12).abs() + (places % 12 - torch.arange(144) % 12).abs()
    assert (near <= 1).float().mean() > 0.8


def test_recipe_resumes_and_writes_the_projector_with_its_scores_and_card(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "runs", lambda name: tmp_path / "runs" / name)
    monkeypatch.setattr(resources, "models", lambda: tmp_path / "models")
    settings = (
        llava.Distillation(images=1, epochs=1, batch_size=256, held_out=1),
        llava.Tuning(steps=1, batch_size=2),
        llava.Scoring(large=2, fine=2),
    )
    llava.main(*settings)

    folder = tmp_path / "models" / "nano-llava"
    weights = load_file(folder / llava.PROJECTOR)
    distilled = load_file(tmp_path / "runs" / "nano-llava" / "distilled" / llava.PROJECTOR)
    assert weights.keys() == distilled.keys()
    assert any(not torch.equal(weights[name], distilled[name]) for name in weights)

    rows = tables.read_csv(folder / llava.SCORES)
    assert [row["visual_tokens"] for row in rows] == [64, 320, 36, 180, 144, 720, 144, 720, 144, 720]
    card = (folder / "README.md").read_text()
    assert f"{sum(weight.numel() for weight in weights.values()):,} weights" in card
    assert "| nano-llava | tiles and global view | fine text | 720 |" in card

    # What is finished is not trained again.
    monkeypatch.setattr(llava, "fit_projector", lambda *_: pytest.fail("distilled twice"))
    assert llava.distil(settings[0], tmp_path / "runs" / "nano-llava" / "distilled").exists()


def test_fine_tuning_trains_the_projector_alone(projector_of, tmp_path):
    file = tmp_path / "projector.safetensors"
    llava.save_file(projector_of(0).state_dict(), file)
    profile = llava.tuning_profile(file, llava.Tuning(), seed=0)
    model = build.build_model(profile, build.build_processor(profile))
    assert isinstance(model.config.resampler_config, MonkeyProjectorConfig)

    trainable.set_trainable(model, profile)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {f"resampler.{name}" for name in projector_of(0).state_dict()}
