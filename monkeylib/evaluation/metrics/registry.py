"""Metrics by name: the score of each example of a corpus, and the score of the corpus.

The score of a corpus is the mean over its examples for most metrics. For the others (F1 over all values of
all documents, MME's sums over tasks) it is computed from sums of counts over examples, which a bootstrap can
resample.

Where official scorers disagree, each exists: a name that ends with a scorer (`_script`, `_evalai`, `_due`,
`_lmms_eval`, `_pix2struct`, `_paper`) gives that scorer's values, and docs/metrics.md says how they differ.
Names that begin with "released_" are the metrics of the released evaluation, defects included
(`as_released`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from monkeylib.errors import unknown_name
from monkeylib.evaluation.metrics import as_released, choices, due, estvqa, mme, text, vqa, wtq
from monkeylib.evaluation.metrics.text import Answers, Meta

ExampleScores = Callable[[Sequence[str], Sequence[Answers], Sequence[Meta]], np.ndarray]


@dataclass(frozen=True)
class CorpusScore:
    """Score of a corpus that is no mean over its examples.

    Attributes:
        count: counts of every example, `[examples, columns]`, from predictions, answers, metas and images.
        combine: the score from sums of counts, `[..., columns]` -> `[...]`.
        stratum: entry of `meta` that divides the corpus into strata, such as tasks: a bootstrap resamples
            within each. None if there are none.
        strata: the strata that count in the score, such as MME's ten tasks of perception.
        maximum: the highest score, with strata of each of them; the lowest is 0.
    """

    count: Callable[[Sequence[str], Sequence[Answers], Sequence[Meta], Sequence[str]], np.ndarray]
    combine: Callable[[np.ndarray], np.ndarray]
    stratum: str | None = None
    strata: tuple[str, ...] = ()
    maximum: float = 1.0


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: name in files and commands.
        title: name in tables for readers.
        score_examples: one score for each example; multiple choice, MME and F1 need the examples' `meta`.
        higher_is_better: False for errors.
        is_share: whether the score of every example lies between 0 and 1.
        maximum: the score of an example that is entirely right, or of an error rate entirely wrong.
        corpus_score: score of a corpus; None if it is the mean of the examples' scores.
    """

    name: str
    title: str
    score_examples: ExampleScores
    higher_is_better: bool = True
    is_share: bool = True
    maximum: float = 1.0
    corpus_score: CorpusScore | None = None

    @property
    def stratum(self) -> str | None:
        """Entry of `meta` of which every value must occur in a corpus, such as the task; None for most."""
        return self.corpus_score.stratum if self.corpus_score else None

    def scores(
        self,
        predictions: Sequence[str],
        answers: Sequence[Answers],
        metas: Sequence[Meta] | None = None,
    ) -> np.ndarray:
        """Return the score of each example.

        Raises:
            ValueError: an example has no score, or the numbers of predictions, answers and metas differ.
        """
        # Most metrics need no meta.
        if metas is None:
            metas = [{} for _ in predictions]
        if not len(predictions) == len(answers) == len(metas):
            raise ValueError(
                f"Each prediction needs its answers and its meta: got {len(predictions)} predictions, "
                f"{len(answers)} lists of answers and {len(metas)} metas."
            )

        return self.score_examples(predictions, answers, metas)


_SHORT_NAMES = {"exact": "exact_match"}


def get(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        ValueError: there is no such metric; the message lists the names.
    """
    name = _SHORT_NAMES.get(name, name)
    if name not in METRICS:
        short_names = [f"{short} (short for {long})" for short, long in _SHORT_NAMES.items()]
        raise unknown_name("metric", name, [*METRICS, *short_names])
    return METRICS[name]


def _per_example(function: Callable[[str, Answers], float]) -> ExampleScores:
    """Apply a function of prediction and answers to every example."""

    def scores(predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta]) -> np.ndarray:
        return np.asarray([function(p, a) for p, a in zip(predictions, answers, strict=True)], dtype=float)

    return scores


def _per_example_with_meta(function: Callable[[str, Answers, Meta], float]) -> ExampleScores:
    """Apply a function of prediction, answers and meta to every example."""

    def scores(predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta]) -> np.ndarray:
        examples = zip(predictions, answers, metas, strict=True)
        return np.asarray([function(*example) for example in examples], dtype=float)

    return scores


def _as_released(function: Callable[[str, list[str]], float]) -> ExampleScores:
    """Apply a released function to checked input; otherwise it crashes, or reads a string as its letters."""
    return _per_example(
        lambda prediction, answers: function(prediction, text.check_answers(prediction, answers))
    )


# CIDEr is scored over the corpus at once, since it weighs words by their rarity in it.
def _cider_d(predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta]) -> np.ndarray:
    return text.cider_d(predictions, answers)


def _field_f1(prediction: str, answers: Answers, meta: Meta) -> float:
    return float(due.f1(due.count_values(prediction, answers, meta)))


def _count_values(
    predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta], images: Sequence[str]
) -> np.ndarray:
    return due.count_corpus(predictions, answers, metas)


def _gqa_as_released(prediction: str, answers: list[str]) -> float:
    return max(as_released.gqa_accuracy(prediction, answer) for answer in answers)


def _mme(
    name: str,
    tasks: Sequence[str],
    combine: Callable[[np.ndarray], np.ndarray],
    parse: Callable[[str], str] = mme.parse_yes_no,
    scorer: str = "",
) -> Metric:
    """Build the metric of one of MME's two sums over tasks, by the rules of a scorer."""

    def count(
        predictions: Sequence[str], answers: Sequence[Answers], metas: Sequence[Meta], images: Sequence[str]
    ) -> np.ndarray:
        counts = mme.count_corpus(predictions, answers, metas, images, parse)

        # A sum that lacks a task would look like a low score.
        if missing := mme.missing_tasks(metas, tasks):
            raise ValueError(
                f"MME's {name} is a sum over {len(tasks)} tasks, and no question is of {', '.join(missing)}: "
                "answer all tasks."
            )

        return counts

    return Metric(
        f"mme_{name}" + (f"_{scorer}" if scorer else ""),
        f"MME {name}" + (f" ({scorer})" if scorer else ""),
        _per_example(lambda prediction, answers: mme.yes_no_accuracy(prediction, answers, parse)),
        # Accuracy and accuracy+ of each task.
        corpus_score=CorpusScore(count, combine, stratum="task", strata=tuple(tasks), maximum=2.0),
    )


_METRICS = (
    # Free text
    Metric("exact_match", "exact match", _per_example(text.exact_match)),
    Metric("anls", "ANLS", _per_example(text.anls)),
    Metric("relaxed_accuracy", "relaxed accuracy", _per_example(text.relaxed_accuracy)),
    Metric("vqa_accuracy", "VQA accuracy", _per_example(vqa.vqa_accuracy)),
    Metric(
        "character_error",
        "character error",
        _per_example(text.character_error),
        higher_is_better=False,
        is_share=False,
    ),
    Metric("cider_d", "CIDEr-D", _cider_d, is_share=False, maximum=10.0),
    # Metrics of single benchmarks
    Metric("multiple_choice", "accuracy", _per_example_with_meta(choices.multiple_choice)),
    Metric("estvqa_anls", "ANLS", _per_example(estvqa.estvqa_anls)),
    Metric("denotation_accuracy", "denotation accuracy", _per_example_with_meta(wtq.denotation_accuracy)),
    Metric(
        "f1",
        "F1",
        _per_example_with_meta(_field_f1),
        corpus_score=CorpusScore(_count_values, due.f1),
    ),
    _mme("perception", mme.MME_PERCEPTION, mme.perception),
    _mme("cognition", mme.MME_COGNITION, mme.cognition),
    # As other official scorers compute them
    Metric("anls_paper", "ANLS (paper)", _per_example(text.anls_paper)),
    Metric(
        "relaxed_accuracy_pix2struct",
        "relaxed accuracy (pix2struct)",
        _per_example(text.relaxed_accuracy_pix2struct),
    ),
    Metric("vqa_accuracy_script", "VQA accuracy (script)", _per_example(vqa.vqa_accuracy_script)),
    Metric("vqa_accuracy_evalai", "VQA accuracy (EvalAI)", _per_example(vqa.vqa_accuracy_evalai)),
    Metric("gqa_accuracy_script", "GQA accuracy (script)", _per_example(text.exact_match_verbatim)),
    Metric(
        "gqa_accuracy_lmms_eval",
        "GQA accuracy (lmms-eval)",
        _per_example(text.exact_match_without_punctuation),
    ),
    Metric(
        "denotation_accuracy_due",
        "denotation accuracy (DUE)",
        _per_example(wtq.denotation_accuracy_due),
    ),
    _mme("perception", mme.MME_PERCEPTION, mme.perception, mme.parse_yes_no_lmms_eval, "lmms_eval"),
    _mme("cognition", mme.MME_COGNITION, mme.cognition, mme.parse_yes_no_lmms_eval, "lmms_eval"),
    # As the released code computes them
    Metric("released_anls", "ANLS as released", _as_released(as_released.anls)),
    Metric(
        "released_relaxed_accuracy",
        "relaxed accuracy as released",
        _as_released(as_released.relaxed_accuracy),
    ),
    Metric("released_containment", "containment as released", _as_released(as_released.containment)),
    Metric("released_gqa_accuracy", "GQA accuracy as released", _as_released(_gqa_as_released)),
    Metric("released_vqa_score", "VQA score as released", _as_released(as_released.vqa_score)),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
