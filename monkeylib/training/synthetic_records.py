"""Synthetic images with conversations about them, as endless training data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monkeylib import digests
from monkeylib.data.permutation import RandomPermutation
from monkeylib.data.records import Record
from monkeylib.data.synthetic import Sample, label_levels, make_sample
from monkeylib.data.synthetic.tasks import Turn, training_turns
from monkeylib.profiles import Profile
from monkeylib.tiling import grid_positions
from monkeylib.training.batches import TrainingData

# Number of the first synthetic image that nano-base has not been trained on.
FIRST_UNSEEN_IMAGE = 20_000_000


@dataclass(frozen=True)
class ImageMix:
    """What synthetic training images show.

    Attributes:
        shares: of each kind of image; together 1.
        three_signs: share of the images with signs that have three in any case, the others one to three.
    """

    shares: Mapping[str, float]
    three_signs: float = 0.0


# Scenes with signs come often, since to find the sign that a question is about is the hardest task when an
# image is cut into tiles: those that one view was too coarse to read become legible, too.
MIXES = {
    "usual": ImageMix({"general": 0.2, "scene_text": 0.42, "document": 0.38}),
    "several_signs": ImageMix({"general": 0.1, "scene_text": 0.62, "document": 0.28}, three_signs=0.775),
}


class SyntheticRecords:
    """Endless dataset of conversations about synthetic images of a split.

    Where the grid of an image follows its shape, images have the sizes of all such grids.

    Where the profile trains on captions (`data.synthetic.label_levels`), training images are the same few in
    every run, in another order each time. Validation records keep their questions.

    Raises:
        ValueError: the labels are the caption pipeline's, which has not described images of this kind.
    """

    def __init__(self, profile: Profile, split: str):
        self.size, self.split = profile.image_size, split
        self.tile_size, self.auto_tiles = profile.tile_size, profile.auto_tiles
        self.rendering = profile.rendering
        # Pixels of the finest view per pixel of the image: what is too small to read is mostly not asked.
        self.scale = 1.0 if profile.views != "global" else profile.tile_size / self.size[0]
        self.name = f"nano-{split}"

        self.labels = profile.labels if split == "train" else "questions"
        # Captions are compared on the same images, and losses on the same validation images.
        has_usual_images = split != "train" or self.labels != "questions"
        self.mix = MIXES["usual" if has_usual_images else profile.training_images]
        is_described = self.size == label_levels.IMAGE_SIZE and self.auto_tiles is None
        if self.labels == label_levels.PIPELINE and not (is_described and self.rendering == "ordinary"):
            width, height = label_levels.IMAGE_SIZE
            raise ValueError(
                f"the caption pipeline has described ordinary synthetic images of {width} x {height} pixels "
                "only: train with labels: text, or with images of that kind"
            )

    def __getitem__(self, index: int) -> Record:
        if self.labels != "questions":
            return self._caption_record(index)

        # Most of an example are visual tokens: more text costs little time and teaches more.
        sample = self.sample(index)
        turns = training_turns(
            sample,
            np.random.default_rng([13, index]),
            self.scale,
            budget=300,
            detailed=0.25,
            independent=True,
        )
        return self._record(index, sample, turns)

    def _caption_record(self, index: int) -> Record:
        """Return an image with its caption behind a few questions: every image once in each epoch."""
        epoch, position = divmod(index, label_levels.NUM_IMAGES)
        order = RandomPermutation(label_levels.NUM_IMAGES, "labels", epoch)
        number = FIRST_UNSEEN_IMAGE + order[position]

        sample = self.sample(number)
        rng = np.random.default_rng([13, index])
        return self._record(number, sample, label_levels.label_turns(sample, self.labels, rng, self.scale))

    def _record(self, number: int, sample: Sample, turns: Sequence[Turn]) -> Record:
        name = f"{self.name}-{number}"
        return Record.from_turns(name, (sample.image,), turns, self.name, name)

    def sample(self, index: int) -> Sample:
        """Return a synthetic image with its ground truth."""
        # Each random draw has its own stream, numbered by its purpose and the index.
        families, shares = list(self.mix.shares), list(self.mix.shares.values())
        family = str(np.random.default_rng([31, index]).choice(families, p=shares))
        has_three_signs = np.random.default_rng([37, index]).random() < self.mix.three_signs
        size = self._size_of(index)
        # A document takes two tiles across.
        if size[0] < 2 * self.tile_size and self.auto_tiles is not None and family == "document":
            family = "scene_text"
        signs = 3 if has_three_signs else None
        return make_sample(index, self.split, size, family, self.rendering, signs=signs)

    def _size_of(self, index: int) -> tuple[int, int]:
        """Return width and height of an image in pixels, those of all grids in turn."""
        if self.auto_tiles is None:
            return self.size
        positions = grid_positions(self.auto_tiles)
        row, col = positions[index % len(positions)]
        return (col + 1) * self.tile_size, (row + 1) * self.tile_size


def synthetic_data(profile: Profile) -> TrainingData:
    """Return synthetic data for a profile, rendered on the fly: other images for each seed.

    The digest is that of the first records, so that a run starts from scratch when images or questions have
    changed.
    """
    # Seeds lie a million images apart, so that their runs read different ones.
    offset = FIRST_UNSEEN_IMAGE + profile.training.seed * 1_000_000
    train, validation = SyntheticRecords(profile, "train"), SyntheticRecords(profile, "val")
    first_records = [train[offset + index] for index in range(16)]
    digest = digests.data_digest([(record.turns, record.images) for record in first_records])
    return TrainingData(train, validation, digest, offset=offset, validation_offset=FIRST_UNSEEN_IMAGE)
