"""The shipped sample images with questions, and the ground truth of those that have one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monkeylib import resources
from monkeylib.data.synthetic.sample_files import PHOTOGRAPHS, SYNTHETIC, synthetic_sample


@dataclass(frozen=True)
class SampleQuestion:
    """A question about a sample image.

    Attributes:
        image: the file.
        question: the question.
        ground_truth: its answer; empty where nobody has written one down.
        text_size: "fine" (not legible in one view), "large" (legible there), or "object"; empty if unknown.
    """

    image: Path
    question: str
    ground_truth: str = ""
    text_size: str = ""


def sample_questions() -> list[SampleQuestion]:
    """Return the questions about all sample images."""
    return [*_synthetic_questions(), *_photograph_questions()]


def _synthetic_questions() -> Iterator[SampleQuestion]:
    for name in SYNTHETIC:
        for question in synthetic_sample(name).questions:
            yield SampleQuestion(
                resources.samples() / name, question.question, question.answer, question.text_size
            )


def _photograph_questions() -> Iterator[SampleQuestion]:
    for name in PHOTOGRAPHS:
        yield SampleQuestion(resources.samples() / name, "what is in the picture?")
