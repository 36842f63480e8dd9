"""EST-VQA's score of an answer (Wang et al., CVPR 2020), without the evidence, as its official script has it.

    s = 1 - NL if NL < 0.5 else 0,    NL = edits(answer, prediction) / max(|answer|, |prediction|)

Both strings are taken in lower case and with simplified Chinese characters. OpenCC does the latter, where the
official script uses zhconv, whose tables are under the GPL. They differ in 512 of the 20,991 characters from
U+4E00 to U+9FFE, variants that zhconv also replaces by the common form (such as U+51E2 for "every").

Unlike in `text.anls`, a distance of exactly 0.5 scores 0, and outer blanks count.
"""

from functools import cache
from typing import TYPE_CHECKING

from rapidfuzz.distance import Levenshtein

from monkeylib.evaluation.metrics.text import Answers, check_answers

if TYPE_CHECKING:
    from opencc import OpenCC

_THRESHOLD = 0.5


def estvqa_anls(prediction: str, answers: Answers) -> float:
    """Return the best score over the accepted answers; EST-VQA has one for each question."""
    accepted = check_answers(prediction, answers)
    predicted = simplify(prediction.lower())

    scores = []
    for answer in accepted:
        distance = Levenshtein.normalized_distance(simplify(answer.lower()), predicted)
        scores.append(1 - distance if distance < _THRESHOLD else 0.0)

    return max(scores)


def simplify(text: str) -> str:
    """Return a text with simplified Chinese characters in place of traditional ones.

    Raises:
        ModuleNotFoundError: OpenCC isn't installed, and the text may need it.
    """
    if text.isascii():
        return text

    # OpenCC takes UTF-8, which cannot hold half of a surrogate pair.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _converter().convert(text)


@cache
def _converter() -> "OpenCC":
    try:
        from opencc import OpenCC
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "EST-VQA's metric compares simplified Chinese characters, for which OpenCC is missing: "
            "pip install 'monkeylib[data]'",
            name="opencc",
        ) from error
    return OpenCC("t2s")
