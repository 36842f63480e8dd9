"""What the YAML of a benchmark says."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from monkeylib.data.public import SETS
from monkeylib.errors import choose
from monkeylib.evaluation.entries.layouts import LAYOUTS
from monkeylib.evaluation.metrics import registry
from monkeylib.prompts import PROMPTS

Kind = Literal["captions", "general", "scene text", "documents"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Figure(_Strict):
    """What the paper states of a model, in its metric's points.

    Attributes:
        model: as the paper calls it.
        value: CIDEr times 100, percent, or MME's points.
        source: a table of the paper, its text, `chart` for what was read off its authors' radar chart (the
            table itself could not be read), `derived` for what follows from the averages that it states.
    """

    model: Literal["Monkey", "Qwen-VL"]
    value: float
    source: Literal["Table 2", "Table 3", "text", "chart", "derived"] = Field(alias="from")


class Prompts(_Strict):
    """Names of prompts in `monkeylib.prompts`.

    Attributes:
        documented: the better one: the paper's form with its trailing blank, VLMEvalKit's for choices and
            yes-or-no questions, or what the release's comments call better.
        released: what the released evaluation asks with, if it has code for the set; by default it writes no
            blank between image and question, which a Monkey is then asked without too.
    """

    documented: str
    released: str | None = None

    @field_validator("documented", "released")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            choose("prompt", name, PROMPTS)
        return name


class Released(_Strict):
    """The release's own files: paths as its code has them, and the metric that it scores by.

    Attributes:
        file: JSON lines of `image`, `question`, `answer`, `question_id`.
        annotations: where its VQA score takes ten people's answers from.
        metric: a name of `metrics.METRICS`.
    """

    file: str
    annotations: str | None = None
    metric: str


class Split(_Strict):
    """Another split of a set: for those whose test answers aren't published."""

    split: str
    files: list[str]


class Entry(_Strict):
    """A benchmark whose files lie on disk.

    Attributes:
        name: in commands and files.
        title: for readers.
        kind: group of the paper's tables.
        split: what is asked.
        set: the public set whose home and licence these are, or `home` and `licence` themselves.
        layout: the reader of its official files, a name of `layouts.LAYOUTS`.
        files: what it reads, from the set's folder.
        options: further arguments of the reader.
        images: folder of the images, which rows name them from.
        prompts: how is asked.
        max_new_tokens: length of an answer at most: the release's limit, VLMEvalKit's for choices and
            yes-or-no questions, Qwen-VL's for captions.
        metrics: the official metric, then others, such as the release's.
        released: the release's own files, if it has code for the set.
        figures: what the paper states.
        unverified: what could not be checked against a public source.
        validation: a split with public answers, where the one above has none.
    """

    name: str
    title: str
    kind: Kind
    split: str
    set: str | None = None
    home: str = ""
    licence: str = ""
    layout: str
    files: list[str] = Field(min_length=1)
    options: dict[str, Any] = {}
    images: str
    prompts: Prompts
    max_new_tokens: PositiveInt
    metrics: list[str] = Field(min_length=1)
    released: Released | None = None
    figures: list[Figure] = []
    unverified: str = ""
    validation: Split | None = None

    @model_validator(mode="after")
    def _named_things_exist(self) -> "Entry":
        for name in (*self.metrics, *([self.released.metric] if self.released else ())):
            registry.get(name)
        choose("layout", self.layout, LAYOUTS)
        if (self.set is None) != bool(self.home and self.licence):
            raise ValueError(f"{self.name} needs either a public set or a home and a licence of its own")
        if self.set is not None:
            choose("public set", self.set, SETS)
        return self

    @property
    def where(self) -> str:
        """Where to get the official files."""
        return self.home or SETS[self.set].home

    @property
    def terms(self) -> str:
        """Under which licence."""
        return self.licence or SETS[self.set].licence

    @property
    def stratum(self) -> str | None:
        """Entry of `meta` of which every value must be asked about: the tasks of a sum over tasks."""
        totals = registry.get(self.metrics[0]).totals
        return totals.stratum if totals else None
