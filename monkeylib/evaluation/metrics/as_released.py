"""The metrics of the released evaluation, defects included, for comparison with numbers made by it.

Each differs from its namesake in `answers`, which is the one to report:

- `anls`: blanks around an answer lengthen the divisor, and a lone string is taken as a list of letters;
- `relaxed_accuracy`: prediction and answer are swapped, so the 5 % are of the prediction; "12,000" is text;
- `containment` (called accuracy there): right when the answer occurs anywhere in the prediction, from which
  full stops are removed, though not from the answer;
- `gqa_accuracy`: containment after cutting the prediction at articles that may lie inside words;
- `vqa_score`: answers aren't normalised as the prediction is, and a single annotator always gives 0.
"""

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from monkeylib.evaluation.metrics import text as text_module
from monkeylib.evaluation.metrics.text import ANLS_THRESHOLD, RELAXED_TOLERANCE

_PERIODS_REMOVED = 32  # the release passes the regular expression's flag where the count is due


def anls(prediction: str, answers: Sequence[str]) -> float:
    """ANLS with the length of the answer taken before it is stripped."""
    ours = prediction.strip()
    ratios = []
    for answer in answers:
        distance = Levenshtein.distance(ours.lower(), answer.strip().lower())
        longest = max(len(answer), len(ours))
        ratios.append(distance / longest if distance else 0.0)
    best = 1.0 - min(ratios)
    return best if best >= ANLS_THRESHOLD else 0.0


def _float(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed_accuracy(prediction: str, answers: Sequence[str] | str) -> float:
    """Relaxed accuracy with the roles swapped: the tolerance is relative to the prediction."""
    target = prediction.strip()
    wanted = _float(target)
    for answer in [answers] if isinstance(answers, str) else answers:
        given = _float(answer)
        if given is not None and wanted:
            if abs(given - wanted) / abs(wanted) <= RELAXED_TOLERANCE:
                return 1.0
        elif answer.lower() == target.lower():
            return 1.0
    return 0.0


def containment(prediction: str, answers: Sequence[str] | str) -> float:
    """1 where an answer is a substring of the prediction without its full stops."""
    ours = prediction.strip().lower().replace(".", "")
    listed = [answers] if isinstance(answers, str) else answers
    return max(float(answer.strip().lower() in ours) for answer in listed)


def gqa_cleaned(prediction: str) -> str:
    """The prediction up to the first mark, behind verbs and articles, before " of": all by substrings."""
    text = prediction.lower()
    for mark in ".,!":
        text = text.split(mark)[0]
    for lead in ("is ", "are ", "a ", "an ", "the "):
        if lead in text:
            text = text.split(lead)[1]
    return text.split(" of")[0].strip()


def gqa_accuracy(prediction: str, answer: str) -> float:
    """Containment of the answer in the cleaned prediction."""
    return containment(gqa_cleaned(prediction), answer)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def vqa_score(prediction: str, answers: Sequence[str], *, answer_ids: bool = True) -> float:
    """VQA accuracy with ten annotators' answers left in their case, number words and articles.

    Args:
        prediction: the model's answer.
        answers: one for each annotator.
        answer_ids: whether the annotations number the answers. Without numbers, equal answers are taken for
            one another and left out together, so that an answer on which all agree scores 0.
    """
    ours = text_module.vqa_words(text_module.vqa_punctuation(_one_line(prediction), _PERIODS_REMOVED))
    theirs = [_one_line(answer) for answer in answers]
    if len(set(theirs)) > 1:
        theirs = [text_module.vqa_punctuation(answer, _PERIODS_REMOVED) for answer in theirs]
    agreeing = theirs.count(ours)
    dissenting = len(theirs) - agreeing
    others = agreeing - 1 if answer_ids else 0
    return (agreeing * min(1.0, others / 3) + dissenting * min(1.0, agreeing / 3)) / len(theirs)
