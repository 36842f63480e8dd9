"""What the models of the pipeline are: experts, refiners, describers of crops, matchers, composers.

All are named, versioned and loaded when first needed. Results are kept by `name`, `version` and `settings`:
whatever changes what a model says must change one of them. The number of threads, the device and the batch
size don't belong there, and neither does a key.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from PIL import Image

from monkeylib.captions.annotations import ExpertOutput, GeneratedCaption, Provenance, Record


class Model(ABC):
    """A named model. Making one loads nothing and needs no file: only `prepare` does.

    Instances are pickled to other processes before they are prepared.
    """

    name: str
    version: str
    licence: str
    gpu_share: float = 0.0  # of a GPU that one copy needs where there are GPUs; 0 if it runs on the CPU
    alone: bool = False  # there must be one copy only, however many machines there are

    @property
    def settings(self) -> dict[str, Any]:
        """What this model was configured with, as JSON values."""
        return {}

    @property
    def provenance(self) -> Provenance:
        """Name, version, settings and licence, as kept with what it says."""
        return Provenance(
            expert=self.name, version=self.version, settings=self.settings, licence=self.licence
        )

    @abstractmethod
    def prepare(self) -> None:
        """Load the weights; called before the first batch, so that missing ones are reported once."""

    def release(self) -> None:  # noqa: B027 - most models have nothing to free
        """Free the memory of the weights; `prepare` loads them again."""


class Expert(Model):
    """A model that says something about whole images."""

    @abstractmethod
    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """What the expert finds on each of a batch of RGB images, in their order."""


class DependentExpert(Expert):
    """An expert that works on what another one, its `source`, found: SAM's masks get texts from BLIP-2.

    The findings of both are kept, those of the source under its own name, so that another describer doesn't
    cut the images into segments again. `settings` has to hold the source's provenance.
    """

    source: Expert

    @abstractmethod
    def refine(self, images: Sequence[Image.Image], found: Sequence[ExpertOutput]) -> list[ExpertOutput]:
        """The findings that take the place of the source's, for each of a batch of RGB images."""

    def annotate(self, images: Sequence[Image.Image]) -> list[ExpertOutput]:
        """The source's findings, refined."""
        return self.refine(images, self.source.annotate(images))


class RegionCaptioner(Model):
    """A model that puts crops into words."""

    @abstractmethod
    def describe(self, crops: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """A text and its confidence (1 where the model has none) for each RGB crop, in their order.

        An empty text says that the model has nothing to say. Crops are many: the model batches them itself.
        """


class ImageTextMatcher(Model):
    """A model that judges how well texts fit images, as BLIP-2's matching head does in the paper."""

    @abstractmethod
    def match(self, crops: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """How well each text fits the RGB crop at its place, 0..1.

        The pairs come from many regions of several images: the model batches them itself, and may work out
        a text that comes twice, or the same crop object that comes twice, once.
        """


class Composer(Model):
    """Writes the descriptions of filtered records.

    `cost` is what it has spent since it was made, in US dollars, known while it runs and kept beside the
    records, not in them: a second run that finds all answers kept costs nothing and gives the same records.
    `batch_size` is how many records it gets at once, and how many a kill may lose.
    """

    cost: float = 0.0
    batch_size: int = 8

    def prepare(self) -> None:
        """Nothing to load, unless a composer says otherwise."""

    @abstractmethod
    def compose(self, record: Record) -> str:
        """The description, empty where nothing is known."""

    def write(self, record: Record) -> str | GeneratedCaption:
        """The description, and what was wrong with a draft, for a composer that refuses some."""
        return self.compose(record)

    def compose_all(self, records: Sequence[Record]) -> list[str | GeneratedCaption | Exception]:
        """The descriptions of several records, with the exception in the place of one that failed.

        One after the other, unless a composer asks several at once.
        """
        written: list[str | GeneratedCaption | Exception] = []
        for record in records:
            try:
                written.append(self.write(record))
            except Exception as error:  # a chat model that doesn't answer must not lose the others
                written.append(error)
        return written


def crop(image: Image.Image, box: Sequence[float]) -> Image.Image:
    """The part of an image in a box (x0, y0, x1, y1 in pixels), at least one pixel wide and high."""
    x0, y0 = (min(max(int(box[i]), 0), side - 1) for i, side in enumerate(image.size))
    x1, y1 = (
        min(max(round(box[i + 2]), low + 1), side)
        for i, (low, side) in enumerate(zip((x0, y0), image.size, strict=True))
    )
    return image.crop((x0, y0, x1, y1))
