"""VQA accuracy (Antol et al., ICCV 2015), and the official rules that normalise answers before it.

Two scorers exist besides the rules as published: the script of the challenge, and EvalAI's, which TextVQA and
VizWiz use. They differ in what they do to the texts before these are compared.
"""

import re
from collections.abc import Sequence

from monkeylib.evaluation.metrics.text import Answers, check_answers

MINIMUM_ANNOTATORS = 4

_SCRIPT_PERIODS = 32  # the scripts give the flag of a regular expression where the count is due


def vqa_accuracy(prediction: str, answers: Answers) -> float:
    """Return the VQA accuracy over the answers of n annotators.

        accuracy = 1/n  sum over annotators i of  min(1, agreeing_i / 3)

    where agreeing_i counts the annotators other than i who gave the predicted answer. With k of n agreeing,
    that is [k min(1, (k - 1) / 3) + (n - k) min(1, k / 3)] / n. Prediction and answers pass the same official
    normalisation; the script of the challenge leaves it out where all answers are equal
    (`vqa_accuracy_script`), and the released code normalises the prediction alone.

    Args:
        prediction: the model's answer.
        answers: one answer for each annotator, repeated as often as it was given (usually ten).

    Raises:
        ValueError: fewer than four annotators, with whom no prediction could reach 1.
    """
    annotated = _check_annotators(prediction, answers)
    return _agreement(normalise_vqa(prediction), [normalise_vqa(answer) for answer in annotated])


def vqa_accuracy_script(prediction: str, answers: Answers) -> float:
    """Return VQA accuracy as the script of the challenge (GT-Vision-Lab/VQA) computes it.

    Nothing is normalised where all answers are equal: "A" isn't "a", if ten annotators wrote "a". Of many
    full stops, the script removes 32.

    Raises:
        ValueError: fewer than four annotators.
    """
    annotated = [_one_line(answer) for answer in _check_annotators(prediction, answers)]
    predicted = _one_line(prediction)

    if len(set(annotated)) > 1:
        annotated = [_normalise_by_script(answer) for answer in annotated]
        predicted = _normalise_by_script(predicted)

    return _agreement(predicted, annotated)


def vqa_accuracy_evalai(prediction: str, answers: Answers) -> float:
    """Return VQA accuracy with EvalAI's normalisation, which TextVQA's and VizWiz's scorers use.

    Before the official rules, it removes commas and question marks, and splits "'s" off its word.

    Raises:
        ValueError: fewer than four annotators.
    """
    annotated = [_normalise_by_evalai(answer) for answer in _check_annotators(prediction, answers)]
    return _agreement(_normalise_by_evalai(prediction), annotated)


def _check_annotators(prediction: str, answers: Answers) -> list[str]:
    annotated = check_answers(prediction, answers)
    if len(annotated) < MINIMUM_ANNOTATORS:
        raise ValueError(
            f"VQA accuracy needs at least {MINIMUM_ANNOTATORS} annotators' answers, usually 10: got "
            f"{len(annotated)}; with one agreed answer use exact_match."
        )

    return annotated


def _agreement(predicted: str, annotated: Sequence[str]) -> float:
    """Return the accuracy of texts that are normalised already."""
    # Each annotator is compared with the others: one who agrees sees one agreeing answer fewer.
    agreeing = annotated.count(predicted)
    dissenting = len(annotated) - agreeing
    total = agreeing * min(1.0, (agreeing - 1) / 3) + dissenting * min(1.0, agreeing / 3)
    return total / len(annotated)


# --- normalisation --------------------------------------------------------------------------------

# Contractions of the official VQA evaluation. A prediction without the apostrophe gets it back
# ("dont" -> "don't"); "its" and "lets" are other words and stay.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
somebody'd somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
something'd've something'll that'd that'd've that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_NUMBER_WORDS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS_COMMA = re.compile(r"\d,\d")
_PERIOD_BEFORE_NO_DIGIT = re.compile(r"\.(?!\d)")


def _misspelt_contractions() -> dict[str, str]:
    """Map every spelling of a contraction that lacks one or all of its apostrophes to the contraction."""
    contraction_of: dict[str, str] = {}
    for word in _CONTRACTIONS:
        # "shouldn't've" may lack either apostrophe, or both.
        for index, letter in enumerate(word):
            if letter == "'":
                contraction_of[word[:index] + word[index + 1 :]] = word
        contraction_of[word.replace("'", "")] = word

    return contraction_of


_CONTRACTION_OF = _misspelt_contractions()


def remove_vqa_punctuation(text: str, max_periods: int = 0) -> str:
    """Apply the first half of the VQA rules: punctuation.

    A mark next to a blank disappears, elsewhere it becomes a blank; all marks disappear from a text that has
    a comma between digits ("1,000" -> "1000"). A period stays only before a digit.

    Args:
        text: an answer.
        max_periods: number of periods that are removed at most; 0 removes all of them.
    """
    has_thousands = _THOUSANDS_COMMA.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        # Looked up in the text as it was given, as the official code does.
        next_to_blank = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if has_thousands or next_to_blank else " ")

    return _PERIOD_BEFORE_NO_DIGIT.sub("", result, count=max_periods)


def normalise_vqa_words(text: str) -> str:
    """Apply the second half of the VQA rules: lower case, digits, no articles, apostrophes put back."""
    words = [_NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTION_OF.get(word, word) for word in words if word not in _ARTICLES)


def normalise_vqa(text: str) -> str:
    """Normalise by the rules of the official VQA evaluation."""
    return normalise_vqa_words(remove_vqa_punctuation(_one_line(text)))


def _normalise_by_script(line: str) -> str:
    return normalise_vqa_words(remove_vqa_punctuation(line, _SCRIPT_PERIODS))


def _normalise_by_evalai(text: str) -> str:
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _normalise_by_script(_one_line(words))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
