"""The caption pipeline on one image, stage by stage, and its filter at other thresholds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from monkeylib.captions import registry, stages
from monkeylib.captions.annotations import Record
from monkeylib.captions.composers.rules import RuleComposer
from monkeylib.captions.filtering import DEFAULTS, Filter, Thresholds
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.models import Expert
from monkeylib.captions.pipeline import Pipeline
from monkeylib.digests import image_digest
from monkeylib.errors import choose
from monkeylib.images import ImageInput, open_image


@dataclass(frozen=True)
class StageResult:
    """The record of an image after a stage.

    Attributes:
        stage: name of the stage.
        record: everything that is there of the image so far.
        seconds: that the stage took.
    """

    stage: str
    record: Record
    seconds: float


def available_experts(expert_set: Literal["cpu", "demonstration"] = "cpu") -> list[str]:
    """Return the experts of a set of small models whose files are here; none is downloaded.

    Raises:
        ValueError: there is no such set.
    """
    sets = registry.expert_sets()
    choose("set", expert_set, sets)
    return [name for name in sets[expert_set] if not registry.missing_assets(name)]


def filter_of(experts: str | Sequence[str | Expert]) -> Filter:
    """Return the filter with which `monkeylib caption` runs experts, or experts and sets of these names.

    No weights are loaded: the filter of a set is the same whether or not its files are here.

    Raises:
        ValueError: there is no such expert or set.
    """
    chosen = [experts] if isinstance(experts, str) else experts
    names = [expert for expert in chosen if isinstance(expert, str)]
    return Filter(smallest_segment=registry.smallest_segment(names)).for_experts(_load(experts))


def run_stages(
    image: ImageInput, experts: str | Sequence[str | Expert], filters: Filter | None = None
) -> Iterator[StageResult]:
    """Caption one image and yield what is there after each stage; the last one filters and writes.

    Nothing is stored: results lie in a temporary folder until the last stage is over.

    Args:
        image: anything that `images.open_image` reads.
        experts: experts, or names of experts or sets.
        filters: the filter; by default that of the experts (`filter_of`).

    Raises:
        ValueError: an image that cannot be read, or there is no such expert or set.
    """
    opened = open_image(image)
    filters = filter_of(experts) if filters is None else filters
    pipeline = Pipeline(_load(experts), filters=filters, batch_size=1)

    with tempfile.TemporaryDirectory() as folder:
        samples = [_sample(opened)]
        for stage in pipeline.stages(Path(folder)):
            samples, statistics = stage(samples)
            yield StageResult(statistics.stage, samples[0].record, statistics.seconds)


def movable_thresholds(record: Record, filters: Filter) -> dict[str, float]:
    """Return the thresholds that decide on an unfiltered record's annotations, by field or expert.

    Regions have the threshold of their expert's own scores where the filter has one, else that of their kind.
    """
    thresholds = filters.thresholds or Thresholds(0, 0, 0, 1)
    values: dict[str, float] = {}
    for region in record.regions:
        has_own = region.match is None and region.expert in filters.scores
        name = region.expert if has_own else region.kind
        values[name] = filters.scores[name] if has_own else getattr(thresholds, name)
    if record.lines:
        values["ocr"] = thresholds.ocr
    return {**values, "same_caption": thresholds.same_caption}


def move_thresholds(filters: Filter, values: Mapping[str, float]) -> Filter:
    """Return a filter with other thresholds, named as by `movable_thresholds`.

    Raises:
        ValueError: there is no such threshold.
    """
    names = [*Thresholds._fields, *filters.scores]
    for name in values:
        choose("threshold", name, names)
    fields = {name: value for name, value in values.items() if name in Thresholds._fields}
    scores = {name: value for name, value in values.items() if name not in fields}
    thresholds = (filters.thresholds or DEFAULTS)._replace(**fields)
    return replace(filters, thresholds=thresholds, scores={**filters.scores, **scores})


def filter_again(record: Record, filters: Filter) -> Record:
    """Return an unfiltered record, filtered anew and captioned by the rules."""
    with tempfile.TemporaryDirectory() as folder:
        compose = stages.ComposeStage(RuleComposer(), filters, Path(folder))
        empty = Image.new("RGB", (1, 1))
        (sample,), _ = compose([stages.PipelineSample(InputImage(empty, record.name), record)])
        return sample.record


def _load(experts: str | Sequence[str | Expert]) -> list[Expert]:
    """Return experts in their order, each name once, with those of its experts in place of a set's."""
    loaded: list[Expert] = []
    names: list[str] = []
    for expert in [experts] if isinstance(experts, str) else experts:
        if isinstance(expert, Expert):
            loaded.append(expert)
            continue
        new = [name for name in registry.expand_names(expert) if name not in names]
        names += new
        loaded += registry.load_experts(new)
    return loaded


def _sample(image: Image.Image) -> stages.PipelineSample:
    (sample,) = stages.load_samples(
        [InputImage(image, "image")], [image_digest(image)], largest_in_memory=image.width * image.height
    )
    return sample
