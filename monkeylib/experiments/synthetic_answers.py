"""How far questions about synthetic images are answered without the image.

There are few objects, colours, places and keys, so most pairs of question and answer of a test set also occur
in training, about other images. The blind baseline measures what that is worth: it answers each question of a
test set with the answer that the question has most often in training.

    python -m monkeylib.experiments.synthetic_answers
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from monkeylib import profiles, resources, tables
from monkeylib.data.synthetic import make_test_set
from monkeylib.data.synthetic.samples import Question
from monkeylib.tables import Row
from monkeylib.training.synthetic_records import FIRST_UNSEEN_IMAGE, SyntheticRecords

TABLE = "synthetic_answers"
QUESTIONS = 600  # of each test set, as in its benchmark
TEST_SETS = ("fine", "large", "general")


@dataclass(frozen=True)
class Pair:
    """A question with its answer.

    Attributes:
        question: the question.
        answer: its answer.
        kind: kind of the answer (`synthetic.Question`).
    """

    question: str
    answer: str
    kind: str

    @classmethod
    def of(cls, question: Question) -> Pair:
        """Return the pair of a question about an image."""
        return cls(question.question, question.answer, question.kind)


def training_pairs(records: SyntheticRecords, count: int) -> Iterator[Pair]:
    """Yield the questions about the first images of a training run, of which it reads a part."""
    for index in range(FIRST_UNSEEN_IMAGE, FIRST_UNSEEN_IMAGE + count):
        for question in records.sample(index).questions:
            yield Pair.of(question)


class BlindBaseline:
    """Answer questions without an image, by what is most frequent in training.

    A question has its own most frequent answer; one that does not occur in training has that of its kind.
    Among equally frequent answers, the first in the alphabet counts.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        by_question: defaultdict[str, Counter[str]] = defaultdict(Counter)
        by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for pair in pairs:
            by_question[pair.question][pair.answer] += 1
            by_kind[pair.kind][pair.answer] += 1

        self._by_question = {question: _most_frequent(counts) for question, counts in by_question.items()}
        self._by_kind = {kind: _most_frequent(counts) for kind, counts in by_kind.items()}

    def answer(self, pair: Pair) -> str:
        """Return the answer to a pair's question; empty for a kind that training does not have."""
        return self._by_question.get(pair.question, self._by_kind.get(pair.kind, ""))


def _most_frequent(counts: Mapping[str, int]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))


def count_answers(training: Sequence[Pair], tests: Mapping[str, Sequence[Pair]]) -> list[Row]:
    """Return a row for each test set, and for each kind of its questions.

    Columns: `test_set` and `kind` ("all" for the full set); the number of its `questions` and of its
    `distinct_pairs` of question and answer; `in_training`, the share of questions whose pair occurs in
    training; `training_pairs`, the number of distinct pairs of this kind there; and `blind`, the share that
    the blind baseline answers correctly.
    """
    baseline = BlindBaseline(training)
    trained = set(training)

    rows: list[Row] = []
    for test_set, pairs in tests.items():
        kinds = sorted({pair.kind for pair in pairs})
        for kind in ("all", *kinds):
            selected = [pair for pair in pairs if kind in ("all", pair.kind)]
            same_kind = kinds if kind == "all" else [kind]
            blind = sum(baseline.answer(pair) == pair.answer for pair in selected)
            rows.append(
                {
                    "test_set": test_set,
                    "kind": kind,
                    "questions": len(selected),
                    "distinct_pairs": len(set(selected)),
                    "in_training": round(sum(pair in trained for pair in selected) / len(selected), 4),
                    "training_pairs": sum(pair.kind in same_kind for pair in trained),
                    "blind": round(blind / len(selected), 4),
                }
            )
    return rows


def write_statistics(profile_name: str = resources.COMMITTED_PROFILE) -> None:
    """Count the answers of a profile's test sets and training run, and write the table."""
    profile = profiles.load_profile(profile_name)
    images = profile.training.steps * profile.training.batch_size
    training = list(training_pairs(SyntheticRecords(profile, "train"), images))

    tests = {}
    for name in TEST_SETS:
        questions = make_test_set(name, QUESTIONS, size=profile.image_size)
        tests[name] = [Pair.of(question.annotation) for question in questions]

    path = tables.write_table(count_answers(training, tests), TABLE, profile_name)
    print(f"wrote {resources.display_path(path)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table of a profile."""
    parser = argparse.ArgumentParser(description="Count what is known of synthetic answers without images.")
    parser.add_argument("--profile", default=resources.COMMITTED_PROFILE)
    write_statistics(parser.parse_args(arguments).profile)


if __name__ == "__main__":
    main()
