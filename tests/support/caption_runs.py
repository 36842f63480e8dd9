"""A run of the pipeline over many small images, and what must be the same after it."""

import json
from pathlib import Path

from monkeylib.captions import input_images, pipeline
from monkeylib.captions.engines import Engine
from monkeylib.captions.experts.segments import CaptionedSegments
from monkeylib.captions.summary import Summary
from tests.support.caption_models import ChecksumMatcher, Colours, Halves, Shades

IMAGES = 500
SHARD = 40


def build_pipeline() -> pipeline.Pipeline:
    """Return a pipeline with an expert, a dependent one and a matcher."""
    experts = [Colours(), CaptionedSegments(Halves(), Shades())]
    return pipeline.Pipeline(experts, ChecksumMatcher(), batch_size=16)


def run_pipeline(folder: Path, out: Path, engine: Engine | None = None, **options) -> Summary:
    """Caption the images of a folder in shards of 40."""
    inputs = input_images.find_images([folder])
    return build_pipeline().run(inputs, out, engine=engine, shard_size=SHARD, progress=False, **options)


def outcome(out: Path) -> tuple[bytes, list[dict]]:
    """Files that must not depend on the engine, nor on how often the run was killed."""
    return (out / "records.jsonl").read_bytes(), json.loads((out / "manifest.json").read_text())["shards"]
