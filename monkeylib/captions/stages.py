"""Stages of the caption pipeline: each runs one model on samples and adds the results to their records.

A stage is what an engine runs, on one machine or on many: it can be pickled before its first call, and the
same samples give the same samples wherever it runs. Whatever a model raises ends up in `Record.failures`.
"""

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from monkeylib.boxes import Box
from monkeylib.captions import checks, filtering
from monkeylib.captions.annotations import ExpertOutput, Failure, GeneratedCaption, Provenance, Record, Score
from monkeylib.captions.cached_model import (
    MAXIMUM_FAILURES,
    CachedModel,
    InferenceRequest,
    as_failure,
    result_folder,
)
from monkeylib.captions.composers import Composer
from monkeylib.captions.input_images import InputImage
from monkeylib.captions.models import DependentExpert, Expert, ImageTextMatcher, Model, crop
from monkeylib.digests import json_digest
from monkeylib.images import MAX_PIXELS, ImageWarning
from monkeylib.progress import CountCallback, ProgressCallback


@dataclass(frozen=True)
class PipelineSample:
    """An image on its way through the pipeline.

    Fields:
        image: the image.
        record: its record so far.
        intermediate: outputs that later dependent experts need, by `ExpertStage.key`.
        pixels: the opened image, while one process runs several stages on it; None where each stage has to
            open it. It never goes to another process.
    """

    image: InputImage
    record: Record
    intermediate: dict[str, ExpertOutput] = field(default_factory=dict)
    pixels: Image.Image | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the pixels out: a file is smaller."""
        return {**self.__dict__, "pixels": None}

    def open(self) -> Image.Image:
        """Return the RGB image; see `InputImage.read`."""
        return self.image.open() if self.pixels is None else self.pixels

    def with_failure(self, failure: Failure) -> "PipelineSample":
        """Return the sample with one more failure."""
        return self.with_record(failures=(*self.record.failures, failure))

    def with_record(self, **changes: Any) -> "PipelineSample":
        """Return the sample with changed fields of its record."""
        return replace(self, record=self.record.model_copy(update=changes))


@dataclass(frozen=True)
class StageStatistics:
    """Statistics of a stage over some samples.

    Fields:
        stage: name of the stage.
        computed: samples for which its model was run.
        cached: samples whose results were cached.
        failed: failures that it added.
        seconds: time that it took.
        cost: US dollars that its model spent.
    """

    stage: str
    computed: int = 0
    cached: int = 0
    failed: int = 0
    seconds: float = 0.0
    cost: float = 0.0

    def __add__(self, other: "StageStatistics") -> "StageStatistics":
        return StageStatistics(
            self.stage,
            self.computed + other.computed,
            self.cached + other.cached,
            self.failed + other.failed,
            self.seconds + other.seconds,
            self.cost + other.cost,
        )

    def __sub__(self, other: "StageStatistics") -> "StageStatistics":
        return StageStatistics(
            self.stage,
            self.computed - other.computed,
            self.cached - other.cached,
            self.failed - other.failed,
            self.seconds - other.seconds,
            self.cost - other.cost,
        )


def load_samples(
    images: Sequence[InputImage], sha256: Sequence[str], largest_in_memory: int = 0
) -> list[PipelineSample]:
    """Return the samples of images. One that cannot be read gets a failure, and no size.

    Args:
        images: the images.
        sha256: their digests, empty where the file could not be read.
        largest_in_memory: images of up to so many pixels stay in memory, for the stages that follow.
    """
    # Decode a few images at a time: a shard has up to a thousand.
    with ThreadPoolExecutor(4) as pool:  # reading and decoding release the interpreter's lock
        samples = list(pool.map(partial(_load_sample, largest_in_memory=largest_in_memory), images, sha256))

    for sample in samples:
        for notice in sample.record.notices:
            warnings.warn(notice, ImageWarning, stacklevel=2)
    return samples


def _load_sample(image: InputImage, digest: str, largest_in_memory: int) -> PipelineSample:
    """Return the sample of an image that can be decoded, else one with the failure."""
    sample = PipelineSample(image, Record(name=image.name, original_caption=image.original_caption))
    try:
        pixels, notices = image.read()
        if not digest:
            raise OSError("the file could not be read when its checksum was taken")
    except Exception as error:  # Pillow's plugins raise whatever they like on broken files
        return sample.with_failure(as_failure("read", error))

    width, height = pixels.size
    sample = sample.with_record(sha256=digest, width=width, height=height, notices=notices)
    return replace(sample, pixels=pixels) if width * height <= largest_in_memory else sample


def _parts_in_memory(samples: Sequence[PipelineSample]) -> Iterator[list[PipelineSample]]:
    """Divide a batch whose images have more pixels together than one image may have."""
    part: list[PipelineSample] = []
    pixels = 0

    for sample in samples:
        size = sample.record.width * sample.record.height
        if part and pixels + size > MAX_PIXELS:
            yield part
            part, pixels = [], 0
        part.append(sample)
        pixels += size

    if part:
        yield part


class Stage(ABC):
    """A step of the pipeline with a model in it.

    A stage makes requests to its model for some of the samples (`requests`), and adds the results
    (`add_result`).

    Attributes:
        name: name of the stage, in progress and statistics.
        model: the model that it runs.
        cached_model: the model with the cache of its results.
        reads_images: whether its model gets the images.
    """

    name: str
    model: Model
    cached_model: CachedModel
    reads_images: bool = True

    @property
    @abstractmethod
    def provenance(self) -> tuple[Provenance, ...]:
        """Provenance that the stage adds to records."""

    def __call__(
        self, samples: Sequence[PipelineSample], progress: ProgressCallback | None = None
    ) -> tuple[list[PipelineSample], StageStatistics]:
        """Return the samples after this stage, in order, and its statistics."""
        # Models count over their lifetime; this call is the difference.
        before = self._totals(samples)
        finished = self.run(samples, partial(progress, self.name) if progress else None)
        return finished, self._totals(finished) - before

    def _totals(self, samples: Sequence[PipelineSample]) -> StageStatistics:
        """Return running totals. Their increase during a call is what the call did."""
        return StageStatistics(
            self.name,
            computed=self.cached_model.computed,
            cached=self.cached_model.cached,
            failed=sum(len(sample.record.failures) for sample in samples),
            seconds=time.perf_counter(),
            cost=getattr(self.model, "cost", 0.0),
        )

    def run(self, samples: Sequence[PipelineSample], progress: CountCallback | None) -> list[PipelineSample]:
        """Return the samples after this stage, in their order."""
        # Samples without a request count as finished at once.
        requests = self.requests(samples)
        without_request = requests.count(None)
        if progress and without_request:
            progress(without_request, True)

        results = self.cached_model([request for request in requests if request], progress)

        finished = []
        for sample, request in zip(samples, requests, strict=True):
            finished.append(self.add_result(sample, results[request.key]) if request else sample)
        return finished

    @abstractmethod
    def requests(self, samples: Sequence[PipelineSample]) -> list[InferenceRequest | None]:
        """Return the request for each sample, None for a sample that needs no model."""

    @abstractmethod
    def add_result(self, sample: PipelineSample, result: Any) -> PipelineSample:
        """Return a sample with the model's result added, or with the failure."""

    def release(self) -> None:
        """Free the model; it is loaded again on demand."""
        self.cached_model.release()


class ExpertStage(Stage):
    """Adds an expert's annotations to the records.

    Args:
        expert: annotates the images.
        root: folder of the results of all models.
        batch_size: number of images that the expert gets at once.
        time_limit: seconds for a batch, or for an image that is run alone; see `CachedModel`.
        max_failures: failures after which the run ends if there is hardly a success; see `CachedModel`.
        upstream: for a dependent expert, the stage that it takes its input from.

    Attributes:
        key: the same for two experts whose results are the same.
        upstream_key: key of the upstream stage, empty without one.
        in_records: whether its annotations are part of the records.
        has_dependents: whether dependent experts need its output.
        last_dependent: whether it is the last one to need the output of its upstream expert.
    """

    def __init__(
        self,
        expert: Expert,
        root: Path,
        batch_size: int,
        time_limit: float | None = None,
        max_failures: int = MAXIMUM_FAILURES,
        upstream: "ExpertStage | None" = None,
    ) -> None:
        self.model = expert
        self.name = expert.name
        self.in_records = False
        self.has_dependents = False
        self.last_dependent = False

        # The folder of its results tells experts apart: by name, version and settings.
        self._provenance = expert.provenance
        folder = result_folder(root, self._provenance)
        self.key = folder.as_posix()
        self.upstream_key = upstream.key if upstream else ""

        self.cached_model = CachedModel(
            expert,
            self._infer,
            ExpertOutput,
            folder,
            batch_size,
            name=self.name,
            time_limit=time_limit,
            max_failures=max_failures,
        )

    @property
    def provenance(self) -> tuple[Provenance, ...]:
        """Provenance of the expert, unless only others use its output: their settings name it."""
        return (self._provenance,) if self.in_records else ()

    def run(self, samples: Sequence[PipelineSample], progress: CountCallback | None) -> list[PipelineSample]:
        """Return the samples with the expert's annotations, or with its failure."""
        samples = super().run(samples, progress)
        if not (self.last_dependent and self.upstream_key):
            return samples

        # Drop the upstream output, often masks of full images, before later stages carry it along.
        finished = []
        for sample in samples:
            intermediate = {
                key: output for key, output in sample.intermediate.items() if key != self.upstream_key
            }
            finished.append(replace(sample, intermediate=intermediate))

        return finished

    def requests(self, samples: Sequence[PipelineSample]) -> list[InferenceRequest | None]:
        """Request each readable image; for a dependent expert, only those with an upstream output."""
        requests: list[InferenceRequest | None] = []
        for sample in samples:
            readable = bool(sample.record.sha256)
            has_upstream = not self.upstream_key or self.upstream_key in sample.intermediate
            requests.append(
                InferenceRequest(sample.record.sha256, sample) if readable and has_upstream else None
            )

        return requests

    def _infer(self, samples: Sequence[PipelineSample]) -> Sequence[ExpertOutput]:
        outputs: list[ExpertOutput] = []
        for part in _parts_in_memory(samples):
            images = [sample.open() for sample in part]

            if isinstance(self.model, DependentExpert):
                upstream = [sample.intermediate[self.upstream_key] for sample in part]
                outputs += self.model.annotate_from(images, upstream)
            else:
                assert isinstance(self.model, Expert)
                outputs += self.model.annotate(images)

        return outputs

    def add_result(self, sample: PipelineSample, result: ExpertOutput | Failure) -> PipelineSample:
        """Append the expert's annotations to those of earlier experts."""
        if isinstance(result, Failure):
            return sample.with_failure(result)

        if self.has_dependents:
            sample = replace(sample, intermediate={**sample.intermediate, self.key: result})

        # An upstream expert that was not selected itself only feeds its dependents.
        if not self.in_records:
            return sample

        record = sample.record
        return sample.with_record(
            captions=(*record.captions, *result.captions),
            regions=(*record.regions, *result.regions),
            lines=(*record.lines, *result.lines),
        )


class MatchStage(Stage):
    """Adds the image-text matching score of each region's crop and text.

    The regions of all images of a batch go to the matcher at once.
    """

    def __init__(
        self,
        matcher: ImageTextMatcher,
        root: Path,
        batch_size: int,
        time_limit: float | None = None,
        max_failures: int = MAXIMUM_FAILURES,
    ) -> None:
        self.model = matcher
        self.name = matcher.name
        self._provenance = matcher.provenance
        self.cached_model = CachedModel(
            matcher,
            self._infer,
            list[Score],
            result_folder(root, self._provenance),
            batch_size,
            name=self.name,
            time_limit=time_limit,
            max_failures=max_failures,
        )

    @property
    def provenance(self) -> tuple[Provenance, ...]:
        """Provenance of the matcher."""
        return (self._provenance,)

    def requests(self, samples: Sequence[PipelineSample]) -> list[InferenceRequest | None]:
        """Request each image with regions; the result depends on their boxes and texts."""
        requests: list[InferenceRequest | None] = []
        for sample in samples:
            regions = [[region.box, region.text] for region in sample.record.regions]
            if regions:
                requests.append(InferenceRequest(json_digest([sample.record.sha256, regions]), sample))
            else:
                requests.append(None)

        return requests

    def _infer(self, samples: Sequence[PipelineSample]) -> list[list[float]]:
        crops, texts = [], []
        for sample in samples:
            image = sample.open()

            # Regions of one box share a crop object, which the matcher encodes once.
            crop_of_box: dict[Box, Image.Image] = {}
            for region in sample.record.regions:
                if region.box not in crop_of_box:
                    crop_of_box[region.box] = crop(image, region.box)
                crops.append(crop_of_box[region.box])
                texts.append(region.text)

        # Some matchers return logits: clip them to 0..1.
        assert isinstance(self.model, ImageTextMatcher)
        scores = [min(max(float(score), 0.0), 1.0) for score in self.model.match(crops, texts)]
        if len(scores) != len(texts):
            raise ValueError(f"{self.name} returned {len(scores)} scores for {len(texts)} regions")

        # Deal the scores out again, to each image as many as it has regions.
        scores_of_images, start = [], 0
        for sample in samples:
            end = start + len(sample.record.regions)
            scores_of_images.append(scores[start:end])
            start = end

        return scores_of_images

    def add_result(self, sample: PipelineSample, result: list[float] | Failure) -> PipelineSample:
        """Set the matching score of each region."""
        if isinstance(result, Failure):
            return sample.with_failure(result)

        regions = []
        for region, score in zip(sample.record.regions, result, strict=True):
            regions.append(region.model_copy(update={"match": score}))
        return sample.with_record(regions=tuple(regions))


class ComposeStage(Stage):
    """Filters the annotations, has the composer write the detailed caption, and checks it."""

    def __init__(
        self,
        composer: Composer,
        filters: filtering.Filter,
        root: Path,
        max_failures: int = MAXIMUM_FAILURES,
    ) -> None:
        self.model: Composer = composer
        self.reads_images = composer.reads_images
        self.name = composer.name
        self.filters = filters
        self._provenance = composer.provenance
        self.cached_model = CachedModel(
            composer,
            self._infer,
            str | GeneratedCaption,
            result_folder(root, self._provenance),
            composer.batch_size,
            name="compose",
            max_failures=max_failures,
        )

    @property
    def provenance(self) -> tuple[Provenance, ...]:
        """Provenance of the filter and of the composer."""
        return self.filters.provenance, self._provenance

    def _infer(self, samples: Sequence[PipelineSample]) -> list[str | GeneratedCaption | Exception]:
        if not self.reads_images:
            return self.model.compose_all([sample.record for sample in samples])

        captions: list[str | GeneratedCaption | Exception] = []
        for part in _parts_in_memory(samples):
            records, images = [sample.record for sample in part], [sample.open() for sample in part]
            captions += self.model.compose_with_images(records, images)
        return captions

    def run(self, samples: Sequence[PipelineSample], progress: CountCallback | None) -> list[PipelineSample]:
        """Return the samples with finished records: filtered, captioned, checked."""
        filtered = []
        for sample in samples:
            if sample.record.sha256:
                sample = replace(sample, record=self.filters(sample.record))
            filtered.append(sample)

        return super().run(filtered, progress)

    def requests(self, samples: Sequence[PipelineSample]) -> list[InferenceRequest | None]:
        """Request each readable image; the result depends on everything that the composer reads."""
        # Names and provenance are left out: the same annotations give the same caption.
        contents = []
        for sample in samples:
            contents.append(sample.record.model_dump(mode="json", exclude=_NOT_COMPOSED))

        requests: list[InferenceRequest | None] = []
        for sample, content in zip(samples, contents, strict=True):
            if sample.record.sha256:
                requests.append(InferenceRequest(json_digest([content]), sample))
            else:
                requests.append(None)

        return requests

    def add_result(self, sample: PipelineSample, result: str | GeneratedCaption | Failure) -> PipelineSample:
        """Set the detailed caption and its check."""
        if isinstance(result, Failure):
            return sample.with_failure(result)

        caption = GeneratedCaption(text=result) if isinstance(result, str) else result
        sample = sample.with_record(detailed_caption=caption.text)
        if not caption.text:
            return sample.with_record(check=None)

        check = checks.check_caption(sample.record)
        if caption.refused:
            refusals = [f"a draft was refused: {problem}" for problem in caption.refused]
            check = check.model_copy(update={"problems": (*check.problems, *refusals)})

        return sample.with_record(check=check)


# Fields of a record that no composer reads: its origin, and results of later steps.
_NOT_COMPOSED = {"name", "status", "provenance", "failures", "dropped", "check"}
