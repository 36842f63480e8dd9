"""Contribution of each level of a description, measured on composite scenes with ground truth.

    python -m monkeylib.experiments.description_levels

annotates the scenes with the set `demonstration` and writes the unfiltered annotations to
`data/results/scenes/records.jsonl`, which is committed. From there, levels, filters and scores take seconds.
"""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

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
from monkeylib.evaluation.statistics import Interval, bootstrap_interval, mean, mean_interval
from monkeylib.tables import Row

SCENES = 12
LEVELS = ("original", "+ global", "+ regions", "+ segments", "+ texts")
FILTERS = ("none", "scores", "scores and size")

_SINGULAR = re.compile(r"an? (.+)")  # plurals in a caption were counted by a regions expert


# --- annotations of the scenes --------------------------------------------------------------------


def record_path() -> Path:
    """Return the file of the committed annotations of the scenes."""
    return resources.REPOSITORY / "data" / "results" / "scenes" / "records.jsonl"


def annotate(scenes: Sequence[CompositeScene], out: Path) -> list[Record]:
    """Annotate scenes with the experts of all levels, and return the records unfiltered and without masks."""
    images = [pipeline.InputImage(scene.image, scene.name, scene.original_caption) for scene in scenes]
    experts = load_experts("demonstration")
    records = pipeline.caption_images(images, experts, out, thresholds=None, batch_size=2, fresh=True)

    annotations = []
    for record in records:
        # No level needs the masks, which would fill most of the file. Descriptions are composed later.
        regions = tuple(region.model_copy(update={"mask": None}) for region in record.regions)
        changes = {"regions": regions, "detailed_caption": "", "check": None}
        annotations.append(record.model_copy(update=changes))

    return annotations


# --- levels and filters ---------------------------------------------------------------------------


def at_level(record: Record, level: str) -> Record:
    """Return a record with the annotations up to a level of `LEVELS`."""
    depth = LEVELS.index(level)

    # Levels are cumulative: each one adds to those before it.
    kinds = set()
    if depth >= LEVELS.index("+ regions"):
        kinds.add("region")
    if depth >= LEVELS.index("+ segments"):
        kinds.add("segment")

    return record.model_copy(
        update={
            "captions": record.captions if depth >= LEVELS.index("+ global") else (),
            "regions": tuple(region for region in record.regions if region.kind in kinds),
            "lines": record.lines if depth >= LEVELS.index("+ texts") else (),
        }
    )


def apply_filter(record: Record, name: str) -> Record:
    """Filter a record: not at all, by the experts' scores, or also by the smallest size of segments."""
    if name == "none":
        return record
    smallest = smallest_segment("demonstration") if name == "scores and size" else 0.0
    return filtering.apply_filter(record, smallest_segment=smallest)


# --- content of a description ---------------------------------------------------------------------


def build_vocabulary(records: Sequence[Record]) -> dict[str, str]:
    """Map every name that a description of the records can contain, singular or plural, to its singular.

    Names come from regions, from the captions of full images, and from the ground truth of the scenes.
    """
    names = {region.text.lower() for record in records for region in record.regions}

    for record in records:
        for caption in record.captions:
            phrases = re.split(r", with |, | and ", caption.text.lower().removeprefix("a picture of "))
            for phrase in phrases:
                if match := _SINGULAR.match(phrase):
                    names.add(match[1])

    for photograph in collages.PHOTOGRAPHS:
        names |= {name.lower() for name in (photograph.name, *photograph.names)}

    # "two cats" -> "cats"; a phrase such as "cup of coffee" has no plural here.
    plurals = {with_count(name, 2).split(" ", 1)[1]: name for name in names if " of " not in name}
    return plurals | {name: name for name in names}


def find_mentions(text: str, vocabulary: dict[str, str]) -> set[str]:
    """Return the names that a description mentions outside of quotations, the longest where several fit."""
    # Quotations are text in the image, not names of objects.
    unquoted = re.sub(r'"[^"]*"', " ", text.lower())

    # The longest first, so that "cup of coffee" is not read as "cup".
    longest_first = sorted(vocabulary, key=len, reverse=True)
    alternatives = "|".join(map(re.escape, longest_first))
    return {vocabulary[name] for name in re.findall(rf"(?<!\w)(?:{alternatives})(?!\w)", unquoted)}


def count_quoted_words(text: str) -> Counter[str]:
    """Count the words that a description quotes."""
    quotations = re.findall(r'"([^"]*)"', text.lower())
    return Counter(word for quotation in quotations for word in quotation.split())


# --- scores ---------------------------------------------------------------------------------------


class DescriptionScores(NamedTuple):
    """Scores of a description, 1 (correct) or 0, one for each object or word.

    Attributes:
        object_recall: whether each object of the scene is mentioned.
        object_precision: whether each mentioned name is true of the scene.
        text_recall: whether each word of the scene's texts is quoted.
        text_precision: whether each quoted word is in the scene.
    """

    object_recall: list[float]
    object_precision: list[float]
    text_recall: list[float]
    text_precision: list[float]

    @property
    def hallucinates(self) -> bool:
        """Whether the description mentions or quotes anything that isn't in the scene."""
        return 0.0 in self.object_precision or 0.0 in self.text_precision


def score_description(text: str, scene: CompositeScene, vocabulary: dict[str, str]) -> DescriptionScores:
    """Score a description against the ground truth of its scene."""
    # An object is recalled by any of its names; a name is correct if it is true of anything in the scene.
    mentions = find_mentions(text, vocabulary)
    object_names = [{placed.photograph.name, *placed.photograph.names} for placed in scene.photographs]

    # A word that the scene shows twice must be quoted twice.
    quoted_words = count_quoted_words(text)
    true_words = Counter(word for line in scene.texts for word in line.lower().split())
    matched = (true_words & quoted_words).total()
    missed = (true_words - quoted_words).total()
    invented = (quoted_words - true_words).total()

    return DescriptionScores(
        object_recall=[float(bool(names & mentions)) for names in object_names],
        object_precision=[float(name in scene.true_words) for name in sorted(mentions)],
        text_recall=[1.0] * matched + [0.0] * missed,
        text_precision=[1.0] * matched + [0.0] * invented,
    )


def score_levels(scenes: Sequence[CompositeScene], records: Sequence[Record]) -> list[Row]:
    """Compose descriptions at every level with every filter, and score them.

    Metrics: recall and precision of objects and of words of text; the share of descriptions that mention or
    quote something that isn't in the scene ("hallucinating"); CIDEr-D against the scenes' descriptions (0 to
    10). A metric without cases, such as precision where nothing is quoted, has no row.

    Returns:
        A row for each level, filter and metric, with a 95 % interval over scenes: Wilson's of shares, a BCa
        bootstrap of CIDEr-D.
    """
    vocabulary = build_vocabulary(records)
    composer = RuleComposer()

    rows: list[Row] = []
    for level in LEVELS:
        for filter_name in FILTERS:
            texts = [
                composer.compose(apply_filter(at_level(record, level), filter_name)) for record in records
            ]
            for row in _score_texts(texts, scenes, vocabulary):
                rows.append({"level": level, "filter": filter_name, **row})

    return rows


def _score_texts(
    texts: Sequence[str], scenes: Sequence[CompositeScene], vocabulary: dict[str, str]
) -> list[Row]:
    scores = [score_description(text, scene, vocabulary) for text, scene in zip(texts, scenes, strict=True)]

    # The values of each scene: many for objects and words, one for the description.
    values_by_scene: dict[str, list[list[float]]] = {
        "object recall": [score.object_recall for score in scores],
        "object precision": [score.object_precision for score in scores],
        "text recall": [score.text_recall for score in scores],
        "text precision": [score.text_precision for score in scores],
        "hallucinating": [[float(score.hallucinates)] for score in scores],
    }
    cider = cider_d(texts, [list(scene.references) for scene in scenes])
    values_by_scene["CIDEr-D"] = [[value] for value in cider.tolist()]

    rows: list[Row] = []
    for metric, by_scene in values_by_scene.items():
        values = [value for scene_values in by_scene for value in scene_values]
        # Values of one scene aren't independent.
        clusters = [scene for scene, scene_values in enumerate(by_scene) for _ in scene_values]
        if not values:
            continue

        interval = _interval(metric, values, clusters)
        value, low, high = (round(float(number), 4) for number in interval[:3])
        rows.append({"metric": metric, "value": value, "low": low, "high": high, "cases": len(values)})

    return rows


def _interval(metric: str, values: Sequence[float], scenes: Sequence[int]) -> Interval:
    """Return the mean of a metric's values with its 95 % interval over scenes."""
    if metric != "CIDEr-D":
        return mean_interval(values, clusters=scenes)

    counts = np.stack([np.asarray(values), np.ones(len(values))], axis=1)
    return bootstrap_interval(counts, mean, clusters=scenes, maximum=10)


def main(arguments: Sequence[str] | None = None) -> None:
    """Annotate the scenes and write the records."""
    parser = argparse.ArgumentParser(description="Annotate the composite scenes by the set demonstration.")
    parser.add_argument("--scenes", type=int, default=SCENES, help="number of scenes")
    parser.add_argument("--out", type=Path, default=record_path(), help="file of the records")
    options = parser.parse_args(arguments)

    scenes = [collages.make_composite_scene(seed) for seed in range(options.scenes)]
    records = annotate(scenes, resources.cache() / "scenes")
    write_records(records, options.out)
    print(f"wrote {resources.display_path(options.out)}")


if __name__ == "__main__":
    main()
