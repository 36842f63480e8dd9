"""Ask a model about many things: what is kept isn't asked again, and one failure spoils no other.

That holds for a question that ends the process, too: the next run asks it alone, and after three deaths not
any more.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from monkeylib.captions.annotations import Failure
from monkeylib.captions.apart import Apart, ModelFailed
from monkeylib.captions.attempts import MOST, Attempts, ProcessEnded
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
    text = str(error) if isinstance(error, ModelFailed) else f"{type(error).__name__}: {error}"
    return Failure(stage=stage, error=text)


class Asker:
    """One model, and the store of its answers.

    Args:
        model: prepared when the first question comes whose answer isn't kept.
        answer: the answers to a batch of subjects, in their order; an exception may stand for an answer.
        kind: type of an answer, which pydantic turns to JSON and back.
        root: folder of the stores.
        batch_size: subjects that the model gets at once.
        name: of the stage in failures and progress, by default the model's.
        time_limit: seconds for a batch, or for a subject asked alone; the model then runs in a process of
            its own, which is ended when it takes longer. None for no limit, in this process.
    """

    def __init__(
        self,
        model: Model,
        answer: Callable[[Sequence[Any]], Sequence[Any]],
        kind: Any,
        root: Path,
        batch_size: int,
        name: str = "",
        time_limit: float | None = None,
    ) -> None:
        self.kind, self.batch_size, self.name = kind, batch_size, name or model.name
        apart = Apart(model, answer, time_limit) if time_limit else None
        self.answer, self.runs = apart or answer, apart or model
        self.store = Store(folder_of(root, model.provenance))
        self.attempts = Attempts(self.store.home)
        self._deaths = f"{root.name}/{self.store.home.relative_to(root).as_posix()}/died"
        self.asked = self.kept = 0  # questions to the model, and those it was spared, since this was made
        self._unusable: Failure | None = None
        self._ended: Counter[str] = Counter()  # processes that a suspect has ended

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

    def release(self) -> None:
        """Free the model; it is loaded again when it is needed."""
        self.runs.release()

    def _new(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Any]]:
        """Questions with new answers; a model that can't be loaded fails on all of them at once."""
        self._ended = self.attempts.ended() if questions else Counter()
        given_up = [question for question in questions if self._ended[question.key] >= MOST]
        yield from ((question, self._given_up()) for question in given_up)
        questions = [question for question in questions if self._ended[question.key] < MOST]
        if questions and self._unusable is None:
            try:
                self.runs.prepare()
            except Exception as error:  # whatever a model raises is recorded
                self._unusable = failure(self.name, error)
        if self._unusable is not None:
            yield from ((question, self._unusable) for question in questions)
            return
        self.asked += len(questions)
        for batch in self._batches(questions):
            for question, said in zip(batch, self._answers(batch), strict=True):
                if question.key in self._ended and not isinstance(said, Failure):
                    self.attempts.forgive(question.key)
                yield question, said

    def _batches(self, questions: Sequence[Question]) -> list[Sequence[Question]]:
        """Questions as they are asked together; suspects come last, each alone."""
        suspects = [question for question in questions if question.key in self._ended]
        others = [question for question in questions if question.key not in self._ended]
        together = [others[i : i + self.batch_size] for i in range(0, len(others), self.batch_size)]
        return [*together, *([question] for question in suspects)]

    def _answers(self, batch: Sequence[Question]) -> list[Any]:
        """Answers to a batch; where it fails, each is asked alone, so that one spoils no other."""
        keys = [question.key for question in batch]
        try:
            with self.attempts.working_on(keys):
                said = list(self.answer([question.subject for question in batch]))
            if len(said) != len(batch):
                raise ValueError(f"{self.name} gave {len(said)} answers for {len(batch)} pictures")
        except ProcessEnded:
            if len(batch) == 1:
                self.attempts.blame(keys)
                self._ended[keys[0]] += 1
                if self._ended[keys[0]] >= MOST:
                    return [self._given_up()]
            return self._one_by_one(batch)
        except Exception as error:  # whatever a model raises is recorded
            return [failure(self.name, error)] if len(batch) == 1 else self._one_by_one(batch)
        return [failure(self.name, item) if isinstance(item, Exception) else item for item in said]

    def _one_by_one(self, batch: Sequence[Question]) -> list[Any]:
        return [answer for question in batch for answer in self._answers([question])]

    def _given_up(self) -> Failure:
        said = f"ended the process {MOST} times; it is asked again when {self._deaths} is deleted"
        return Failure(stage=self.name, error=said)
