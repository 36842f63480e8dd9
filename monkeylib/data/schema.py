"""Schema of a mixture's YAML."""

import os
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from monkeylib.data.dataset_cards import training_card
from monkeylib.errors import choose
from monkeylib.prompts import PROMPTS, SEPARATOR

Format = Literal[
    "conversations",
    "evaluation",
    "llava",
    "sharegpt",
    "messages",
    "cauldron",
    "records",
    "datasets",
    "webdataset",
]
# Formats whose records are about one image, unless the dataset says otherwise.
_ONE_IMAGE = ("conversations", "evaluation", "llava", "datasets", "webdataset")


# Numbers of records and images, within what an index can count.
_MAX_COUNT = 10**12


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Columns(_Section):
    """Names of the fields in the formats that do not fix them.

    Attributes:
        image: an image, its bytes or its path.
        question: used only where the prompt takes a question.
        answer: a text, or a list of texts of which the most frequent one is used.
        id: id of the record, if there is one.
    """

    image: str = "image"
    question: str = "question"
    answer: str = "answer"
    id: str | None = None


class DatasetEntry(_Section):
    """A dataset of a mixture.

    Instead of its own fields, an entry may name a public dataset (`dataset: textvqa`) as converted by
    `monkeylib data convert`. Its name, path (NAME.json), format and folder of images then follow from the
    dataset's card; any of them may still be given.

    Attributes:
        name: name of the dataset, in messages and tables.
        format: format of its records, see `monkeylib.data.readers`; by default told from the first one.
        path: a file, several files, a folder or a hub id; `{split}` in it stands for the split. Braces and
            wildcards name several files: `shard-{0000..0099}.tar`, `part-*.jsonl`.
        images: folder that the records' images are named from, by default the mixture's `root`, or else the
            folder of the file.
        split: split of a hub dataset or of a saved one.
        revision: commit of a hub dataset.
        count: number of records in an epoch, by default all. If it exceeds the dataset's size, some are
            repeated.
        weight: instead of a count, how many times an epoch draws each record on average.
        unverified: the count could not be checked against its source.
        prompt: name of the prompt around a question, for formats that hold questions instead of prompts; by
            default `vqa`, and `detailed_caption` for the records of the caption pipeline.
        separator: text between an image, or an earlier answer, and a prompt that takes one.
        columns: names of the fields of questions, in tables, JSON and shards.
        turns: "first" reads one question with its answer, as the released code does; "all" reads the
            full conversation.
        min_images, max_images: number of images that a record may have; by default one in the formats that
            are about one image, and any number in `sharegpt`, `messages`, `cauldron` and where no format is
            given.
        unique_ids: whether two records with the same id are an error.
    """

    name: str = Field(min_length=1)
    format: Format | None = None
    path: str | list[str] = Field(min_length=1)
    images: str | None = None
    split: str = "train"
    revision: str | None = None
    count: int | None = Field(default=None, gt=0, le=_MAX_COUNT)
    weight: float | None = Field(default=None, gt=0, le=10**6)
    unverified: bool = False
    prompt: str = "vqa"
    separator: str = SEPARATOR
    columns: Columns = Columns()
    turns: Literal["first", "all"] = "all"
    min_images: NonNegativeInt | None = None
    max_images: PositiveInt | None = None
    unique_ids: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill_from_card(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "dataset" not in fields:
            return fields

        fields = dict(fields)
        card = training_card(fields.pop("dataset"))
        images = f"{card.name}/{card.train.images}".rstrip("/")

        defaults = {
            "name": card.name,
            "format": "conversations",
            "path": f"{card.name}.json",
            "images": images,
        }

        # Fields of the entry take precedence over those of the card.
        return defaults | fields

    @model_validator(mode="before")
    @classmethod
    def _fill_prompt(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("format") == "records":
            return {"prompt": "detailed_caption"} | fields
        return fields

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: str) -> str:
        return choose("prompt", prompt, PROMPTS)

    @model_validator(mode="after")
    def _check_sizes(self) -> "DatasetEntry":
        if self.count is not None and self.weight is not None:
            raise ValueError(f"the dataset {self.name} has a count and a weight: leave one of them out")
        minimum, maximum = self.image_limits
        if minimum > maximum:
            raise ValueError(
                f"the dataset {self.name} has a min_images of {minimum} and a max_images of {maximum}: the "
                "minimum must not exceed the maximum"
            )

        return self

    @property
    def image_limits(self) -> tuple[int, int]:
        """The smallest and the largest number of images that a record may have."""
        minimum, maximum = (1, 1) if self.format in _ONE_IMAGE else (0, _MAX_COUNT)
        if self.min_images is not None:
            minimum = self.min_images
        if self.max_images is not None:
            maximum = self.max_images
        return minimum, maximum

    @property
    def paths(self) -> list[str]:
        """The path or paths, with the split filled in."""
        paths = [self.path] if isinstance(self.path, str) else self.path
        return [os.path.expanduser(path.replace("{split}", self.split)) for path in paths]


class Validation(_Section):
    """Records for validation: a share of every dataset, or separate datasets.

    With a share, no image is used for both training and validation (`monkeylib.data.validation`). Separate
    datasets are used as they are.
    """

    share: float | None = Field(default=None, gt=0, lt=1)
    sets: list[DatasetEntry] = []

    @model_validator(mode="after")
    def _check_kind(self) -> "Validation":
        # Exactly one of the two.
        if (self.share is None) == (not self.sets):
            raise ValueError("validation is either a `share` between 0 and 1 or a list of `sets`")
        return self


class MixtureFile(_Section):
    """A mixture.

    Attributes:
        description: for readers.
        root: folder that relative paths start from, by default that of the YAML. Environment variables in it
            are filled in.
        seed: seed of the order.
        sets: the datasets.
        validation: records for validation.
    """

    description: str = ""
    root: str = "."
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    sets: list[DatasetEntry] = Field(min_length=1)
    validation: Validation | None = None

    @model_validator(mode="after")
    def _check_names(self) -> "MixtureFile":
        # Names appear in messages, and are part of the keys of random orders.
        validation_sets = self.validation.sets if self.validation else []
        names = [entry.name for entry in (*self.sets, *validation_sets)]
        for name in sorted(names):
            if names.count(name) > 1:
                raise ValueError(f"two datasets are called {name}: give each its own name")
        return self
