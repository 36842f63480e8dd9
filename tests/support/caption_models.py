"""Cheap models with the interfaces of the pipeline. Other processes import them too."""

import zlib

import numpy as np

from monkeylib.captions.annotations import Caption, ExpertOutput, Mask, Region
from monkeylib.captions.composers import Composer
from monkeylib.captions.models import Expert, ImageTextMatcher, RegionCaptioner

NAMES = ("red", "green", "blue")


class Colours(Expert):
    """Captions each image with its brightest channel, and has a region of it; refuses black images."""

    name, version, licence = "colours", "1", "CC0-1.0"

    def __init__(self, **settings):
        self._settings = settings
        self.batches = []  # sizes of the batches so far

    @property
    def settings(self):
        return self._settings

    def prepare(self):
        """Nothing to load."""

    def annotate(self, images):
        self.batches.append(len(images))
        return [self._describe(np.asarray(image)) for image in images]

    def _describe(self, pixels):
        if not pixels.any():
            raise RuntimeError("too dark")
        name = NAMES[int(pixels.mean(axis=(0, 1)).argmax())]
        height, width = pixels.shape[:2]
        region = Region(box=(0, 0, width, height / 2), text=name, score=0.9, expert=self.name)
        return ExpertOutput(captions=(Caption(text=f"a {name} image", expert=self.name),), regions=(region,))


class Halves(Expert):
    """Segments each image into a left and a right half, without captions."""

    name, version, licence = "halves", "1", "CC0-1.0"

    def __init__(self):
        self.batches = []

    def prepare(self):
        """Nothing to load."""

    def annotate(self, images):
        self.batches.append(len(images))
        return [ExpertOutput(regions=tuple(self._cut(*image.size))) for image in images]

    def _cut(self, width, height):
        for x0, x1 in ((0, width // 2), (width // 2, width)):
            mask = np.zeros((height, width), dtype=bool)
            mask[:, x0:x1] = True
            box = (x0, 0, x1, height)
            yield Region(
                box=box, text="", score=0.9, expert=self.name, kind="segment", mask=Mask.from_array(mask)
            )


class Shades(RegionCaptioner):
    """Captions crops as light or dark; has no words for white."""

    name, version, licence = "shades", "1", "CC0-1.0"

    def __init__(self, words=("dark", "light")):
        self.words = words
        self.batches = []

    @property
    def settings(self):
        return {"words": list(self.words)}

    def prepare(self):
        """Nothing to load."""

    def caption(self, crops):
        self.batches.append(len(crops))
        means = [np.asarray(crop).mean() for crop in crops]
        return [("" if mean == 255 else self.words[int(mean >= 64)], 0.8) for mean in means]


class ChecksumMatcher(ImageTextMatcher):
    """An arbitrary but fixed score for each pair, from the text and the size of the crop."""

    name, version, licence = "tally", "1", "CC0-1.0"

    def __init__(self):
        self.batches = []

    def prepare(self):
        """Nothing to load."""

    def match(self, crops, texts):
        self.batches.append(len(texts))
        return [score(crop.size, text) for crop, text in zip(crops, texts, strict=True)]


def score(size, text) -> float:
    """Return the score that `ChecksumMatcher` gives a text and a crop of a size."""
    return zlib.crc32(f"{size} {text}".encode()) % 1000 / 999


class Billed(Composer):
    """States the number of regions, for a cent each time."""

    name, version, licence = "billed", "1", "CC0-1.0"

    def __init__(self):
        self.cost = 0.0
        self.composed = 0

    def compose(self, record):
        self.composed += 1
        self.cost += 0.01
        return f"There are {len(record.regions)} things."
