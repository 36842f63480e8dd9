"""Golden weights in the released layout, and a sound checkpoint in monkeylib's."""

import pytest
import torch

from monkeylib.experiments import parity
from monkeylib.profiles import build, load_profile
from tests.support.released_files import golden_settings, write


@pytest.fixture()
def golden(tmp_path):
    """Write the golden weights as a released folder of three shards: bf16, the position embedding in fp32."""
    weights = {key: tensor.bfloat16() for key, tensor in parity.released_weights().items()}
    weights["transformer.visual.attn_pool.pos_embed"] = weights[
        "transformer.visual.attn_pool.pos_embed"
    ].float()
    return write(tmp_path / "golden", golden_settings(), weights)


@pytest.fixture(scope="module")
def sound_model():
    """Build the model of the profile `smoke`, whose values are as good as any."""
    profile = load_profile("smoke")
    torch.manual_seed(0)
    return build.build_model(profile, build.build_processor(profile)).eval()


@pytest.fixture(scope="module")
def sound(sound_model, tmp_path_factory):
    """Write a sound checkpoint."""
    folder = tmp_path_factory.mktemp("sound") / "model"
    sound_model.save_pretrained(folder)
    build.build_processor(load_profile("smoke")).save_pretrained(folder)
    return folder
