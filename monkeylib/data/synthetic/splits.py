"""Test splits of the nano world: fine print, large print, general questions, captions."""

from __future__ import annotations

from dataclasses import dataclass

from monkeylib.data.synthetic.samples import Question, Sample, make_sample

NAMES = ("fine", "large", "general", "caption")


@dataclass(frozen=True)
class Asked:
    """One question about one image of a split, with the answers that count as right."""

    id: str
    sample: Sample
    prompt: str  # name of the prompt
    question: str  # empty for captions
    answers: tuple[str, ...]
    evidence: Question | None  # the question with its evidence; None for captions


def _spread(questions: list[Question], count: int) -> list[Question]:
    """At most `count` of the questions, evenly over their order, which is the reading order of their
    evidence."""
    step = max(1, len(questions) // count)
    return questions[::step][:count]


def test_set(
    name: str, count: int, split: str = "test", size: tuple[int, int] = (192, 192), per_image: int = 2
) -> list[Asked]:
    """The first `count` questions of a test split, always the same.

    Args:
        name: `fine` (text that is gone when the image is resized to one tile), `large` (text still
            legible then), `general` (objects) or `caption`.
        split: `test`, or `val` to choose settings.
        per_image: most questions about one image.

    Raises:
        ValueError: unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"Unknown test split '{name}': expected one of {', '.join(NAMES)}.")
    asked: list[Asked] = []
    seed = 0
    while len(asked) < count:
        sample = make_sample(seed, split, size)
        seed += 1
        if name == "caption":
            asked.append(Asked(f"caption-{sample.seed}", sample, "caption", "", (sample.caption,), None))
            continue
        wanted = "object" if name == "general" else name
        fitting = [q for q in sample.questions if q.print == wanted]
        start = sample.seed % max(1, len(fitting))
        for number, question in enumerate(_spread(fitting[start:] + fitting[:start], per_image)):
            asked.append(
                Asked(
                    f"{name}-{sample.seed}-{number}",
                    sample,
                    "vqa",
                    question.question,
                    (question.answer,),
                    question,
                )
            )
    return asked[:count]
