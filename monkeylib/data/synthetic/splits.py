"""Test sets of the synthetic data: small text, large text, general questions, captions."""

from __future__ import annotations

from dataclasses import dataclass

from monkeylib.data.synthetic.samples import Question, Sample, make_sample
from monkeylib.errors import unknown_name

NAMES = ("fine", "large", "general", "caption")


@dataclass(frozen=True)
class TestQuestion:
    """A question of a test set about one image.

    Attributes:
        id: unique in the test set.
        sample: the image with its ground truth.
        prompt: name of the prompt.
        question: empty for captions.
        answers: answers that count as correct.
        annotation: the question with its answer box and text size; None for captions.
    """

    __test__ = False  # pytest: this is not a test class

    id: str
    sample: Sample
    prompt: str
    question: str
    answers: tuple[str, ...]
    annotation: Question | None


def make_test_set(
    name: str, count: int, split: str = "test", size: tuple[int, int] = (192, 192), per_image: int = 2
) -> list[TestQuestion]:
    """Make the first `count` questions of a test set, always the same ones.

    Args:
        name: `fine` (text that is not legible once the image is resized to one tile), `large` (text that is
            still legible then), `general` (objects) or `caption`.
        count: number of questions.
        split: `test`, or `val` to choose settings.
        size: width and height of the images in pixels.
        per_image: maximum number of questions about one image.

    Raises:
        ValueError: unknown name.
    """
    if name not in NAMES:
        raise unknown_name("test set", name, NAMES)

    # Samples in order, until they have given enough questions.
    questions: list[TestQuestion] = []
    seed = 0
    while len(questions) < count:
        sample = make_sample(seed, split, size)
        seed += 1

        if name == "caption":
            id = f"caption-{sample.seed}"
            questions.append(TestQuestion(id, sample, "caption", "", (sample.caption,), None))
        else:
            questions += _questions_about(sample, name, per_image)

    return questions[:count]


def _questions_about(sample: Sample, name: str, count: int) -> list[TestQuestion]:
    text_size = "object" if name == "general" else name
    matching = [question for question in sample.questions if question.text_size == text_size]

    # Questions are in reading order. Start at a position that differs from image to image.
    start = sample.seed % max(1, len(matching))
    selected = _spread(matching[start:] + matching[:start], count)

    return [
        TestQuestion(
            id=f"{name}-{sample.seed}-{number}",
            sample=sample,
            prompt="vqa",
            question=question.question,
            answers=(question.answer,),
            annotation=question,
        )
        for number, question in enumerate(selected)
    ]


def _spread(questions: list[Question], count: int) -> list[Question]:
    """Return at most `count` questions, evenly spread over their order."""
    step = max(1, len(questions) // count)
    return questions[::step][:count]
