"""What a model is fine-tuned on: the paper's mixture and the synthetic data of a profile, by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from monkeylib.data.dataset_cards import training_card
from monkeylib.data.mixture import find_mixture, parse_mixture
from monkeylib.data.synthetic import Sample
from monkeylib.profiles import Profile
from monkeylib.prompts import PROMPTS
from monkeylib.tables import Row
from monkeylib.training.synthetic_records import FIRST_UNSEEN_IMAGE, SyntheticRecords

KINDS = ("captions", "general", "scene text", "documents")  # as dataset cards call them
PAPER = "paper-1.44M"


def paper_mix() -> list[Row]:
    """Return the datasets of the paper's mixture, whose files need not be here.

    Returns:
        Rows with `dataset`, `kind`, `records`, and whether their number is `unverified`.
    """
    file = parse_mixture(find_mixture(PAPER))
    return [
        {
            "dataset": entry.name,
            "kind": training_card(entry.name).kind,
            "records": entry.count,
            "unverified": entry.unverified,
        }
        for entry in file.sets
    ]


def synthetic_mix(profile: Profile, images: int = 400) -> list[Row]:
    """Return how many answers of each kind a profile's first training images have.

    Returns:
        Rows with `kind` and `answers`: captions; questions about documents; those about text elsewhere; and
        all others.
    """
    records = SyntheticRecords(profile, "train")
    counts: Counter[str] = Counter()
    for index in range(FIRST_UNSEEN_IMAGE, FIRST_UNSEEN_IMAGE + images):
        counts.update(_kinds(records.sample(index), records[index].turns))
    return [{"kind": kind, "answers": counts[kind]} for kind in KINDS]


def _kinds(sample: Sample, turns: list[tuple[str, str]]) -> Iterator[str]:
    captions = [PROMPTS[name].text for name in ("caption", "detailed_caption")]
    sizes = {question.question: question.text_size for question in sample.questions}
    for prompt, _ in turns:
        if any(text in prompt for text in captions):
            yield "captions"
        elif sample.document is not None:
            yield "documents"
        else:
            # A question about an object needs no text.
            (size,) = (size for question, size in sizes.items() if f" {question} Answer" in f" {prompt}")
            yield "scene text" if size in ("fine", "large") else "general"
