"""Dense region captions by GRiT-B (the paper's region captioner), from its released checkpoint.

The checkpoint is a file that its authors offer, in their repository JialianW/GRiT: with the environment
variable MONKEYLIB_WEIGHTS set to `folder`, it is `folder/grit_b_densecap.pth`, or
`folder/grit_b_densecap_objectdet.pth` for the joint model. The released data generation of Monkey decodes the
first with the settings of the second, and so with a begin id that it wasn't trained with; here the id always
is the checkpoint's own.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from monkeylib import assets
from monkeylib.captions.annotations import ExpertOutput, Region
from monkeylib.captions.experts.grit.config import GritConfig
from monkeylib.captions.experts.pretrained import WEIGHTS, TorchModel, batches
from monkeylib.captions.models import Expert
from monkeylib.captions.registry import register_expert
from monkeylib.digests import MISSING, FileDigests

if TYPE_CHECKING:
    from transformers import BertTokenizer

    from monkeylib.captions.experts.grit.model import Detections, Grit

CHECKPOINTS = ("grit_b_densecap.pth", "grit_b_densecap_objectdet.pth")
VOCABULARY = "bert-vocabulary"


@register_expert("grit", sets={"paper": 2}, weights_from=f"the released file, in ${WEIGHTS}")
class GritRegions(TorchModel, Expert):
    """Regions with a phrase each, by the score of their boxes; a region's own score is its phrase's as well.

    It runs in float32, as the released code does.
    """

    name = "grit"
    licence = "MIT, as its code: none is stated for the weights"
    asset_names = (VOCABULARY,)
    setting_names = ("confidence",)
    gpu_share = 0.5
    config = GritConfig()

    def __init__(self, confidence: float | None = None, device: str = "auto", batch_size: int = 4) -> None:
        """Create the expert; nothing is loaded yet.

        Args:
            confidence: score above which a box is a region; None for the released one.
            device: see `TorchModel`.
            batch_size: number of images per forward pass, where they have the same size.
        """
        super().__init__(device, batch_size)
        self.confidence = self.config.score_threshold if confidence is None else confidence

    @property
    def version(self) -> str:
        """The weights and the beginning of their digest."""
        # Weights that are replaced under the same name give another version.
        path = self._find_weights()
        digest = FileDigests.in_cache().digests([path])[path][:12] if path else MISSING
        return f"{(path or Path(CHECKPOINTS[0])).stem}@{digest}"

    def _find_weights(self) -> Path | None:
        """Return the path of the checkpoint, None if there is none."""
        folder = os.environ.get(WEIGHTS)
        paths = [Path(folder) / name for name in CHECKPOINTS] if folder else []
        return next((path for path in paths if path.is_file()), None)

    def check(self) -> None:
        """Check that the checkpoint is there, and fetch the vocabulary if it is missing.

        Raises:
            FileNotFoundError: there is no checkpoint, or the vocabulary can't be fetched.
        """
        self._weights_path()
        super().check()

    def _weights_path(self) -> Path:
        path = self._find_weights()
        if path is None:
            raise FileNotFoundError(
                f"GRIT's weights aren't there: download {CHECKPOINTS[0]} from its authors' repository "
                f"JialianW/GRiT, and set {WEIGHTS} to the folder that holds it (or use the expert "
                "florence2, its stand-in)."
            )
        return path

    def _load(self) -> "tuple[Grit, BertTokenizer]":
        from monkeylib.captions.experts.grit.checkpoint import load_grit

        config = dataclasses.replace(self.config, score_threshold=self.confidence)
        grit = load_grit(self._weights_path(), config).to(self.resolved_device)
        return grit, build_tokenizer(assets.fetch(VOCABULARY))

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return the regions of each image.

        Raises:
            FileNotFoundError: there are no weights.
            ValueError: they are of another model, or broken.
        """
        import torch

        from monkeylib.captions.experts.grit.model import prepare

        grit, _ = self.parts
        prepared = [prepare(image.convert("RGB"), grit.config) for image in images]

        # Images of one padded size share a batch.
        same_size: dict[Sequence[int], list[int]] = {}
        for index, image in enumerate(prepared):
            same_size.setdefault(image.pixels.shape, []).append(index)

        outputs: list[ExpertOutput] = [ExpertOutput()] * len(images)
        with torch.inference_mode():
            for indices in same_size.values():
                for some in batches(indices, self.batch_size):
                    detections = grit([prepared[index] for index in some])
                    for index, own in zip(some, detections, strict=True):
                        outputs[index] = ExpertOutput(regions=self._regions(own))

        return outputs

    def _regions(self, detections: "Detections") -> tuple[Region, ...]:
        _, tokenizer = self.parts
        # The first id only begins the caption.
        texts = [
            tokenizer.decode(ids[1:], skip_special_tokens=True, clean_up_tokenization_spaces=True)
            for ids in detections.ids.tolist()
        ]

        regions = []
        boxes, scores = detections.boxes.tolist(), detections.scores.tolist()
        for box, score, text in zip(boxes, scores, texts, strict=True):
            text = " ".join(text.split())
            if text:
                regions.append(Region(box=tuple(box), text=text, score=min(score, 1.0), expert=self.name))

        return tuple(regions)


def build_tokenizer(path: Path) -> "BertTokenizer":
    """Return BERT's tokenizer with the vocabulary of a JSON file: a list of tokens in the order of their ids.

    The file marks the beginning of a word by ▁, BERT the continuation of one by ##.
    """
    from transformers import BertTokenizer

    ids = {}
    for token_id, token in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        if token.startswith("▁"):
            token = token[1:] or "[unused0]"  # the file's own mark has that place
        elif not (token.startswith("[") and len(token) > 1):  # special tokens stay
            token = f"##{token}"
        ids[token] = token_id

    return BertTokenizer(vocab=ids)
