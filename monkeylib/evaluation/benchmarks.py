"""Benchmarks by name: their examples, prompts and metrics.

A benchmark is declarative: the examples to load with the prompt that they carry, the maximum length of an
answer, and the metrics, the first of which is the main one. There are four kinds here, and `own_benchmarks`
makes one of any file of questions:

- the test sets of the synthetic data: `nano-fine` and others, and `nano-fixed-fine` and so on, whose images
  have transformed quadrants (`data.synthetic.renderings`), and `nano-transfer-fine` and so on, whose images
  differ from those of training (`data.synthetic.transfer`);
- the paper's 18 (`monkeylib.data.dataset_cards`), read from their official downloads: `textvqa` from the
  folder textvqa, and so on;
- their other splits and forms: `docvqa-val` and `infovqa-val`, since the answers of those test splits aren't
  published, `textvqa-test` and others for test servers, `scienceqa-without-hint`;
- `released-textvqa` and so on: the 14 that the released code evaluates, from its own files, with its prompt
  and its metric, defects included.

All downloads lie in one folder, `resources.benchmarks()` unless `get` is given another.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from monkeylib import resources
from monkeylib.data import synthetic
from monkeylib.data.dataset_cards import DatasetCard, Kind, evaluation_cards
from monkeylib.data.synthetic.renderings import RENDERINGS, transforms_at
from monkeylib.data.synthetic.transfer import make_transfer_sample
from monkeylib.errors import unknown_name
from monkeylib.evaluation.benchmark_files import official_examples, released_examples
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.metrics import registry
from monkeylib.prompts import PROMPTS
from monkeylib.settings_files import read_yaml, validate

__all__ = ["BENCHMARKS", "Benchmark", "Kind", "available", "get"]

_NANO_SIZE = 600  # questions of a test set of the synthetic data
_TRANSFER_SIZE = 1200  # of one that is scored by the change of its images
TRANSFER = "transfer"  # in place of a rendering: images that differ from those of training
_TITLE_ENDINGS = {
    "ordinary": "",
    "fixed": ", quadrants transformed by position",
    "dealt": ", quadrants transformed in random order",
    TRANSFER: ", images unlike those of training",
}
_RELEASED_HOME = "https://github.com/Yuliang-Liu/Monkey"


class ReportedScore(BaseModel):
    """A score that the paper reports; `paper_scores.yaml` says what the fields mean."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    model: str
    value: float
    source: Literal["Table 2", "Table 3", "text", "chart", "derived"] = Field(alias="from")


class _PaperScores(RootModel[dict[str, list[ReportedScore]]]):
    pass


@cache
def paper_scores() -> dict[str, list[ReportedScore]]:
    """Return the scores that the paper reports, by the name of the benchmark."""
    file = Path(__file__).parent / "paper_scores.yaml"
    return validate(_PaperScores, read_yaml(file)).root


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: name in commands and files.
        title: name for readers.
        kind: group of the paper's tables.
        load: `load(limit)` returns at most that many examples (None: all), always the same ones.
        metrics: names of metrics, the main one first.
        max_new_tokens: maximum length of an answer.
        size: number of examples; None if the files decide.
        licence: licence of the questions; images may have another one.
        source: where the files come from.
        prompt: name of the prompt that the examples carry.
        split: name of the split, in words.
        reported: scores that the paper reports, measured with `paper_metric`.
        card: card of the dataset; None for synthetic data and questions of one's own.
        remark: what users should know before it is asked, empty for most.
    """

    name: str
    title: str
    kind: Kind
    load: Callable[[int | None], list[Example]]
    metrics: tuple[str, ...]
    max_new_tokens: int
    size: int | None
    licence: str
    source: str
    prompt: str = "vqa"
    split: str = "test"
    reported: tuple[ReportedScore, ...] = ()
    card: DatasetCard | None = None
    remark: str = ""

    def __post_init__(self) -> None:
        # A misspelled metric fails on import, not after a day of predictions.
        for metric in self.metrics:
            try:
                registry.get(metric)
            except ValueError as error:
                raise ValueError(f"benchmark {self.name}: {error}") from error

    @property
    def released_metric(self) -> str | None:
        """The metric of the released code; None if it doesn't evaluate this benchmark."""
        released = self.card.test.released if self.card else None
        return released.metric if released else None

    @property
    def paper_metric(self) -> str:
        """The metric of the paper's scores: that of the released code, or else the main metric."""
        return self.released_metric or self.metrics[0]


# --- synthetic data -----------------------------------------------------------------------------------------


def synthetic_name(split: str, rendering: str = "ordinary") -> str:
    """Return the name of the benchmark of a test set: nano-fine, nano-fixed-fine, nano-transfer-fine.

    Args:
        split: a name of `synthetic.TEST_SETS`.
        rendering: one of `renderings.RENDERINGS`, or `transfer`.
    """
    return f"nano-{split}" if rendering == "ordinary" else f"nano-{rendering}-{split}"


def _nano_benchmark(
    split: str,
    title: str,
    kind: Kind,
    metrics: tuple[str, ...],
    max_new_tokens: int,
    rendering: str = "ordinary",
) -> Benchmark:
    """Build the benchmark of a test set of the synthetic data."""
    size = _TRANSFER_SIZE if rendering == TRANSFER else _NANO_SIZE

    # Loaded on demand: the table below is built on import.
    def load(limit: int | None = None) -> list[Example]:
        count = size if limit is None else min(limit, size)
        return synthetic_examples(split, count, rendering=rendering)

    return Benchmark(
        name=synthetic_name(split, rendering),
        title=title + _TITLE_ENDINGS[rendering],
        kind=kind,
        load=load,
        metrics=metrics,
        max_new_tokens=max_new_tokens,
        size=size,
        licence="Apache-2.0",
        source="rendered by monkeylib.data.synthetic",
        prompt="caption" if kind == "captions" else "vqa",
    )


def synthetic_examples(
    split: str, count: int, size: tuple[int, int] = (192, 192), rendering: str = "ordinary"
) -> list[Example]:
    """Return the first questions of a test set of the synthetic data.

    Args:
        split: a name of `synthetic.TEST_SETS`.
        count: number of questions.
        size: width and height of the images in pixels.
        rendering: one of `renderings.RENDERINGS`, or `transfer` for images that differ from those of training
            (`data.synthetic.transfer`).
    """
    if rendering == TRANSFER:
        questions = synthetic.make_test_set(split, count, make=partial(make_transfer_sample, size=size))
    else:
        questions = synthetic.make_test_set(split, count, size=size, rendering=rendering)
    return [nano_example(question) for question in questions]


def nano_example(question: synthetic.TestQuestion) -> Example:
    """Return a question of a synthetic test set as an example."""
    sample = question.sample
    return Example(
        id=question.id,
        image=sample.image,
        question=question.question,
        answers=question.answers,
        prompt=question.prompt,
        image_id=synthetic_name(f"test-{sample.seed}", TRANSFER if sample.change else sample.rendering),
        meta=_nano_meta(question),
    )


def _nano_meta(question: synthetic.TestQuestion) -> dict[str, Any]:
    """Return the fields that group scores and annotate figures: family, text size, answer box, how the
    quadrants that hold the answer are transformed, and how the image differs from those of training."""
    sample, annotation = question.sample, question.annotation
    change = {"change": sample.change} if sample.change else {}
    if annotation is None:
        return {"family": sample.family, **change}

    meta = {
        "family": annotation.family,
        "kind": annotation.kind,
        "text_size": annotation.text_size,
        "height": float(annotation.height),
        "answer_box": [float(edge) for edge in annotation.answer_box],
        **change,
    }
    if sample.rendering != "ordinary":
        names = transforms_at(annotation.answer_box, sample.image.size, sample.rendering, sample.seed)
        meta["transforms"] = " + ".join(sorted(names))
    return meta


# --- public datasets ----------------------------------------------------------------------------------------


def _official_benchmark(card: DatasetCard, prompt: str, data: Path | None = None) -> Benchmark:
    """Build the benchmark of a dataset's official files, which lie in the folder of its name."""

    def load(limit: int | None = None) -> list[Example]:
        return official_examples(card, (data or resources.benchmarks()) / card.folder, prompt, limit)

    return Benchmark(
        name=card.name,
        title=card.title,
        kind=card.kind,
        load=load,
        metrics=tuple(card.test.metrics),
        max_new_tokens=card.test.max_new_tokens,
        size=None,
        licence=card.licence,
        source=card.home,
        prompt=prompt,
        split=card.test.split,
        reported=tuple(paper_scores().get(card.name, ())),
        card=card,
    )


def _released_benchmark(card: DatasetCard, prompt: str, data: Path | None = None) -> Benchmark:
    """Build the benchmark of the file that the released code evaluates a dataset on."""

    def load(limit: int | None = None) -> list[Example]:
        return released_examples(card, data or resources.benchmarks(), prompt, limit)

    return replace(
        _official_benchmark(card, prompt),
        name=f"released-{card.name}",
        title=f"{card.title}, as released",
        load=load,
        metrics=(card.test.released.metric,),
        source=_RELEASED_HOME,
        split="of the released file",
    )


def _variant_card(card: DatasetCard, ending: str) -> DatasetCard:
    """Return the card with another split or form as its test part; the paper reports no scores on it."""
    variant = card.test.variants[ending]
    part = card.test.model_copy(
        update={
            "split": variant.split,
            "files": variant.files or card.test.files,
            "images": card.test.images if variant.images is None else variant.images,
            "options": card.test.options | variant.options,
            "released": None,
            "variants": {},
        }
    )
    # The folder of the download stays that of the dataset.
    return card.model_copy(
        update={"name": f"{card.name}-{ending}", "title": f"{card.title}, {variant.split}", "test": part}
    )


# --- all of them --------------------------------------------------------------------------------------------

_CARDS = list(evaluation_cards().values())
_VARIANTS = [_variant_card(card, ending) for card in _CARDS for ending in card.test.variants]
_OFFICIAL = {card.name: card for card in (*_CARDS, *_VARIANTS)}
_RELEASED = {f"released-{card.name}": card for card in _CARDS if card.test.released}

_NANO = (
    ("fine", "Nano, small text", "documents", ("exact_match", "anls"), 24),
    ("large", "Nano, large text", "documents", ("exact_match", "anls"), 24),
    ("general", "Nano, general questions", "general", ("exact_match", "anls"), 24),
    ("caption", "Nano, captions", "captions", ("cider_d",), 96),
)
_BENCHMARKS = (
    *(_nano_benchmark(*test_set, rendering) for rendering in (*RENDERINGS, TRANSFER) for test_set in _NANO),
    *(_official_benchmark(card, card.test.prompts.documented) for card in _OFFICIAL.values()),
    *(_released_benchmark(card, card.test.prompts.released) for card in _RELEASED.values()),
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _BENCHMARKS}


def get(name: str, *, prompt: str | None = None, data: Path | str | None = None) -> Benchmark:
    """Return the benchmark of that name.

    Args:
        name: a name of `BENCHMARKS`.
        prompt: a prompt in place of the benchmark's: `documented`, `released`, or any name of
            `monkeylib.prompts`.
        data: folder of the downloads, one folder for each dataset; `resources.benchmarks()` by default.

    Raises:
        ValueError: there is no such benchmark or prompt, or a prompt or folder is given for synthetic data.
    """
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)

    benchmark = BENCHMARKS[name]
    if prompt is None and data is None:
        return benchmark
    if benchmark.card is None:
        raise ValueError(f"{name} is synthetic: it takes neither a prompt nor a folder of data.")

    # Built again, since the prompt and the folder are part of what `load` does.
    build = _released_benchmark if name in _RELEASED else _official_benchmark
    return build(
        benchmark.card,
        benchmark.prompt if prompt is None else _find_prompt(benchmark, prompt),
        None if data is None else Path(data),
    )


def _find_prompt(benchmark: Benchmark, name: str) -> str:
    """Return the name of a prompt, which may be given by its role in the benchmark."""
    prompts = benchmark.card.test.prompts

    # "documented" and "released" name a prompt by its role, anything else is the name of a prompt.
    by_role = {"documented": prompts.documented, "released": prompts.released}
    prompt = by_role.get(name, name)

    if prompt is None:
        raise ValueError(
            f"The released code doesn't evaluate {benchmark.name}, so it has no prompt: "
            "use the prompt `documented`."
        )

    if prompt not in PROMPTS:
        raise unknown_name("prompt", prompt, (*by_role, *PROMPTS))
    return prompt


def available(data: Path | str | None = None) -> list[str]:
    """Return the names of the benchmarks whose files exist; the synthetic ones always do.

    Of these, only the ordinary test sets are among them: the others are for experiments, by their names.
    """
    root = Path(data) if data else resources.benchmarks()

    # Synthetic benchmarks are rendered, so they need no files.
    names = [synthetic_name(split) for split, *_ in _NANO]

    for name, card in _OFFICIAL.items():
        if all((root / card.folder / file).exists() for file in card.test.files):
            names.append(name)

    for name, card in _RELEASED.items():
        if (root / card.test.released.file).is_file():
            names.append(name)

    return names
