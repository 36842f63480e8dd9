"""Ask a model about many things: what is kept isn't asked again, and one failure spoils no other."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from monkeylib.captions.annotations import Failure
from monkeylib.captions.experts.base import Model
from monkeylib.captions.store import Store, folder_of

Advance = Callable[[str, int, bool], None]  # stage, how many are done, whether they were kept from earlier


class Question(NamedTuple):
    """What is asked about, and the key of its answer in the store."""

    key: str
    subject: Any


@lru_cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def failure(stage: str, error: Exception) -> Failure:
    """An exception as it is recorded."""
    return Failure(stage=stage, error=f"{type(error).__name__}: {error}")


class Asker:
    """One model, and the store of its answers.

    Args:
        model: prepared when the first question comes whose answer isn't kept.
        answer: the answers to a batch of subjects, in their order; an exception may stand for an answer.
        kind: type of an answer, which pydantic turns to JSON and back.
        root: folder of the stores.
        batch_size: subjects that the model gets at once.
        name: of the stage in failures and progress, by default the model's.
    """

    def __init__(
        self,
        model: Model,
        answer: Callable[[Sequence[Any]], Sequence[Any]],
        kind: Any,
        root: Path,
        batch_size: int,
        name: str = "",
    ) -> None:
        self.model, self.answer, self.kind, self.batch_size = model, answer, kind, batch_size
        self.name = name or model.name
        self.store = Store(folder_of(root, model.provenance))
        self.asked = self.kept = 0  # questions to the model, and those it was spared, since this was made
        self._unusable: Failure | None = None

    def __call__(self, questions: Sequence[Question], advance: Advance | None = None) -> dict[str, Any]:
        """The answer to each question by its key, a `Failure` where there is none.

        Answers are kept as they come, failures aren't: the next run asks again.
        """
        unique = {question.key: question for question in questions}
        advance = advance or (lambda *_: None)
        parse = _adapter(self.kind).validate_json
        answers = {key: self.store.get(key, parse) for key in unique}
        missing = [question for key, question in unique.items() if answers[key] is None]
        self.kept += len(unique) - len(missing)
        advance(self.name, len(questions) - len(missing), True)
        for question, said in self._new(missing):
            answers[question.key] = said
            if not isinstance(said, Failure):
                self.store.put(question.key, _adapter(self.kind).dump_json(said).decode())
            advance(self.name, 1, False)
        return answers

    def _new(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Any]]:
        """Questions with new answers; a model that can't be loaded fails on all of them at once."""
        if questions and self._unusable is None:
            try:
                self.model.prepare()
            except Exception as error:  # whatever a model raises is recorded
                self._unusable = failure(self.name, error)
        if self._unusable is not None:
            yield from ((question, self._unusable) for question in questions)
            return
        self.asked += len(questions)
        for start in range(0, len(questions), self.batch_size):
            batch = questions[start : start + self.batch_size]
            yield from zip(batch, self._answers(batch), strict=True)

    def _answers(self, batch: Sequence[Question]) -> list[Any]:
        """Answers to a batch; where it fails, each is asked alone, so that one spoils no other."""
        try:
            said = list(self.answer([question.subject for question in batch]))
            if len(said) != len(batch):
                raise ValueError(f"{self.name} gave {len(said)} answers for {len(batch)} pictures")
        except Exception as error:  # whatever a model raises is recorded
            if len(batch) == 1:
                return [failure(self.name, error)]
            return [answer for question in batch for answer in self._answers([question])]
        return [failure(self.name, item) if isinstance(item, Exception) else item for item in said]
