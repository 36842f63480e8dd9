"""Interfaces of the pipeline's models: experts, region captioners, image-text matchers and composers.

All are named, versioned, and loaded on demand. Results are cached by `name`, `version` and `settings`:
whatever changes the results of a model must change one of them. The number of threads, the device and the
batch size do not, and neither does an API key.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monkeylib import assets
from monkeylib.captions.annotations import ExpertOutput, GeneratedCaption, Provenance, Record, Region


class Model(ABC):
    """A named model. Creating one loads nothing and needs no file; only `prepare` does.

    Instances are pickled to other processes before they are prepared.

    Attributes:
        name: name in records and messages.
        version: version of the weights.
        licence: licence of the weights.
        setting_names: attributes that change what the model returns.
        asset_names: assets that hold its weights.
        gpu_share: share of a GPU that one copy needs, where there are GPUs; 0 if it runs on the CPU.
        alone: whether there may be only one copy, however many machines there are.
        is_paid: whether it is billed.
        account: file of what it spent in the runs into one folder, for models with a budget.
    """

    name: str
    version: str
    licence: str
    setting_names: tuple[str, ...] = ()
    asset_names: tuple[str, ...] = ()
    gpu_share: float = 0.0
    alone: bool = False
    is_paid: bool = False
    account: Path | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that change what the model returns, as JSON values: by default `setting_names`."""
        return {name: getattr(self, name) for name in self.setting_names}

    @property
    def provenance(self) -> Provenance:
        """Name, version, settings and licence, as stored with the model's results."""
        return Provenance(
            expert=self.name, version=self.version, settings=self.settings, licence=self.licence
        )

    def check(self) -> None:
        """Check that `prepare` will find what it needs, and fetch missing assets. Nothing is loaded.

        Called for all models of a run before its first image.

        Raises:
            Exception: something is missing; the message says what to do.
        """
        for name in self.asset_names:
            assets.fetch(name)

    @abstractmethod
    def prepare(self) -> None:
        """Load the weights. Called before the first batch."""

    def estimate(self, count: int, records: Sequence[Record] = ()) -> str:
        """Return a sentence about what its work on images will cost; empty if it is free.

        Args:
            count: number of images.
            records: some records like theirs.
        """
        return ""

    def release(self) -> None:  # noqa: B027 - most models have nothing to free
        """Free the memory of the weights; `prepare` loads them again."""


class Expert(Model):
    """A model that annotates full images: captions, regions, segments or lines of text.

    Attributes:
        score_threshold: score that its regions have to exceed where no matcher runs. Scores of two experts
            are different quantities, and none is a matching score. None for the filter's own thresholds.
        names_classes: whether it calls everything by a name of a fixed list, so that of two different names
            of one place at most one is right.
    """

    score_threshold: float | None = None
    names_classes: bool = False

    @abstractmethod
    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Return the annotations of each RGB image of a batch, in the images' order."""


class DependentExpert(Expert):
    """An expert that works on the annotations of another one, as BLIP-2 captions the masks of SAM.

    The annotations of both are cached, those of `upstream` under its own name, so that another region
    captioner does not segment the images again. `settings` must hold the provenance of `upstream`.

    Attributes:
        upstream: the expert whose annotations this one takes.
    """

    upstream: Expert

    @abstractmethod
    def annotate_from(
        self, images: Sequence[Image.Image], upstream: Sequence[ExpertOutput]
    ) -> list[ExpertOutput]:
        """Return the annotations that replace those of the upstream expert.

        Args:
            images: a batch of RGB images.
            upstream: the upstream expert's annotations of each image.
        """

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """Run the upstream expert, then this one."""
        return self.annotate_from(images, self.upstream.annotate(images))


class RegionCaptioner(Model):
    """A model that captions crops.

    Attributes:
        names_classes: as of `Expert`.
    """

    names_classes: bool = False

    @abstractmethod
    def caption(self, crops: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """Return a caption and its confidence for each RGB crop, in the crops' order.

        The confidence is 1 if the model reports none, and the caption may be empty. There may be many crops:
        the model splits them into batches itself.
        """


class ImageTextMatcher(Model):
    """A model that scores how well texts match images (image-text matching, ITM); in the paper BLIP-2."""

    @abstractmethod
    def match(self, crops: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """Return the matching score of each text and the RGB crop at the same index, 0..1.

        The pairs come from many regions of several images: the model splits them into batches itself, and
        may encode a text or a crop object only once if it comes several times.
        """


class Composer(Model):
    """Writes the detailed captions of filtered records.

    Attributes:
        cost: US dollars spent since the composer was created. It is stored beside the records, not in them: a
            second run with cached answers costs nothing and gives the same records.
        batch_size: number of records that the composer gets at once, and the most that a kill can lose.
        reads_images: whether it is shown the images.
    """

    cost: float = 0.0
    reads_images: bool = False
    batch_size: int = 8

    def prepare(self) -> None:
        """Load nothing; composers with weights override this."""

    @abstractmethod
    def compose(self, record: Record) -> str:
        """Return the caption; empty for a record without annotations."""

    def compose_all(self, records: Sequence[Record]) -> list[str | GeneratedCaption | Exception]:
        """Return the captions of several records, an exception in the place of each that failed.

        Records are composed one after the other, unless a composer sends several requests at once. A composer
        that refuses drafts returns `GeneratedCaption`s, which have the problems of the draft.
        """
        results: list[str | GeneratedCaption | Exception] = []
        for record in records:
            try:
                results.append(self.compose(record))
            except Exception as error:  # one failed request must not lose the other captions
                results.append(error)

        return results

    def compose_with_images(
        self, records: Sequence[Record], images: Sequence[Image.Image]
    ) -> list[str | GeneratedCaption | Exception]:
        """Return the captions of records, as `compose_all`, by a composer that `reads_images`.

        Args:
            records: the records.
            images: the RGB image of each record.
        """
        raise NotImplementedError(f"the composer {self.name} reads no images")


def crop(image: Image.Image, box: Sequence[float]) -> Image.Image:
    """Cut a box (x0, y0, x1, y1 in pixels) out of an image, at least one pixel wide and high."""
    width, height = image.size

    # Whole pixels inside the image: the corner rounds down, the far side to the nearest pixel.
    x0 = min(max(int(box[0]), 0), width - 1)
    y0 = min(max(int(box[1]), 0), height - 1)
    x1 = min(max(round(box[2]), x0 + 1), width)
    y1 = min(max(round(box[3]), y0 + 1), height)

    return image.crop((x0, y0, x1, y1))


def cut_out(image: Image.Image, region: Region) -> Image.Image:
    """Crop a region to its box, white outside its mask, as the released code shows segments to BLIP-2."""
    if region.mask is not None:
        pixels = np.asarray(image).copy()
        pixels[~region.mask.array()] = 255
        image = Image.fromarray(pixels)
    return crop(image, region.box)
