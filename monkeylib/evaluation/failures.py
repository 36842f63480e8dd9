"""Questions that a model cannot answer, such as those about a broken image, and how many a run accepts.

A failure is recorded in the predictions file and counts as a wrong answer: it is scored like an empty one.
So scores of different models stay over the same questions. It is settled: a later call repeats it only if the
image has changed, or with `retry_failed`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from monkeylib.digests import FileDigests, image_digest, text_digest
from monkeylib.evaluation.examples import Example
from monkeylib.images import ImageError, open_image

MAX_FAILED_SHARE = 0.1  # of the questions of a benchmark
_MIN_LIMIT = 10  # failures that are accepted of any number of questions, unless there is nothing else
_MAX_MESSAGE = 200  # characters of a model's message that are recorded


class TooManyFailures(ValueError):
    """More questions failed than a run accepts."""


@dataclass(frozen=True)
class FailureLimit:
    """Number of failures from which a run stops.

    Attributes:
        questions: number of questions.
        share: share of them that may fail; ten failures are accepted in any case.
    """

    questions: int
    share: float = MAX_FAILED_SHARE

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"the share of questions that may fail is from 0 to 1, got {self.share}")

    def is_exceeded(self, failures: int) -> bool:
        """Return whether a run with so many failures stops."""
        return failures > max(_MIN_LIMIT, self.share * self.questions)

    def check(self, failures: int, location: object, example: str) -> None:
        """Raise an error if there are too many failures, or nothing else.

        Args:
            failures: number of failures.
            location: where they are recorded.
            example: one of them, for the message.

        Raises:
            TooManyFailures: there are.
        """
        advice = "replace the images and run it again, or repeat the questions with --retry-failed"

        if failures >= self.questions:
            raise TooManyFailures(
                f"none of the {self.questions} questions of {location} could be answered, such as {example}: "
                f"{advice}"
            )

        if self.is_exceeded(failures):
            raise TooManyFailures(
                f"{failures} of the {self.questions} questions of {location} could not be answered, such as "
                f"{example}, and {100 * self.share:g} % may fail: {advice}, or allow more with --max-failed"
            )


def open_example(example: Example) -> tuple[Example, str]:
    """Return the example with its image opened, and why that failed; empty if it didn't."""
    if example.image is None:  # for functions that read no images
        return example, ""

    try:
        return replace(example, image=open_image(example.rendered_image)), ""
    except ImageError as error:
        return example, f"image: {error.code}"


def describe_refusal(error: ValueError) -> str:
    """Return a model's message about an example that it refused, on one line."""
    return f"refused: {' '.join(str(error).split())}"[:_MAX_MESSAGE]


def content_digest(example: Example, file_digests: FileDigests) -> str:
    """Return the digest of an example's image: of a file's bytes, or of the pixels of an image in memory.

    It is empty if there is no image, or if it can't be read.
    """
    if example.image is None:
        return ""

    image = example.rendered_image
    if isinstance(image, str) and image.startswith("data:"):
        return text_digest(image)

    try:
        # A pipe would be waited for.
        if isinstance(image, str | Path):
            return file_digests.digest(Path(image)) if Path(image).is_file() else ""
        return image_digest(open_image(image))
    except (ImageError, OSError):  # recorded as a failure when the question's turn comes
        return ""


def image_digests(
    examples: Sequence[Example], file_digests: FileDigests, progress: bool = False
) -> dict[str, str]:
    """Return the digest of each image by `Example.image_key`.

    Args:
        examples: the examples.
        file_digests: digests from earlier calls; those of this one are saved, also if it is interrupted.
        progress: show a progress bar.
    """
    # Images are large: each is read, or rendered, once.
    by_key = {example.image_key: example for example in reversed(examples)}

    try:
        images = tqdm(by_key.items(), desc="digests of images", disable=not progress, leave=False)
        return {key: content_digest(example, file_digests) for key, example in images}
    finally:
        file_digests.save()
