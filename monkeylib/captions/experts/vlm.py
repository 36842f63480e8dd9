"""Captions by any image-text model: of transformers, raised to more pixels, or a Monkey.

The environment says which: `MONKEYLIB_VLM=raised monkeylib caption ... --experts vlm,pp-ocr`.
"""

import gc
import math
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from monkeylib import resources
from monkeylib.captions.annotations import Caption, ExpertOutput
from monkeylib.captions.models import Expert
from monkeylib.captions.registry import register_expert
from monkeylib.digests import folder_digest, text_digest

# Folder of a model or its name on the hub, and the grid that a base is raised to.
MODEL, GRID = "MONKEYLIB_VLM", "MONKEYLIB_VLM_GRID"
_MAXIMUM_TOKENS = 60


@register_expert("vlm", weights_from=f"a model of yours: ${MODEL}")
class VLMCaptions(Expert):
    """Captions of full images by an image-text model, greedily.

    Args:
        model: folder of the model or its name on the hub, by default that of $MONKEYLIB_VLM.
        grid: of tiles that a base is raised to, by default that of $MONKEYLIB_VLM_GRID; empty for none.
        prompt: name of the prompt.
    """

    name = "vlm"
    licence = "that of the model"
    gpu_share = 1.0

    def __init__(self, model: str = "", grid: str = "", prompt: str = "caption") -> None:
        self.model = model or os.environ.get(MODEL, "")
        if self.model:
            self.model = str(resources.find_model(self.model))
        self.grid = grid or os.environ.get(GRID, "")
        self.prompt = prompt
        self._answer: Any = None

    @cached_property
    def version(self) -> str:
        """Name of the model, and the beginning of the digest of its folder or of its revision."""
        name, revision = self._identity
        return f"{name.rstrip('/').rsplit('/', 1)[-1]}@{revision[:12]}"

    @property
    def settings(self) -> dict[str, Any]:
        """The model with its full revision, grid and prompt."""
        name, revision = self._identity
        return {"model": name, "revision": revision, "grid": self.grid, "prompt": self.prompt}

    @cached_property
    def _identity(self) -> tuple[str, str]:
        """Name and revision of the model; of a raised one, its base is named in its files.

        Raises:
            FileNotFoundError: there is none of this name.
        """
        if not self.model:
            return "no model", "none"
        folder = Path(self.model)
        if folder.is_dir():
            # The adapters of a raised model lie in a folder each.
            folders = [folder, *sorted(folder.glob("tile-*/"))]
            return folder.name, text_digest("".join(map(folder_digest, folders)))

        import huggingface_hub

        from monkeylib.checkpoints import hub
        from monkeylib.evaluation.hf_models import require_model

        require_model(self.model)
        hub.go_offline_if_unreachable(self.model)
        try:
            # The folder of a snapshot is named after its commit.
            config = huggingface_hub.hf_hub_download(self.model, "config.json")
        except Exception as error:  # the hub's own errors, and those of the library under it
            raise FileNotFoundError(
                f"the model {self.model} of {MODEL} is neither a folder nor can it be fetched from the hub "
                f"({type(error).__name__})"
            ) from error
        return self.model, Path(config).parent.name

    def check(self) -> None:
        """Check that there is a model.

        Raises:
            ValueError, FileNotFoundError: there is none.
        """
        if not self.model:
            raise ValueError(
                f"the expert vlm needs a model: set {MODEL} to its folder or its name on the hub"
            )
        _ = self._identity

    def prepare(self) -> None:
        """Load the model."""
        from monkeylib.evaluation.hf_models import load_image_text_model
        from monkeylib.evaluation.predict import answer_function

        if self._answer is None:
            model = load_image_text_model(self.model, _MAXIMUM_TOKENS, grid=self.grid)
            self._answer = answer_function(model, _MAXIMUM_TOKENS)

    def release(self) -> None:
        """Free the model."""
        self._answer = None
        gc.collect()

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return the caption of each image with the geometric mean of its tokens' probabilities."""
        from monkeylib.evaluation.examples import Example

        self.prepare()
        examples = [Example(str(number), image, "", (), self.prompt) for number, image in enumerate(images)]
        outputs = []
        for answer in self._answer(examples):
            text = " ".join(answer.text.split())
            score = min(1.0, math.exp(answer.log_probability / max(1, answer.tokens)))
            captions = (Caption(text=text, expert=self.name, score=score),) if text else ()
            outputs.append(ExpertOutput(captions=captions))
        return outputs
