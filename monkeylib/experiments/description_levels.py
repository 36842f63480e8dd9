"""What each level of description adds on scenes of known truth: `python -m monkeylib.experiments.description_levels`.

The experts annotate the scenes once; their unfiltered annotations are stored in `data/results/scenes/records.jsonl`.
From there, levels, filters and scores take seconds.
"""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from monkeylib import resources
from monkeylib.captions import filtering, pipeline
from monkeylib.captions.annotations import Record
from monkeylib.captions.composers.rules import RuleComposer
from monkeylib.captions.experts import load_experts, smallest_segment
from monkeylib.captions.record_files import write_records
from monkeylib.data.synthetic import collages
from monkeylib.data.synthetic.collages import CompositeScene
from monkeylib.english import with_count
from monkeylib.evaluation.metrics.text import cider_d
from monkeylib.evaluation.statistics import bootstrap_interval
from monkeylib.tables import Row

SCENES = 12
LEVELS = ("original", "+ global", "+ regions", "+ segments", "+ texts")
FILTERS = ("none", "scores", "scores and size")
_ONE = re.compile(r"an? (.+)")  # what there are more of, a regions expert named


class Scored(NamedTuple):
    """Right (1) or not (0), for each object and each word of text: what is there, and what was said."""

    objects_found: list[float]
    objects_said: list[float]
    words_found: list[float]
    words_said: list[float]


def record_path() -> Path:
    """Where what the experts found lies."""
    return resources.REPOSITORY / "data" / "results" / "scenes" / "records.jsonl"


def annotate(scenes: Sequence[CompositeScene], out: Path) -> list[Record]:
    """Return what the CPU set finds in the scenes, unfiltered and without masks."""
    sources = [pipeline.InputImage(scene.image, scene.name, scene.original_caption) for scene in scenes]
    experts = load_experts("cpu")
    records = pipeline.caption_images(sources, experts, out, thresholds=None, batch_size=2)
    bare = []
    for record in records:
        regions = tuple(region.model_copy(update={"mask": None}) for region in record.regions)
        bare.append(record.model_copy(update={"regions": regions, "detailed_caption": "", "check": None}))
    return bare


def at_level(record: Record, level: str) -> Record:
    """The record with what is known up to a level."""
    depth = LEVELS.index(level)
    kinds = ("region", "segment")[: max(0, depth - 1)]
    return record.model_copy(
        update={
            "captions": record.captions if depth >= 1 else (),
            "regions": tuple(region for region in record.regions if region.kind in kinds),
            "lines": record.lines if depth >= 4 else (),
        }
    )


def filtered(record: Record, name: str) -> Record:
    """Filter a record by the experts' own scores, also by the CPU set's smallest segment, or not at all."""
    if name == "none":
        return record
    smallest = smallest_segment("cpu") if name == "scores and size" else 0.0
    return filtering.apply_filter(record, smallest_segment=smallest)


def vocabulary(records: Sequence[Record]) -> dict[str, str]:
    """Whatever a description of the records can name, singular or plural -> the name."""
    names = {region.text.lower() for record in records for region in record.regions}
    for record in records:
        for caption in record.captions:
            parts = re.split(r", with |, | and ", caption.text.lower().removeprefix("a picture of "))
            names |= {found[1] for part in parts if (found := _ONE.match(part))}
    for photograph in collages.PHOTOGRAPHS:
        names |= {name.lower() for name in (photograph.name, *photograph.names)}
    plurals = {with_count(name, 2).split(" ", 1)[1]: name for name in names if " of " not in name}
    return plurals | {name: name for name in names}


def mentions(text: str, words: dict[str, str]) -> set[str]:
    """The names that a description says outside of quotation marks, the longest at each place."""
    rest = re.sub(r'"[^"]*"', " ", text.lower())
    alternatives = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return {words[match] for match in re.findall(rf"(?<!\w)(?:{alternatives})(?!\w)", rest)}


def quoted(text: str) -> Counter[str]:
    """The words that a description says in quotation marks."""
    return Counter(word for part in re.findall(r'"([^"]*)"', text.lower()) for word in part.split())


def score(text: str, scene: CompositeScene, words: dict[str, str]) -> Scored:
    """How a description agrees with the scene."""
    said, written = mentions(text, words), quoted(text)
    true = Counter(word for line in scene.texts for word in line.lower().split())
    things = [{placed.photograph.name, *placed.photograph.names} for placed in scene.photographs]
    right = scene.true_words
    return Scored(
        [float(bool(names & said)) for names in things],
        [float(name in right) for name in sorted(said)],
        [1.0] * (true & written).total() + [0.0] * (true - written).total(),
        [1.0] * (true & written).total() + [0.0] * (written - true).total(),
    )


def table(scenes: Sequence[CompositeScene], records: Sequence[Record]) -> list[Row]:
    """A row for each level, filter and metric, with 95 % bootstrap intervals over scenes.

    Metrics: recall and precision of objects and of words of text; the share of descriptions that name
    something or quote something that isn't there ("hallucinating"); CIDEr-D against the scenes'
    descriptions (0 to 10). A metric without cases, as precision where nothing is quoted, has no row.
    """
    words, composer = vocabulary(records), RuleComposer()
    rows: list[Row] = []
    for level in LEVELS:
        for name in FILTERS:
            texts = [composer.compose(filtered(at_level(record, level), name)) for record in records]
            rows += [
                {"level": level, "filter": name, **row} for row in _metrics(texts, scenes, words).values()
            ]
    return rows


def _metrics(texts: Sequence[str], scenes: Sequence[CompositeScene], words: dict[str, str]) -> dict[str, Row]:
    scored = [score(text, scene, words) for text, scene in zip(texts, scenes, strict=True)]
    of: dict[str, Callable[[Scored], list[float]]] = {
        "object recall": lambda one: one.objects_found,
        "object precision": lambda one: one.objects_said,
        "text recall": lambda one: one.words_found,
        "text precision": lambda one: one.words_said,
        "hallucinating": lambda one: [float(0.0 in (*one.objects_said, *one.words_said))],
    }
    values = {name: [value for one in scored for value in get(one)] for name, get in of.items()}
    clusters = {name: [i for i, one in enumerate(scored) for _ in get(one)] for name, get in of.items()}
    values["CIDEr-D"] = cider_d(texts, [list(scene.references) for scene in scenes]).tolist()
    rows: dict[str, Row] = {}
    for name, numbers in values.items():
        if numbers:
            interval = bootstrap_interval(numbers, clusters=clusters.get(name))
            value, low, high = (round(float(number), 4) for number in interval[:3])
            rows[name] = {"metric": name, "value": value, "low": low, "high": high, "cases": len(numbers)}
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Let the experts look at the scenes, and keep what they found."""
    parser = argparse.ArgumentParser(description="Describe the scenes with the CPU set.")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--out", type=Path, default=record_path())
    chosen = parser.parse_args(arguments)
    scenes = [collages.make_composite_scene(seed) for seed in range(chosen.scenes)]
    records = annotate(scenes, resources.cache() / "scenes")
    write_records(records, chosen.out)
    print(f"wrote {resources.display_path(chosen.out)}")


if __name__ == "__main__":
    main()
