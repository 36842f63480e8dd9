"""The official scorers of benchmarks, behind one interface, and their scores of drawn pairs.

    .harness-venv/bin/python -m tests.support.foreign_scorers

runs the installed scorers and writes `tests/goldens/foreign_scorers.json`, with which tests compare where the
scorers aren't installed.
"""

import hashlib
import json
import shutil
import statistics
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from monkeylib import resources
from tests.support import scored_pairs, torchvision_operators
from tests.support.scored_pairs import Pair

GOLDENS = Path(__file__).parents[1] / "goldens" / "foreign_scorers.json"
PAIRS = 320
STORED_CAPTIONS = 600

Score = Callable[[Pair], float | None]


class Scorer(NamedTuple):
    """An official scorer.

    Attributes:
        metrics: this library's metrics that it is compared with.
        package: distribution that holds it.
        draw: pairs to score, from a number and a seed.
        load: imports it, and returns its score of a pair.
    """

    metrics: tuple[str, ...]
    package: str
    draw: Callable[[int, int], list[Pair]]
    load: Callable[[], Score]


# --- ANLS -----------------------------------------------------------------------------------------


def _anls() -> Score:
    from anls import anls_score

    return lambda pair: anls_score(pair.prediction, pair.answers)


def _anls_star() -> Score:
    from anls_star import anls_score

    # A tuple is one of several correct answers.
    return lambda pair: anls_score(tuple(pair.answers), pair.prediction)


def _anls_lmms_eval() -> Score:
    torchvision_operators.declare()
    from lmms_eval.api.metrics import anls

    return lambda pair: anls(pair.answers, [pair.prediction])["anls"]


def _vlmevalkit(name: str, method: str) -> Score:
    torchvision_operators.declare()
    from vlmeval.dataset.utils import vqa_eval

    def score(pair: Pair) -> float:
        line = {"answer": repr(pair.answers), "prediction": pair.prediction}
        result = vqa_eval.process_line(line, method=method)
        return float(vqa_eval.hit_calculate([result], name)[0])

    return score


# --- relaxed accuracy, GQA, MME -------------------------------------------------------------------


def _relaxed_lmms_eval() -> Score:
    torchvision_operators.declare()
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    return lambda pair: float(relaxed_correctness(pair.prediction, pair.answers[0]))


def _gqa_lmms_eval() -> Score:
    torchvision_operators.declare()
    from lmms_eval.api.metrics import exact_match_hf_evaluate

    # Tasks strip what a model says, and gold answers stay.
    return lambda pair: max(
        float(
            exact_match_hf_evaluate(
                [pair.prediction.strip()], [answer], ignore_case=True, ignore_punctuation=True
            )["exact_match"]
        )
        for answer in pair.answers
    )


def _mme_lmms_eval() -> Score:
    torchvision_operators.declare()
    from lmms_eval.tasks.mme.utils import parse_pred_ans

    return lambda pair: float(parse_pred_ans(pair.prediction) == pair.answers[0])


# --- VQA ------------------------------------------------------------------------------------------


def _leave_one_out(predicted: str, annotated: list[str]) -> float:
    """Return the accuracy as the scripts sum it: each annotator against the others."""
    accuracies = []
    for index in range(len(annotated)):
        others = annotated[:index] + annotated[index + 1 :]
        accuracies.append(min(1, others.count(predicted) / 3))
    return statistics.mean(accuracies)


def _vqa_evalai() -> Score:
    torchvision_operators.declare()
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    normalise = EvalAIAnswerProcessor()
    return lambda pair: _leave_one_out(normalise(pair.prediction), [normalise(a) for a in pair.answers])


def _vqa_script() -> Score:
    """The script isn't packaged: its flow as published, with the copy of its two functions in lmms-eval."""
    torchvision_operators.declare()
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    processor = EvalAIAnswerProcessor()

    def strip(text: str) -> str:
        return text.replace("\n", " ").replace("\t", " ").strip()

    def normalise(text: str) -> str:
        return processor.process_digit_article(processor.process_punctuation(text))

    def score(pair: Pair) -> float:
        predicted, annotated = strip(pair.prediction), [strip(answer) for answer in pair.answers]
        if len(set(annotated)) > 1:
            predicted, annotated = normalise(predicted), [normalise(answer) for answer in annotated]
        return _leave_one_out(predicted, annotated)

    return score


# --- WikiTableQuestions ---------------------------------------------------------------------------


def _denotation(canonical: bool) -> Callable[[], Score]:
    """The official evaluator, as VLMEvalKit holds it for TableVQABench."""

    def load() -> Score:
        torchvision_operators.declare()
        from vlmeval.dataset.utils import tablevqabench as evaluator

        def score(pair: Pair) -> float:
            forms = pair.meta["canonical"] if canonical else None
            expected = evaluator.to_value_list(pair.answers, forms)
            predicted = evaluator.to_value_list(evaluator.tsv_unescape_list(pair.prediction))
            return float(evaluator.check_denotation(expected, predicted))

        return score

    return load


# --- multiple choice ------------------------------------------------------------------------------


def _choice_lmms_eval() -> Score:
    torchvision_operators.declare()
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    def score(pair: Pair) -> float:
        letters = list("ABCDEFGH"[: len(pair.meta["choices"])])
        return float(extract_mcq_answer(pair.prediction, letters) == letters[pair.meta["answer"]])

    return score


def _choice_vlmevalkit() -> Score:
    torchvision_operators.declare()
    from vlmeval.utils.matching_util import can_infer

    def score(pair: Pair) -> float:
        choices = dict(zip("ABCDEFGH", pair.meta["choices"], strict=False))
        return float(can_infer(pair.prediction, choices) == "ABCDEFGH"[pair.meta["answer"]])

    return score


SCORERS = {
    "anls": Scorer(("anls_paper", "anls"), "anls", scored_pairs.draw_texts, _anls),
    "anls-star": Scorer(("anls",), "anls-star", scored_pairs.draw_texts, _anls_star),
    "lmms-eval ANLS": Scorer(("anls",), "lmms-eval", scored_pairs.draw_texts, _anls_lmms_eval),
    "VLMEvalKit ANLS": Scorer(
        ("anls",), "ms-vlmeval", scored_pairs.draw_texts, lambda: _vlmevalkit("DocVQA", "anls")
    ),
    "lmms-eval ChartQA": Scorer(
        ("relaxed_accuracy_pix2struct", "relaxed_accuracy"),
        "lmms-eval",
        scored_pairs.draw_numbers,
        _relaxed_lmms_eval,
    ),
    "VLMEvalKit ChartQA": Scorer(
        ("relaxed_accuracy_pix2struct", "relaxed_accuracy"),
        "ms-vlmeval",
        scored_pairs.draw_numbers,
        lambda: _vlmevalkit("ChartQA", "relaxed_accuracy"),
    ),
    "lmms-eval GQA": Scorer(
        ("gqa_accuracy_lmms_eval", "exact_match"), "lmms-eval", scored_pairs.draw_texts, _gqa_lmms_eval
    ),
    "lmms-eval MME": Scorer(
        ("mme_perception_lmms_eval", "mme_perception"), "lmms-eval", scored_pairs.draw_yes_no, _mme_lmms_eval
    ),
    "lmms-eval TextVQA": Scorer(
        ("vqa_accuracy_evalai", "vqa_accuracy"), "lmms-eval", scored_pairs.draw_annotated, _vqa_evalai
    ),
    "VQA script": Scorer(
        ("vqa_accuracy_script", "vqa_accuracy"), "lmms-eval", scored_pairs.draw_annotated, _vqa_script
    ),
    "VLMEvalKit VQA": Scorer(
        ("vqa_accuracy",),
        "ms-vlmeval",
        scored_pairs.draw_annotated,
        lambda: _vlmevalkit("VQAv2", "vqa_score"),
    ),
    "WikiTableQuestions": Scorer(
        ("denotation_accuracy",), "ms-vlmeval", scored_pairs.draw_table_answers, _denotation(canonical=True)
    ),
    "WikiTableQuestions, plain": Scorer(
        ("denotation_accuracy_due",),
        "ms-vlmeval",
        scored_pairs.draw_table_answers,
        _denotation(canonical=False),
    ),
    "lmms-eval choices": Scorer(
        ("multiple_choice",), "lmms-eval", scored_pairs.draw_choices, _choice_lmms_eval
    ),
    "VLMEvalKit choices": Scorer(
        ("multiple_choice",), "ms-vlmeval", scored_pairs.draw_choices, _choice_vlmevalkit
    ),
}


# --- the table of the docs ------------------------------------------------------------------------


class Difference(NamedTuple):
    """A row of the table of differences in docs/metrics.md."""

    metric: str
    scorer: str
    pair: Pair
    ours: float
    theirs: float
    reason: str


def documented_differences() -> list[Difference]:
    """Return the rows of the table of differences."""
    page = (resources.REPOSITORY / "docs" / "metrics.md").read_text()
    table = page[page.index("| metric | scorer | prediction |") :].split("\n\n")[0]

    rows = []
    for line in table.splitlines()[2:]:
        metric, scorer, prediction, answers, ours, theirs, why = (
            cell.strip() for cell in line.strip("|").split("|")
        )
        answers, _, times = answers.strip("`").partition(" * ")
        accepted = json.loads(answers) * int(times or 1)

        meta = {}
        if metric == "`multiple_choice`":
            choices = ["hydrogen", "helium", "carbon", "hydrogen chloride"]
            meta = {"choices": choices, "answer": choices.index(accepted[0])}

        pair = Pair(json.loads(prediction.strip("`")), accepted, meta)
        rows.append(
            Difference(metric.strip("`"), scorer, pair, float(ours), float(theirs), why.partition(":")[0])
        )

    return rows


# --- captions -------------------------------------------------------------------------------------


def can_tokenize() -> bool:
    """Return whether pycocoevalcap and the Java that it runs are there."""
    try:
        metadata.version("pycocoevalcap")
    except metadata.PackageNotFoundError:
        return False
    return shutil.which("java") is not None


def tokenize(captions: list[str]) -> list[list[str]]:
    """Return the tokens that CIDEr sees of captions, by pycocoevalcap."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # The last caption of all is read differently at its end, since no line break follows.
    numbered = {number: [{"caption": caption}] for number, caption in enumerate([*captions, "end"])}
    tokenised = PTBTokenizer().tokenize(numbered)
    return [tokenised[number][0].split() for number in range(len(captions))]


def score_captions(captions: list[str], references: list[list[str]]) -> list[float]:
    """Return pycocoevalcap's CIDEr-D of each caption, from plain strings."""
    from pycocoevalcap.cider.cider import Cider

    tokens = tokenize([*captions, *(text for group in references for text in group)])
    joined = [" ".join(words) for words in tokens]

    results = {number: [joined[number]] for number in range(len(captions))}
    truths, place = {}, len(captions)
    for number, group in enumerate(references):
        truths[number] = joined[place : place + len(group)]
        place += len(group)

    _, scores = Cider().compute_score(truths, results)
    return [float(score) for score in scores]


def draw_corpus(images: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Return a caption of each image and its references, which share words with it."""
    captions = scored_pairs.draw_captions(images, seed)
    noise = scored_pairs.draw_captions(2 * images, seed + 1)
    references = []
    for number, caption in enumerate(captions):
        words = caption.split()
        references.append(
            [" ".join(words[:-2] + noise[2 * number].split()[:3]), " ".join(words[2:]), noise[2 * number + 1]]
        )
    return captions, references


def stored_captions() -> list[str]:
    """Return the captions whose tokens are stored."""
    return [
        *scored_pairs.draw_captions(STORED_CAPTIONS, seed=0),
        *scored_pairs.SNIPPETS,
        *scored_pairs.draw_strings(STORED_CAPTIONS, seed=0),
    ]


def digest(content: object) -> str:
    """Return a digest of what was scored: the scores hold for nothing else."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def main() -> None:
    """Score the drawn pairs with the installed scorers, and write the goldens."""
    scorers = {}
    for name, scorer in SCORERS.items():
        score = scorer.load()
        pairs = scorer.draw(PAIRS, seed=0)
        scorers[name] = {
            "package": f"{scorer.package} {metadata.version(scorer.package)}",
            "pairs": digest(pairs),
            "scores": [round(float(score(pair)), 9) for pair in pairs],
        }

    documented = {
        f"{name}: {digest(pair[:2])}": round(float(SCORERS[name].load()(pair)), 9)
        for _, name, pair, *_ in documented_differences()
    }

    captions = stored_captions()
    corpus = draw_corpus(100, seed=0)
    content = {
        "scorers": scorers,
        "documented": documented,
        "captions": {
            "package": f"pycocoevalcap {metadata.version('pycocoevalcap')}",
            "captions": digest([captions, corpus]),
            "tokens": [" ".join(words) for words in tokenize(captions)],
            "cider_d": score_captions(*corpus),
        },
    }
    GOLDENS.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"wrote {GOLDENS}")


if __name__ == "__main__":
    main()
