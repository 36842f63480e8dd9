"""Benchmarks by name: what is asked, how, and how it is scored.

A benchmark is declarative: examples to load with the prompt they carry, how long an answer may be, and the
metrics, the first of which is the one that tables show. There are four kinds of names:

- the nano world's test splits, made in code: `nano-fine` and others;
- the paper's 18 (`monkeylib.data.datasets`), read from their official downloads: `textvqa` in the folder textvqa, and so on;
- `docvqa-val` and `infovqa-val`, since the answers of those test splits aren't published;
- `released-textvqa` and so on: the 14 that the release has code for, from its own files, with its prompt and
  its metric, defects included.

The folder of all downloads is `paths.benchmarks()`, or what `get` is told.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from monkeylib import resources
from monkeylib.data import synthetic
from monkeylib.data.datasets import DatasetCard, Kind, ReportedScore, evaluation_cards
from monkeylib.errors import choose
from monkeylib.evaluation.benchmark_files import official_examples, released_examples
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.metrics import registry
from monkeylib.prompts import PROMPTS

__all__ = ["BENCHMARKS", "Benchmark", "Kind", "available", "get"]


@dataclass(frozen=True)
class Benchmark:
    """One entry.

    Attributes:
        name: in commands and files.
        title: for readers.
        kind: group of the paper's tables.
        load: `load(limit)` gives that many examples at most (None: all), always the same ones.
        metrics: names of metrics, the official one first.
        max_new_tokens: length of an answer at most.
        size: examples there are, None where the files decide.
        licence: of the questions; images may have their own.
        source: where the files come from.
        prompt: name of the prompt that its examples carry; nano's captions carry one of two.
        split: what is asked.
        reported: scores that the paper reports, in `paper_metric`.
        card: card of the dataset; None for synthetic data.
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

    def __post_init__(self) -> None:
        for metric in self.metrics:
            try:
                registry.get(metric)
            except ValueError as error:
                raise ValueError(f"benchmark {self.name}: {error}") from error

    @property
    def paper_metric(self) -> str:
        """What the paper's figures were measured with: the release's variant of the metric, where it has code
        for the set, else the official metric."""
        released = self.card.test.released if self.card else None
        return released.metric if released else self.metrics[0]


def _nano(split: str, size: int, limit: int | None) -> list[Example]:
    """Make the examples of a test set of the synthetic data."""
    count = size if limit is None else min(limit, size)
    return [
        Example(
            id=question.id,
            image=question.sample.image,
            question=question.question,
            answers=question.answers,
            prompt=question.prompt,
            image_id=f"nano-test-{question.sample.seed}",
            meta=_meta(question),
        )
        for question in synthetic.make_test_set(split, count)
    ]


def _meta(question: synthetic.TestQuestion) -> dict[str, str | float | list[float]]:
    """Return what scores are grouped by and figures show: the family, the text size, the answer box."""
    annotation = question.annotation
    if annotation is None:
        return {"family": question.sample.family}
    return {
        "family": annotation.family,
        "kind": annotation.kind,
        "print": annotation.text_size,
        "height": float(annotation.height),
        "evidence": [float(edge) for edge in annotation.answer_box],
    }


_NANO_SIZE = 600


def _nano_entry(
    split: str, title: str, kind: Kind, scores: tuple[str, ...], max_new_tokens: int
) -> Benchmark:
    return Benchmark(
        name=f"nano-{split}",
        title=title,
        kind=kind,
        load=partial(_nano, split, _NANO_SIZE),
        metrics=scores,
        max_new_tokens=max_new_tokens,
        size=_NANO_SIZE,
        licence="Apache-2.0",
        source="made by monkeylib.data.synthetic",
        prompt="caption" if kind == "captions" else "vqa",
    )


def _on_disk(card: DatasetCard, prompt: str, data: Path | None = None) -> Benchmark:
    """The official files of a dataset, in the folder of its name."""
    folder = card.name.removesuffix("-val")

    def load(limit: int | None = None) -> list[Example]:
        return official_examples(card, (data or resources.benchmarks()) / folder, prompt, limit)

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
        reported=tuple(card.test.reported),
        card=card,
    )


def _as_released(card: DatasetCard, prompt: str, data: Path | None = None) -> Benchmark:
    """The file of the released evaluation of a dataset."""

    def load(limit: int | None = None) -> list[Example]:
        return released_examples(card, data or resources.benchmarks(), prompt, limit)

    return replace(
        _on_disk(card, prompt),
        name=f"released-{card.name}",
        title=f"{card.title}, as released",
        load=load,
        metrics=(card.test.released.metric,),
        source="https://github.com/Yuliang-Liu/Monkey",
        split="of the released file",
    )


def _validation_card(card: DatasetCard) -> DatasetCard:
    """The card with its validation split as the test part, of which the paper reports nothing."""
    validation = card.test.validation
    part = card.test.model_copy(
        update={
            "split": validation.split,
            "files": validation.files,
            "released": None,
            "reported": [],
            "validation": None,
        }
    )
    return card.model_copy(
        update={"name": f"{card.name}-val", "title": f"{card.title}, validation", "test": part}
    )


_CARDS = list(evaluation_cards().values())
_VALIDATION_CARDS = [_validation_card(card) for card in _CARDS if card.test.validation]
_OFFICIAL = {card.name: card for card in (*_CARDS, *_VALIDATION_CARDS)}
_RELEASED = {f"released-{card.name}": card for card in _CARDS if card.test.released}

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        _nano_entry("fine", "Nano, fine print", "documents", ("exact_match", "anls"), 24),
        _nano_entry("large", "Nano, large print", "documents", ("exact_match", "anls"), 24),
        _nano_entry("general", "Nano, general questions", "general", ("exact_match", "anls"), 24),
        _nano_entry("caption", "Nano, captions", "captions", ("cider_d",), 96),
        *(_on_disk(card, card.test.prompts.documented) for card in _OFFICIAL.values()),
        *(_as_released(card, card.test.prompts.released) for card in _RELEASED.values()),
    )
}


def get(name: str, *, prompt: str | None = None, data: Path | str | None = None) -> Benchmark:
    """The benchmark of that name.

    Args:
        name: of the benchmark.
        prompt: instead of its own, `documented`, `released`, or any name of `monkeylib.prompts`.
        data: folder of the downloads, one folder each; `paths.benchmarks()` by default.

    Raises:
        ValueError: there is no such benchmark or prompt, or nano, made in code, is told of either.
    """
    benchmark = BENCHMARKS[choose("benchmark", name, BENCHMARKS)]
    if prompt is None and data is None:
        return benchmark
    if benchmark.card is None:
        raise ValueError(f"{name} is made in code: it takes neither a prompt nor a folder of data.")
    build = _as_released if name in _RELEASED else _on_disk
    return build(benchmark.card, _prompt(benchmark, prompt), None if data is None else Path(data))


def _prompt(benchmark: Benchmark, name: str | None) -> str:
    ways = {
        "documented": benchmark.card.test.prompts.documented,
        "released": benchmark.card.test.prompts.released,
    }
    chosen = benchmark.prompt if name is None else ways.get(name, name)
    if chosen is None:
        raise ValueError(
            f"The release has no code for {benchmark.name}, and so no prompt: ask as documented."
        )
    if chosen not in PROMPTS:
        choose("prompt", chosen, (*ways, *PROMPTS))
    return chosen


def available(data: Path | str | None = None) -> list[str]:
    """Names of the benchmarks whose files are there: nano's always, the others as they are downloaded."""
    root = Path(data) if data else resources.benchmarks()
    found = [name for name, benchmark in BENCHMARKS.items() if benchmark.card is None]
    for name, card in _OFFICIAL.items():
        folder = root / name.removesuffix("-val")
        if all((folder / file).exists() for file in card.test.files):
            found.append(name)
    return found + [name for name, card in _RELEASED.items() if (root / card.test.released.file).is_file()]
