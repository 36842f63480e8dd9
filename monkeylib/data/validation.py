"""Validation split of a mixture: a share of every dataset, grouped by image.

No image is used both for training and for validation, not even where several records or several datasets show
it. Where there are many records, `SampledSplit` holds this without reading all of them.
"""

from collections.abc import Iterator, Sequence
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monkeylib.data.permutation import RandomPermutation
from monkeylib.data.records import BadRecord, Record, Records
from monkeylib.digests import short_digest

# Of more records than these, a share is sampled: to group them by their images, all have to be read, which
# takes a minute for a million.
MOST_GROUPED = 100_000
_MOST_REPLACED = 1000


class SampledSplit:
    """A validation split of many records, of which only those of the share are read.

    The share is drawn at random. A training record that shows an image of a validation record, of any
    dataset, is replaced by the next record that does not when it is drawn; no list of them is made.

    Args:
        datasets: the records.
        share: of each dataset.
        seed: of the draw.

    Attributes:
        numbers: for each dataset the numbers of its validation records, in random order.

    Raises:
        ValueError: a dataset would have no record left for training.
    """

    def __init__(self, datasets: Sequence[Records], share: float, seed: int) -> None:
        self._datasets = datasets
        self.numbers: list[np.ndarray] = []
        keys: list[int] = []

        for records in datasets:
            count = max(1, round(share * len(records)))
            if count >= len(records):
                raise _no_training_records(records, share)

            permutation = RandomPermutation(len(records), seed, records.name, "validation")
            numbers = np.fromiter((permutation[index] for index in range(count)), np.int64, count)
            keys += [_number(key) for number in numbers.tolist() for key in _image_keys(records, number)]
            self.numbers.append(numbers)

        self._keys = np.unique(np.array(keys, dtype=np.uint64))

    def training_records(self, dataset: int) -> "TrainingPart":
        """Return the records of a dataset that are trained on."""
        return TrainingPart(self._datasets[dataset], self.numbers[dataset], self._keys)


class TrainingPart:
    """The records of a dataset without those of a validation split, and without their images.

    Args:
        records: the dataset.
        validation: numbers of its validation records.
        keys: numbers of the images of all validation records, sorted.
    """

    def __init__(self, records: Records, validation: np.ndarray, keys: np.ndarray) -> None:
        self.name = records.name
        self._records = records
        self._keys = keys
        # For each validation record, in order, how many training records come before it.
        self._before = np.sort(validation) - np.arange(len(validation))

    def __len__(self) -> int:
        return len(self._records) - len(self._before)

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} records of the dataset {self.name}, not {number + 1}")

        for step in range(_MOST_REPLACED):
            training_number = (number + step) % len(self)
            skipped = int(np.searchsorted(self._before, training_number, side="right"))
            record = self._records[training_number + skipped]
            if not any(self._is_validated(image) for image in record.images):
                return record

        raise BadRecord(
            f"{record.location}: {_MOST_REPLACED} records in a row show images that are validated with: give "
            "validation a dataset of its own"
        )

    def _is_validated(self, image: Any) -> bool:
        key = np.uint64(_number(short_digest(_identity(image), 16)))
        position = int(np.searchsorted(self._keys, key))
        return position < len(self._keys) and self._keys[position] == key


def _number(key: bytes) -> int:
    """Return the first eight bytes of a key as a number."""
    return int.from_bytes(key[:8], "little")


def _no_training_records(records: Records, share: float) -> ValueError:
    return ValueError(
        f"the dataset {records.name} has {len(records)} records, which a validation share of {share} "
        "leaves without any for training (records of one image stay together): give validation a "
        "dataset of its own"
    )


def split_validation(datasets: Sequence[Records], share: float, seed: int) -> list[np.ndarray]:
    """Select the records of each dataset that are used for validation.

    At least `share` of each dataset is selected, and at least one record; more where an image has several
    records, or is selected for another dataset. Every record is read once for this, its image only in tables
    and shards.

    Returns:
        For each dataset the numbers of its validation records, in random order.

    Raises:
        ValueError: a dataset would have no record left for training.
    """
    groups_of_records = group_by_image(datasets)  # for each dataset [number of records]

    # Groups are selected for all datasets before any is split, since a group may span several.
    validation_groups: set[int] = set()
    for records, groups in zip(datasets, groups_of_records, strict=True):
        unique, counts = np.unique(groups, return_counts=True)
        sizes = dict(zip(unique.tolist(), counts.tolist(), strict=True))
        permutation = RandomPermutation(len(unique), seed, records.name, "validation")
        order = [int(unique[index]) for index in permutation]
        _add_groups(validation_groups, sizes, order, minimum=max(1, round(share * len(records))))

    # Records of a selected group are validation records, whichever dataset it was selected for.
    numbers = []
    for records, groups in zip(datasets, groups_of_records, strict=True):
        selected = np.flatnonzero(np.isin(groups, list(validation_groups)))
        if len(selected) == len(records):
            raise _no_training_records(records, share)

        permutation = RandomPermutation(len(selected), seed, records.name, "validation", "rows")
        numbers.append(selected[list(permutation)])

    return numbers


def _add_groups(selected: set[int], sizes: dict[int, int], order: Sequence[int], minimum: int) -> None:
    """Add groups to `selected` until the dataset has `minimum` records in them.

    Args:
        selected: numbers of the selected groups, of all datasets; changed in place.
        sizes: number of this dataset's records in each of its groups.
        order: groups of this dataset in random order.
        minimum: number of records to reach.
    """
    count = sum(sizes[group] for group in selected & sizes.keys())

    # First the groups that fit, in random order.
    for group in order:
        if group not in selected and count + sizes[group] <= minimum:
            selected.add(group)
            count += sizes[group]

    # Then, if that is not enough, the smallest ones.
    for group in sorted(order, key=sizes.__getitem__):
        if group not in selected and count < minimum:
            selected.add(group)
            count += sizes[group]


def group_by_image(datasets: Sequence[Records]) -> list[np.ndarray]:
    """Group records that show a common image, directly or by way of other records (union-find).

    Returns:
        For each dataset the group of each of its records. A group is named by the first of its records,
        counted over all datasets.
    """
    leader: list[int] = []  # another record of the same group; the first record of a group leads itself
    first_with_image: dict[bytes, int] = {}

    def first_of_group(record: int) -> int:
        while leader[record] != record:
            # Path halving keeps the chains short.
            leader[record] = leader[leader[record]]
            record = leader[record]
        return record

    for records in datasets:
        for number in range(len(records)):
            record = len(leader)
            leader.append(record)
            for image in _image_keys(records, number):
                # Merge the groups; the earlier first record leads both.
                first = first_of_group(record)
                second = first_of_group(first_with_image.setdefault(image, record))
                leader[max(first, second)] = min(first, second)

    groups = np.array([first_of_group(record) for record in range(len(leader))])

    # Back to one array for each dataset.
    borders = np.cumsum([len(records) for records in datasets])[:-1]
    return np.split(groups, borders)


def _image_keys(records: Records, number: int) -> Iterator[bytes]:
    """Yield a key for each image of a record, none for a bad record."""
    try:
        images = records[number].images
    except BadRecord:
        return

    for image in images:
        yield short_digest(_identity(image), 16)


def _identity(image: Any) -> bytes:
    """Return what identifies an image: its path, its encoded bytes, or else its pixels."""
    if isinstance(image, str | Path):
        return normpath(image).encode(errors="surrogatepass")
    if hasattr(image, "content"):  # in a table or shard
        return image.content()
    return image.tobytes() if isinstance(image, Image.Image) else np.asarray(image).tobytes()
