"""Dataset cards: one YAML file for each public dataset of the paper, for training and for evaluation.

A card says where the official files come from, under which licence, how they are laid out, which of them
Monkey is trained on (`train`) and which it is evaluated on (`test`). The name of the file is the name of the
dataset, so adding a dataset is adding a file.

The downloads themselves were not available. Names of files and fields were checked against public code that
reads them; what could not be checked, above all licences, is noted in `unverified`.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

from monkeylib.data.layouts import LAYOUTS
from monkeylib.errors import choose
from monkeylib.prompts import PROMPTS
from monkeylib.settings_files import read_yaml, validate

FOLDER = Path(__file__).parent

Kind = Literal["captions", "general", "scene text", "documents"]
KINDS: tuple[Kind, ...] = ("captions", "general", "scene text", "documents")  # in the order of the tables


def _check_prompt(name: str) -> str:
    return choose("prompt", name, PROMPTS)


def _check_layout(name: str) -> str:
    return choose("layout", name, LAYOUTS)


PromptName = Annotated[str, AfterValidator(_check_prompt)]
LayoutName = Annotated[str, AfterValidator(_check_layout)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Part(_Section):
    """Official files and the images that belong to them.

    Attributes:
        files: files that the layout's reader reads, relative to the dataset's folder.
        images: folder that the records' images are named from, relative to the dataset's folder.
        options: keyword arguments of the layout's reader.
        unverified: what could not be checked against a public source.
    """

    files: list[str] = Field(min_length=1)
    images: str
    options: dict[str, Any] = {}
    unverified: str = ""


class TrainPart(Part):
    """The part that Monkey is trained on.

    Attributes:
        prompt: name of the prompt around the question.
        answer: which of several answers is trained on: the one that most people gave, or the first.
    """

    prompt: PromptName
    answer: Literal["most frequent", "first"] = "most frequent"


class Prompts(_Section):
    """Names of the prompts of a benchmark.

    Attributes:
        documented: the better one: the paper's form with its trailing blank, VLMEvalKit's for choices and
            yes-or-no questions, or the one that comments in the released code call better.
        released: the one of the released evaluation, if it covers the dataset. It writes no blank between
            image and question.
    """

    documented: PromptName
    released: PromptName | None = None


class ReleasedFile(_Section):
    """The file that the released evaluation reads, with the path that its code has, and its metric.

    Attributes:
        file: JSON lines of `image`, `question`, `answer`, `question_id`.
        annotations: file of ten people's answers, for the VQA score.
        metric: name of a metric.
    """

    file: str
    annotations: str | None = None
    metric: str


class Variant(_Section):
    """Another split of the test part, or another form of its questions: a benchmark of its own.

    Attributes:
        split: name of the split, in words.
        files: as in the test part, by default those of it.
        images: as in the test part, by default that of it.
        options: options in addition to those of the test part.
    """

    split: str
    files: list[str] | None = None
    images: str | None = None
    options: dict[str, Any] = {}


class TestPart(Part):
    """The part that Monkey is evaluated on.

    Attributes:
        split: name of the split, in words.
        prompts: prompts around the questions.
        max_new_tokens: maximum length of an answer: the limit of the released code, VLMEvalKit's for choices
            and yes-or-no questions, Qwen-VL's for captions.
        metrics: names of metrics, the official one first.
        released: the file of the released evaluation, if it covers the dataset.
        submission: form of the file that the dataset's test server takes, or its official script; a name of
            `monkeylib.evaluation.submissions`.
        variants: other splits and forms by what their names end in: "val" is the benchmark NAME-val.
    """

    __test__ = False  # pytest: this is not a test class

    split: str
    prompts: Prompts
    max_new_tokens: PositiveInt
    metrics: list[str] = Field(min_length=1)
    released: ReleasedFile | None = None
    submission: Literal["question_id", "questionId", "image", "mme"] | None = None
    variants: dict[str, Variant] = {}


class DatasetCard(_Section):
    """A public dataset.

    Attributes:
        name: name of the card's file, used in commands.
        folder: name of the dataset's folder among the downloads, by default the name of the card.
        title: name for readers.
        kind: group of the paper's tables.
        position: position within its kind, in lists and tables.
        home: where to get the official files.
        licence: licence of the annotations; images may have another one.
        layout: name of the function in `monkeylib.data.layouts` that reads the official files.
        train: the part that Monkey is trained on.
        test: the part that Monkey is evaluated on.
    """

    name: str
    folder: str = ""
    title: str
    kind: Kind
    position: PositiveInt
    home: str
    licence: str
    layout: LayoutName
    train: TrainPart | None = None
    test: TestPart | None = None


def read_card(path: Path) -> DatasetCard:
    """Read the card in a YAML file.

    Raises:
        ValueError: the file does not fit the schema; one sentence names the file, the line and the field.
    """
    # The file's name is the dataset's; everything else is in the YAML.
    settings = read_yaml(path)
    settings.values.setdefault("name", path.stem)
    settings.values.setdefault("folder", settings.values["name"])
    return validate(DatasetCard, settings)


@cache
def load_cards() -> dict[str, DatasetCard]:
    """Return all cards by name, in the order of the paper's tables."""
    cards = [read_card(path) for path in sorted(FOLDER.glob("*.yaml"))]

    cards.sort(key=lambda card: (KINDS.index(card.kind), card.position))
    return {card.name: card for card in cards}


def training_cards() -> dict[str, DatasetCard]:
    """Return the cards of the datasets that Monkey is trained on."""
    return {name: card for name, card in load_cards().items() if card.train}


def evaluation_cards() -> dict[str, DatasetCard]:
    """Return the cards of the datasets that Monkey is evaluated on: the paper's 18 benchmarks."""
    return {name: card for name, card in load_cards().items() if card.test}


def training_card(name: str) -> DatasetCard:
    """Return the card of a dataset that Monkey is trained on.

    Raises:
        ValueError: there is no such dataset.
    """
    cards = training_cards()
    return cards[choose("public dataset", name, cards)]
