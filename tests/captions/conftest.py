"""Many small images, and a run over them that nothing interrupts."""

import numpy as np
import pytest
from PIL import Image

from tests.support.caption_runs import IMAGES, run_pipeline


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """500 small random images; three are black, which an expert refuses, and one file is truncated."""
    home = tmp_path_factory.mktemp("images")
    colours = np.random.default_rng(0).integers(1, 255, (IMAGES, 2, 3, 3), dtype=np.uint8)
    colours[[7, 250, 499]] = 0
    for number, pixels in enumerate(colours):
        Image.fromarray(pixels).resize((12, 8), Image.Resampling.NEAREST).save(home / f"{number:03d}.png")
    (home / "100.png").write_bytes((home / "100.png").read_bytes()[:50])
    return home


@pytest.fixture(scope="session")
def uninterrupted_run(image_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    return run_pipeline(image_folder, out), out
