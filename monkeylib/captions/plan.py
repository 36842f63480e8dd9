"""The plan of a run: the shards of its images, and whether those of an earlier run are still among them."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monkeylib import resources
from monkeylib.captions.input_images import ImageListing, InputImage
from monkeylib.captions.record_files import Shard, ShardKey, committed_images, plan_shards
from monkeylib.digests import DigestSet, RunningDigest
from monkeylib.progress import CountCallback
from monkeylib.runs import RunDiffers


@dataclass(frozen=True)
class Plan:
    """The shards of a run. Images that are listed, not held in memory, are listed again when they are run.

    Fields:
        images: the images.
        keys: what the shards are known by.
        images_digest: digest of the names, contents and original captions of the images.
        plan: divides the images into shards.
        held: the shards of images that are held in memory anyway; else None.
    """

    images: Sequence[InputImage] | ImageListing
    keys: list[ShardKey]
    images_digest: str
    plan: partial[Iterator[Shard]]
    held: list[Shard] | None = field(default=None, repr=False)

    @classmethod
    def make(
        cls,
        images: Sequence[InputImage] | ImageListing,
        provenance: Sequence[Any],
        shard_size: int,
        progress: CountCallback,
    ) -> "Plan":
        """Plan the shards of images.

        Raises:
            ValueError: the size is below 1.
        """
        plan = partial(plan_shards, images, provenance, shard_size)
        keys = []
        digest = RunningDigest()
        held = None if isinstance(images, ImageListing) else []
        for shard in plan(progress):
            keys.append(shard.key)
            for image_key in _image_keys(shard):
                digest.add(image_key)
            if held is not None:
                held.append(shard)
        return cls(images, keys, digest.digest(), plan, held)

    def shards(self, names: Collection[str] | None = None) -> Iterator[Shard]:
        """Yield the shards, or those of some names.

        Raises:
            ValueError: the images have changed since the shards were planned.
        """
        keys = iter(self.keys)
        for shard in self.plan() if self.held is None else self.held:
            if shard.key != next(keys, None):
                raise ValueError("images were changed while the run was planned: run it again")
            if names is None or shard.key.name in names:
                yield shard


def _image_keys(shard: Shard) -> Iterator[tuple[str, str, str]]:
    """Yield name, SHA-256 and original caption of each image."""
    for image, sha256 in zip(shard.images, shard.sha256, strict=True):
        yield image.name, sha256, image.original_caption


def require_earlier_images(plan: Plan, shard_folder: Path, out: Path) -> None:
    """Check that all images that a run has records of are among those of a plan.

    An image that could not be read may have been replaced. Of each image 16 bytes are held in memory.

    Args:
        plan: what is to be run.
        shard_folder: where the run has committed its shards.
        out: folder of the run, for messages.

    Raises:
        RunDiffers: one is missing, or has changed.
    """
    rows = (
        (DigestSet.number(json.dumps(image_key)), DigestSet.number(image_key[0]))
        for shard in plan.shards()
        for image_key in _image_keys(shard)
    )
    # Of an image, and of its name alone.
    numbers = np.fromiter(rows, np.dtype(("u8", 2)), sum(key.count for key in plan.keys))
    images, names = DigestSet(numbers[:, 0]), DigestSet(numbers[:, 1])

    lost, first = 0, ""
    for image_key in committed_images(shard_folder):
        name, sha256, _ = image_key
        if name not in names:
            problem = f"{name} is missing"
        elif sha256 and json.dumps(image_key) not in images:
            problem = f"{name} or its original caption has changed"
        else:
            continue
        lost, first = lost + 1, first or problem

    if lost:
        raise RunDiffers(
            f"{resources.display_path(out)} holds captions of {lost} images that are not among "
            f"these, such as the first: {first}. Images may be added to a run, but not taken away: replace "
            "it with --fresh, or name another folder"
        )
