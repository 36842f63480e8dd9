"""One run of the small GRiT over each golden image, with the outputs of its modules."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from monkeylib.captions.experts.grit.model import prepare
from tests.support import grit_goldens


@pytest.fixture(scope="session", params=["a", "b"])
def run(request):
    """The run over one image: `name`, `image` (prepared), `outputs` by module, `detections`."""
    grit = grit_goldens.small_grit()
    with Image.open(grit_goldens.FOLDER / f"{request.param}.png") as file:
        image = prepare(file.convert("RGB"), grit.config)

    outputs = {}

    def record(name):
        def hook(module, inputs, output):
            outputs.setdefault(name, output)  # the first, where a module is called several times

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in grit.named_modules()]
    with torch.inference_mode():
        (detections,) = grit([image])
    for handle in handles:
        handle.remove()

    maps = [features[0] for features in outputs["pyramid"]]
    return SimpleNamespace(name=request.param, image=image, outputs=outputs, maps=maps, detections=detections)
