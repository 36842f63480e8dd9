"""Benchmarks by name: what is asked, how, and how it is scored.

A benchmark is declarative: examples to load with the prompt they carry, how long an answer may be, and the
metrics, the first of which is the one that tables show.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from monkeylib.data import worlds
from monkeylib.evaluation import metrics
from monkeylib.evaluation.examples import Example

Kind = Literal["captions", "general", "scene text", "documents"]


@dataclass(frozen=True)
class Benchmark:
    """One entry: `load(limit)` gives that many examples at most (None: all), always the same ones."""

    name: str
    title: str
    kind: Kind
    load: Callable[[int | None], list[Example]]
    metrics: tuple[str, ...]
    max_new_tokens: int
    size: int
    licence: str
    source: str

    def __post_init__(self) -> None:
        for metric in self.metrics:
            metrics.get(metric)


def _nano(split: str, size: int, limit: int | None) -> list[Example]:
    """Examples of a test split of the nano world."""
    count = size if limit is None else min(limit, size)
    return [
        Example(
            id=asked.id,
            image=asked.sample.image,
            question=asked.question,
            answers=tuple(asked.answers),
            prompt=asked.prompt,
            image_id=f"nano-test-{asked.sample.seed}",
            meta=_meta(asked),
        )
        for asked in worlds.test_set(split, count)
    ]


def _meta(asked: worlds.Asked) -> dict[str, str | float | list[float]]:
    """What scores and figures group by: the family, and the evidence of a question."""
    if asked.evidence is None:
        return {"family": asked.sample.family}
    evidence = asked.evidence
    return {
        "family": evidence.family,
        "kind": evidence.kind,
        "print": evidence.print,
        "height": float(evidence.height),
        "evidence": [float(side) for side in evidence.evidence],
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
        source="made by monkeylib.data.worlds",
    )


BENCHMARKS: dict[str, Benchmark] = {
    entry.name: entry
    for entry in (
        _nano_entry("fine", "Nano, fine print", "documents", ("exact_match", "anls"), 24),
        _nano_entry("large", "Nano, large print", "documents", ("exact_match", "anls"), 24),
        _nano_entry("general", "Nano, general questions", "general", ("exact_match", "anls"), 24),
        _nano_entry("caption", "Nano, captions", "captions", ("cider_d",), 96),
    )
}


def get(name: str) -> Benchmark:
    """The benchmark of that name; `ValueError` lists the names."""
    if name not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]
