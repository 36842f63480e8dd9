"""Confirmed statements: how much of what the experts say about an image a second one says as well.

That a caption is grounded (`checks`) means that its words have a source. With fixed rules they always have
one, right or wrong. Two models with weights of their own rarely make the same mistake, so what both say can
be relied on more. What only one says need not be wrong: a second model may not know the word.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from monkeylib import boxes
from monkeylib.boxes import Box
from monkeylib.captions import checks
from monkeylib.captions.annotations import Record
from monkeylib.captions.filtering import names_agree

SAME_PLACE = 0.5  # share of the smaller box from which two regions may show the same

# Captions from a template list what they name.
_BETWEEN_NAMES = re.compile(r", with |, | and ")


@dataclass(frozen=True)
class Confirmation:
    """Number of statements about an image, and how many of them are confirmed."""

    statements: int = 0
    confirmed: int = 0

    @property
    def share(self) -> float | None:
        """Share of the statements that are confirmed; None without statements."""
        return self.confirmed / self.statements if self.statements else None

    def __add__(self, other: "Confirmation") -> "Confirmation":
        return Confirmation(self.statements + other.statements, self.confirmed + other.confirmed)


@dataclass(frozen=True)
class _Statement:
    """What one expert names.

    Attributes:
        stems: stems of its content words.
        models: models whose weights it comes from; empty for the original caption.
        box: its place; None for the full image.
    """

    stems: frozenset[str]
    models: frozenset[str]
    box: Box | None = None


def count_confirmed(record: Record) -> Confirmation:
    """Count the statements of a record, and those that a second expert confirms.

    Each region, and each phrase of an expert's caption of the full image, is a statement. It is confirmed by
    a statement with a content word in common, or with the end of one ("bus" and "minibus"), at the same place
    if both have one. That has to come from the
    original caption, or from an expert without a model in common: two experts that use one tagger are one.
    Lines of text have a single reader, and don't count.
    """
    statements = list(_statements(record))
    evidence = list(statements)
    if record.original_caption:
        evidence.append(_Statement(_stems(record.original_caption), frozenset()))

    confirmed = sum(any(_confirms(other, statement) for other in evidence) for statement in statements)
    return Confirmation(len(statements), confirmed)


def _confirms(other: _Statement, statement: _Statement) -> bool:
    if other.models & statement.models or not names_agree(" ".join(other.stems), " ".join(statement.stems)):
        return False
    if other.box is None or statement.box is None:
        return True
    return boxes.overlap_of_smaller(other.box, statement.box) >= SAME_PLACE


def _statements(record: Record) -> Iterator[_Statement]:
    models, sources = _models(record)
    for region in record.regions:
        if stems := _stems(region.text):
            yield _Statement(stems, models.get(region.expert, frozenset({region.expert})), region.box)

    for caption in record.captions:
        own_models = models.get(caption.expert, frozenset({caption.expert}))
        source_models = models.get(sources.get(caption.expert, ""), frozenset())
        source_names = {
            _stems(item.text)
            for item in (*record.regions, *record.dropped)
            if item.expert == sources.get(caption.expert)
        }

        for phrase in _BETWEEN_NAMES.split(caption.text):
            stems = _stems(phrase)
            if not stems:
                continue
            # What it repeats from the expert that it depends on is that one's statement.
            if stems in source_names:
                yield _Statement(stems, source_models or own_models)
            else:
                yield _Statement(stems, own_models - source_models)


def _stems(text: str) -> frozenset[str]:
    words = checks.content_words(text)
    return frozenset(checks.stem(word) for word in words if not checks.is_number(word))


def _models(record: Record) -> tuple[dict[str, frozenset[str]], dict[str, str]]:
    """Return the models that each expert uses, itself among them, and the expert that it depends on."""
    models, sources = {}, {}
    for item in record.provenance:
        models[item.expert] = frozenset({item.expert, *_nested_experts(item.settings)})
        source = item.settings.get("source")
        if isinstance(source, dict) and isinstance(source.get("expert"), str):
            sources[item.expert] = source["expert"]

    return models, sources


def _nested_experts(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the models whose provenance stands in the settings of another."""
    for value in settings.values():
        if isinstance(value, dict):
            if isinstance(value.get("expert"), str):
                yield value["expert"]
            yield from _nested_experts(value)
