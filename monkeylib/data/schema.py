"""What the YAML of a mixture holds."""

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from monkeylib.errors import choose
from monkeylib.prompts import PROMPTS, SEPARATOR

Format = Literal["conversations", "evaluation", "llava", "datasets", "webdataset"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Strict):
    """Names of the fields of a format that does not fix them. `question` counts only where the prompt takes
    one; `id` may be missing."""

    image: str = "image"
    question: str = "question"
    answer: str = "answer"
    id: str | None = None


class DataSet(_Strict):
    """One set of a mixture.

    Attributes:
        name: of the set, in messages and tables.
        format: how its records are written, see `monkeylib.data.readers`.
        path: file, files, folder or hub id; `{split}` in it stands for the split.
        images: folder that the records' images are named from; the mixture's `root` if not given.
        split: of the set; a hub set or a saved dataset has named ones.
        revision: commit of a hub set.
        count: rows of an epoch; all of them if not given. More than there are repeats some.
        weight: instead of a count, how often a row comes in an epoch on average.
        unverified: the count could not be checked against its source.
        prompt: name of the prompt around a question, for formats that hold questions and not whole prompts.
        separator: text between the images, or an earlier answer, and a prompt that takes one.
        columns: names of the fields in the formats `datasets` and `webdataset`.
        turns: "first" reads one question and answer as the release does, "all" the whole conversation.
        min_images, max_images: images of one record.
        unique_ids: two records with the same id are an error; otherwise ids need not differ.
    """

    name: str = Field(min_length=1)
    format: Format
    path: str | list[str] = Field(min_length=1)
    images: str | None = None
    split: str = "train"
    revision: str | None = None
    count: PositiveInt | None = None
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    unverified: bool = False
    prompt: str = "vqa"
    separator: str = SEPARATOR
    columns: Columns = Columns()
    turns: Literal["first", "all"] = "all"
    min_images: NonNegativeInt = 1
    max_images: PositiveInt = 1
    unique_ids: bool = True

    @field_validator("prompt")
    @classmethod
    def _known(cls, prompt: str) -> str:
        choose("prompt", prompt, PROMPTS)
        return prompt

    @model_validator(mode="after")
    def _one_size(self) -> "DataSet":
        if self.count is not None and self.weight is not None:
            raise ValueError(f"the set {self.name} has a count and a weight: leave one of them out")
        if self.min_images > self.max_images:
            raise ValueError(f"the set {self.name} asks for more images at least than at most")
        return self

    @property
    def paths(self) -> list[str]:
        """The path or paths, with the split filled in."""
        given = [self.path] if isinstance(self.path, str) else self.path
        return [path.replace("{split}", self.split) for path in given]


class Validation(_Strict):
    """Rows kept out of training: a share of every set, or sets of their own.

    A share keeps whole images (`monkeylib.data.mixture`): none is seen in training and in validation. Sets
    of their own are taken as they are.
    """

    share: float | None = Field(default=None, gt=0, lt=1)
    sets: list[DataSet] = []

    @model_validator(mode="after")
    def _one_way(self) -> "Validation":
        if (self.share is None) == (not self.sets):
            raise ValueError("validation is either a `share` between 0 and 1 or a list of `sets`")
        return self


class MixtureFile(_Strict):
    """A mixture: `root` is the folder that relative paths begin at, the YAML's own if not given; environment
    variables in it are filled in."""

    description: str = ""
    root: str = "."
    seed: int = 0
    sets: list[DataSet] = Field(min_length=1)
    validation: Validation | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> "MixtureFile":
        names = [entry.name for entry in (*self.sets, *(self.validation.sets if self.validation else ()))]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sets are called {twice[0]}: give each its own name")
        return self
