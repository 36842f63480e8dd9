"""The caption pipeline on one image, stage by stage, and its filter at other thresholds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from monkeylib.captions import registry, stages
from monkeylib.captions.annotations import Record
from monkeylib.captions.filtering import DEFAULTS, Filter, Thresholds
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.models import Expert
from monkeylib.captions.pipeline import Pipeline
from monkeylib.digests import image_digest
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


def available_experts() -> list[str]:
    """Return the experts of the set "cpu" whose files are here; none is downloaded."""
    return [name for name in registry.expert_sets()["cpu"] if not registry.missing_assets(name)]


def run_stages(
    image: ImageInput, experts: Sequence[str | Expert], thresholds: Thresholds | None = DEFAULTS
) -> Iterator[StageResult]:
    """Caption one image and yield what is there after each stage; the last one filters and writes.

    Nothing is stored: results lie in a temporary folder until the last stage is over.

    Args:
        image: anything that `images.open_image` reads.
        experts: experts, or their names.
        thresholds: of the filter; None lets everything through.

    Raises:
        ValueError: an image that cannot be read, or there is no such expert.
    """
    opened = open_image(image)
    loaded = [
        expert if isinstance(expert, Expert) else registry.load_experts([expert])[0] for expert in experts
    ]
    pipeline = Pipeline(loaded, filters=Filter(thresholds), batch_size=1)

    with tempfile.TemporaryDirectory() as folder:
        samples = [_sample(opened)]
        for stage in pipeline.stages(Path(folder)):
            samples, statistics = stage(samples)
            yield StageResult(statistics.stage, samples[0].record, statistics.seconds)


def filter_again(record: Record, thresholds: Thresholds) -> Record:
    """Return an unfiltered record, filtered and captioned by the rules, at other thresholds."""
    with tempfile.TemporaryDirectory() as folder:
        *_, compose = Pipeline([], filters=Filter(thresholds)).stages(Path(folder))
        empty = Image.new("RGB", (1, 1))
        (sample,), _ = compose([stages.PipelineSample(InputImage(empty, record.name), record)])
        return sample.record


def _sample(image: Image.Image) -> stages.PipelineSample:
    (sample,) = stages.load_samples(
        [InputImage(image, "image")], [image_digest(image)], largest_in_memory=image.width * image.height
    )
    return sample
