"""Golden weights in the released layout."""

import pytest

from monkeylib.experiments import parity
from tests.support.released_files import golden_settings, write


@pytest.fixture()
def golden(tmp_path):
    """Write the golden weights as a released folder of three shards: bf16, the position embedding in fp32."""
    weights = {key: tensor.bfloat16() for key, tensor in parity.released_weights().items()}
    weights["transformer.visual.attn_pool.pos_embed"] = weights[
        "transformer.visual.attn_pool.pos_embed"
    ].float()
    return write(tmp_path / "golden", golden_settings(), weights)
