"""Cheap models of the true interfaces, for tests of what runs them; other processes import them too."""

import zlib

import numpy as np

from monkeylib.captions.annotations import Caption, ExpertOutput, Mask, Region
from monkeylib.captions.composers import Composer
from monkeylib.captions.experts.base import Expert, ImageTextMatcher, RegionCaptioner

NAMES = ("red", "green", "blue")


class Colours(Expert):
    """Names the brightest channel of each image and has a region of it; refuses black images."""

    name, version, licence = "colours", "1", "CC0-1.0"

    def __init__(self, **settings):
        self._settings, self.asked = settings, []

    @property
    def settings(self):
        return self._settings

    def prepare(self):
        """Nothing to load."""

    def annotate(self, images):
        self.asked.append(len(images))
        return [self._look(np.asarray(image)) for image in images]

    def _look(self, pixels):
        if not pixels.any():
            raise RuntimeError("too dark")
        name = NAMES[int(pixels.mean(axis=(0, 1)).argmax())]
        height, width = pixels.shape[:2]
        region = Region(box=(0, 0, width, height / 2), text=name, score=0.9, expert=self.name)
        return ExpertOutput(captions=(Caption(text=f"a {name} image", expert=self.name),), regions=(region,))


class Halves(Expert):
    """Cuts each image in a left and a right segment, not described yet."""

    name, version, licence = "halves", "1", "CC0-1.0"

    def __init__(self):
        self.asked = []

    def prepare(self):
        """Nothing to load."""

    def annotate(self, images):
        self.asked.append(len(images))
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
    """Describes crops as light or dark; has no words for white."""

    name, version, licence = "shades", "1", "CC0-1.0"

    def __init__(self, words=("dark", "light")):
        self.words, self.asked = words, []

    @property
    def settings(self):
        return {"words": list(self.words)}

    def prepare(self):
        """Nothing to load."""

    def caption(self, crops):
        self.asked.append(len(crops))
        means = [np.asarray(crop).mean() for crop in crops]
        return [("" if mean == 255 else self.words[int(mean >= 64)], 0.8) for mean in means]


class ChecksumMatcher(ImageTextMatcher):
    """A made but fixed score for each pair, from the text and the size of the crop."""

    name, version, licence = "tally", "1", "CC0-1.0"

    def __init__(self):
        self.asked = []

    def prepare(self):
        """Nothing to load."""

    def match(self, crops, texts):
        self.asked.append(len(texts))
        return [score(crop.size, text) for crop, text in zip(crops, texts, strict=True)]


def score(size, text) -> float:
    """What `ChecksumMatcher` says of a text and a crop of a size."""
    return zlib.crc32(f"{size} {text}".encode()) % 1000 / 999


class Billed(Composer):
    """Says how many regions there are, for a cent each time."""

    name, version, licence = "billed", "1", "CC0-1.0"

    def __init__(self):
        self.cost, self.asked = 0.0, 0

    def compose(self, record):
        self.asked += 1
        self.cost += 0.01
        return f"There are {len(record.regions)} things."
