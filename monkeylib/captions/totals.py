"""Totals of captioned images: outcomes, what the filter dropped and why, failures, models, thresholds."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from monkeylib.captions.annotations import Provenance, Record
from monkeylib.captions.confirmation import Confirmation, count_confirmed
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.registry import expert_sets, load_experts

_REFUSED_KINDS = {"refused", "rejected"}
_REFUSED_DRAFT = "a draft was refused"  # how the problem begins, see `stages.ComposeStage`

# Beginnings of the filter's reasons, which hold numbers.
_DROPPED = {
    "score ": "score not above its threshold",
    "match ": "match not above its threshold",
    "confidence ": "confidence not above its threshold",
    "it covers ": "too small a segment",
    "the same text ": "text repeated at its place",
    "its place has a surer name": "another name at its place is surer",
    "there is no description": "without a text",
}


class Outcome(NamedTuple):
    """How an image ended, and its rank: what needs attention first comes first."""

    rank: int
    text: str


_FAILED, _PARTIAL = Outcome(0, "failed"), Outcome(1, "partly failed")
_PROBLEM, _UNDESCRIBED = Outcome(2, "failed a check"), Outcome(3, "without a description")
_DESCRIBED = Outcome(4, "described")


def find_outcome(record: Record) -> Outcome:
    """Return the outcome of an image."""
    if record.failures:
        return _FAILED if record.status == "failed" else _PARTIAL
    if not record.detailed_caption:
        return _UNDESCRIBED
    return _PROBLEM if record.check and record.check.problems else _DESCRIBED


@dataclass
class Totals:
    """What is counted over records.

    Attributes:
        outcomes: images by outcome.
        refused: images on which a chat model refused, or whose answers or drafts were refused.
        dropped: annotations that the filter dropped, by expert and reason.
        failures: failures by stage and kind.
        confirmation: statements of experts, and those that a second one confirms.
        provenance: models by name.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    refused: int = 0
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    confirmation: Confirmation = Confirmation()
    provenance: dict[str, Provenance] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Count one more record."""
        self.outcomes[find_outcome(record)] += 1
        self.refused += _was_refused(record)
        for item in record.dropped:
            self.dropped[item.expert, drop_reason(item.reason)] += 1
        for failure in record.failures:
            self.failures[failure.stage, failure.kind or "unknown"] += 1
        self.confirmation += count_confirmed(record)
        for item in record.provenance:
            self.provenance.setdefault(item.expert, item)

    def outcomes_in_order(self) -> dict[str, int]:
        """Return the number of images of each outcome that occurs, failures first."""
        return {outcome.text: self.outcomes[outcome] for outcome in sorted(self.outcomes)}

    def demonstration(self) -> str:
        """Return what the small models of the CPU cannot do; empty if other experts were at work."""
        small = _set_names("demonstration") - _set_names("paper")
        used = sorted(small & self.provenance.keys())
        if not used:
            return ""
        return (
            f"{', '.join(used)} are small models for a CPU: they name classes of a fixed list, and describe "
            "nothing in words of their own. What isn't in their lists, they take for something else. For "
            "captions to train on, use --experts paper, or a vision model as expert or composer."
        )

    def tables(self, facts: Mapping[str, object]) -> dict[str, list[tuple[str, object]]]:
        """Return the totals as tables of names and values, by their titles; empty ones too."""
        images: list[tuple[str, object]] = [("images", self.outcomes.total())]
        images += list(self.outcomes_in_order().items())
        images.append(("refused by a model or its judge", self.refused))
        if self.confirmation.statements:
            counts = self.confirmation
            images.append(("statements of experts", counts.statements))
            images.append(("confirmed by a second expert", f"{counts.confirmed} ({counts.share:.0%})"))

        models = [
            (item.expert, f"{item.version}, {item.licence}" if item.licence else item.version)
            for item in self.provenance.values()
        ]
        return {
            "Images": [*images, *facts.items()],
            "Failures": _rows(self.failures),
            "Dropped by the filter": _rows(self.dropped),
            "Models": models,
            "Filter": filter_settings(self.provenance),
        }


def add_up(records: Iterable[Record]) -> Totals:
    """Return the totals of records."""
    totals = Totals()
    for record in records:
        totals.add(record)
    return totals


def select_for_report(
    records: Iterable[Record], images: Iterable[InputImage], count: int
) -> tuple[Totals, list[Record], list[InputImage]]:
    """Return the totals of all records, and `count` of them with their images: failures first.

    Memory doesn't grow with the number of records.

    Args:
        records: the records.
        images: their images, in the same order.
        count: the most that are returned; in the order of the records.
    """
    totals = Totals()

    def ranked() -> Iterator[tuple[int, int, Record, InputImage]]:
        for position, (record, image) in enumerate(zip(records, images, strict=True)):
            totals.add(record)
            yield find_outcome(record).rank, position, record, image

    selected = heapq.nsmallest(count, ranked(), key=lambda item: item[:2])
    selected.sort(key=lambda item: item[1])
    return totals, [item[2] for item in selected], [item[3] for item in selected]


def drop_reason(reason: str) -> str:
    """Return a filter's reason without the numbers of the annotation that it is about."""
    for beginning, text in _DROPPED.items():
        if reason.startswith(beginning):
            return text
    return reason.partition(":")[0]


def filter_settings(provenance: Mapping[str, Provenance]) -> list[tuple[str, Any]]:
    """Return the thresholds and other settings of the filter, nested ones with a dot."""
    rows: list[tuple[str, Any]] = []
    for name, value in (provenance["filter"].settings if "filter" in provenance else {}).items():
        if isinstance(value, dict):
            rows += [(f"{name}.{key}", item) for key, item in value.items()]
        else:
            rows.append((name, ", ".join(value) if isinstance(value, list) else value))
    return rows


def _was_refused(record: Record) -> bool:
    problems = record.check.problems if record.check else ()
    return any(failure.kind in _REFUSED_KINDS for failure in record.failures) or any(
        problem.startswith(_REFUSED_DRAFT) for problem in problems
    )


def _rows(counts: Counter[tuple[str, str]]) -> list[tuple[str, object]]:
    return [(": ".join(names), count) for names, count in counts.most_common()]


def _set_names(name: str) -> set[str]:
    """Return the names in records of the experts of a set."""
    return {expert.name for expert in load_experts(name)} if name in expert_sets() else set()
