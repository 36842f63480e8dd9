"""Metrics of the released evaluation, defects included, for comparison with its scores.

Each differs from its namesake in `text` or `vqa`, which is the one to report:

- `anls`: blanks around an answer lengthen the divisor, and a lone string is taken as a list of letters;
- `relaxed_accuracy`: prediction and answer are swapped, so the 5 % are of the prediction; "12,000" is text;
- `containment` (called accuracy there): correct if the answer occurs anywhere in the prediction, from which
  full stops are removed, though not from the answer;
- `gqa_accuracy`: containment after cutting the prediction at articles that may lie inside words;
- `vqa_score`: answers aren't normalised as the prediction is, and a single annotator always gives 0.
"""

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from monkeylib.evaluation.metrics.text import ANLS_THRESHOLD, RELAXED_TOLERANCE
from monkeylib.evaluation.metrics.vqa import normalise_vqa_words, remove_vqa_punctuation

_MAX_PERIODS = 32  # the released code passes the flag of a regular expression where the count is due


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Return ANLS with the length of the answer taken before it is stripped."""
    predicted = prediction.strip()

    distances = []
    for answer in answers:
        edits = Levenshtein.distance(predicted.lower(), answer.strip().lower())
        longest = max(len(answer), len(predicted))
        distances.append(edits / longest if edits else 0.0)

    similarity = 1.0 - min(distances)
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


def relaxed_accuracy(prediction: str, answers: Sequence[str] | str) -> float:
    """Return relaxed accuracy with the roles swapped: the tolerance is relative to the prediction."""
    predicted = prediction.strip()
    predicted_number = _parse_number(predicted)

    for answer in [answers] if isinstance(answers, str) else answers:
        number = _parse_number(answer)
        # A prediction of 0 is compared as text, since nothing is relative to it.
        if number is not None and predicted_number:
            if abs(number - predicted_number) / abs(predicted_number) <= RELAXED_TOLERANCE:
                return 1.0
        elif answer.lower() == predicted.lower():
            return 1.0

    return 0.0


def _parse_number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def containment(prediction: str, answers: Sequence[str] | str) -> float:
    """Return 1 if an answer is a substring of the prediction without its full stops, else 0."""
    predicted = prediction.strip().lower().replace(".", "")
    accepted = [answers] if isinstance(answers, str) else answers
    return max(float(answer.strip().lower() in predicted) for answer in accepted)


def gqa_accuracy(prediction: str, answer: str) -> float:
    """Return the containment of the answer in the cleaned prediction."""
    return containment(clean_gqa_prediction(prediction), answer)


def clean_gqa_prediction(prediction: str) -> str:
    """Cut the prediction at the first mark, after verbs and articles, and before " of", all as substrings."""
    text = prediction.lower()

    for mark in ".,!":
        text = text.split(mark)[0]

    # Also inside of words: "this red" is cut after "this ".
    for lead in ("is ", "are ", "a ", "an ", "the "):
        if lead in text:
            text = text.split(lead)[1]

    return text.split(" of")[0].strip()


def vqa_score(prediction: str, answers: Sequence[str], *, answer_ids: bool = True) -> float:
    """Return VQA accuracy with the annotators' answers left in their case, number words and articles.

    Args:
        prediction: the model's answer.
        answers: one for each annotator.
        answer_ids: whether the annotations number the answers. Without numbers, equal answers are taken for
            the same one and left out together, so that an answer on which all agree scores 0.
    """
    predicted = normalise_vqa_words(remove_vqa_punctuation(_one_line(prediction), _MAX_PERIODS))
    annotated = [_one_line(answer) for answer in answers]

    # Unanimous answers keep their punctuation.
    if len(set(annotated)) > 1:
        annotated = [remove_vqa_punctuation(answer, _MAX_PERIODS) for answer in annotated]

    # As in `vqa.vqa_accuracy`, except for the number of others who agree with an agreeing annotator.
    agreeing = annotated.count(predicted)
    dissenting = len(annotated) - agreeing
    agreeing_others = agreeing - 1 if answer_ids else 0
    total = agreeing * min(1.0, agreeing_others / 3) + dissenting * min(1.0, agreeing / 3)
    return total / len(annotated)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
