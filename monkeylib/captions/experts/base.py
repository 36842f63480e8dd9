"""What an expert is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from PIL import Image

from monkeylib.captions.annotations import Findings, Provenance


class Expert(ABC):
    """A model that says something about pictures.

    Results are kept by `name`, `version` and `settings`: whatever changes what an expert says must change
    one of them. Models are loaded when the first batch comes, so that an expert whose results are all there
    costs nothing.
    """

    name: str
    version: str
    licence: str

    @property
    def settings(self) -> dict[str, Any]:
        """What this expert was configured with, as JSON values."""
        return {}

    @property
    def provenance(self) -> Provenance:
        """Name, version and settings, as kept with its findings."""
        return Provenance(expert=self.name, version=self.version, settings=self.settings)

    @abstractmethod
    def prepare(self) -> None:
        """Load the models; called before the first batch, so that missing ones are reported once."""

    @abstractmethod
    def annotate(self, images: Sequence[Image.Image]) -> list[Findings]:
        """What the expert finds on each of a batch of RGB pictures."""
