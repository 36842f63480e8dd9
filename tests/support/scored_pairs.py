"""Predictions and answers on which scorers may disagree: as models write them, random, and adversarial.

All are drawn with a seed, so that they are the same everywhere.
"""

import random
import string
from pathlib import Path
from typing import Any, NamedTuple

SNIPPETS = (Path(__file__).parents[1] / "goldens" / "caption_snippets.txt").read_text().splitlines()
_COMMON_WORDS = """
a the on of in with and sign that says man woman standing next to red blue bottle beer wine book cover
phone screen
clock shows time watch jersey number player plane bus street shop window front building white black green
reads
label from by at for is are it its his her two three people wearing old large small open table wall train
station
""".split()


class Pair(NamedTuple):
    """A prediction with its accepted answers, and the meta that some metrics need."""

    prediction: str
    answers: list[str]
    meta: dict[str, Any] = {}


# --- captions -------------------------------------------------------------------------------------


def draw_captions(count: int, seed: int) -> list[str]:
    """Return captions of common words, signs' texts, abbreviations, numbers and marks."""
    rng = random.Random(seed)
    captions = []

    for _ in range(count):
        words = []
        for _ in range(rng.randint(4, 14)):
            word = rng.choice(_COMMON_WORDS if rng.random() < 0.7 else SNIPPETS)
            shape = rng.random()
            if shape < 0.06:
                word = f'"{word}"'
            elif shape < 0.09:
                word = f"'{word}'"
            elif shape < 0.12:
                word = f"({word})"
            elif shape < 0.18:
                word += ","
            elif shape < 0.21:
                word += "."
            elif shape < 0.24:
                word = word.upper()
            elif shape < 0.3:
                word = word.capitalize()
            words.append(word)
        captions.append(" ".join(words) + rng.choice([".", "", ".", "!", " .", "..."]))

    return captions


def draw_strings(count: int, seed: int) -> list[str]:
    """Return random strings: of all of ASCII, of the marks that matter most, and of signs beyond ASCII."""
    rng = random.Random(seed)
    alphabets = (
        string.ascii_letters + string.digits + " " * 8 + string.punctuation,
        "aAb1 2.,-'/&$",
        "ab 1é中“”‘’–—…½€£™®°•×²ßﬁ😀",
    )
    strings = []

    for number in range(count):
        alphabet = alphabets[number % len(alphabets)]
        drawn = "".join(rng.choice(alphabet) for _ in range(rng.randint(2, 12)))
        strings.append(drawn.strip() or "x")

    return strings


# --- short answers --------------------------------------------------------------------------------

_TEXTS = [
    "yes", "no", "itc limited", "$1,234.50", "1 January 2010", "the red car", "dog's", "straße",
    "İstanbul", "a b",
    "U.S.A.", "3", "three", "none", "don't", "dont know", "red, white", "red,white", "t-shirt", "22:15",
    "-5.", "1.0",
    "2,000", "a/b", "what?", "O'Neil", "café", "x" * 30, "blue and white", "on the left", "12 oz", "100%", "",
]  # fmt: skip


def _vary(rng: random.Random, text: str) -> str:
    """Return a text as another might write it: case, blanks, marks, an article, an edit."""
    changes = (
        lambda t: t, lambda t: t, str.upper, str.title, lambda t: f" {t} ", lambda t: t.replace(" ", "  "),
        lambda t: t.replace(" ", "\n"), lambda t: t + ".", lambda t: f"the {t}", lambda t: t.replace(",", ""),
        lambda t: t.replace("'", ""), lambda t: t + "s", lambda t: t[1:], lambda t: t[: len(t) // 2],
        lambda t: t[::-1], lambda t: f"{t}!", lambda t: f"{t}?", lambda t: t.replace("-", " "),
    )  # fmt: skip
    return rng.choice(changes)(text)


def draw_texts(count: int, seed: int) -> list[Pair]:
    """Return predictions of short texts with one to three answers."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        answers = [_vary(rng, rng.choice(_TEXTS)) for _ in range(rng.randint(1, 3))]
        source = rng.choice(answers) if rng.random() < 0.7 else rng.choice(_TEXTS)
        pairs.append(Pair(_vary(rng, source), answers))

    return pairs


def draw_annotated(count: int, seed: int) -> list[Pair]:
    """Return predictions with the answers of ten annotators, some of them unanimous."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        kinds = [rng.choice(_TEXTS[:-1]) for _ in range(rng.choice([1, 1, 2, 3]))]
        answers = [rng.choice(kinds) for _ in range(10)]
        if rng.random() < 0.3:
            answers = [_vary(rng, answer) for answer in answers]
        pairs.append(Pair(_vary(rng, rng.choice(answers)), answers))

    return pairs


def draw_numbers(count: int, seed: int) -> list[Pair]:
    """Return predictions of numbers in many spellings, near to the answer and not."""
    rng = random.Random(seed)
    spellings = (
        lambda v: f"{v:g}", lambda v: f"{v:,.0f}", lambda v: f"{v:.2f}", lambda v: f"{v:,.2f}",
        lambda v: f"{v:g}%",
        lambda v: f"{v:g} %", lambda v: f" {v:g}", lambda v: f"${v:g}", lambda v: f"{v:.1e}",
        lambda v: f"-{v:g}",
        lambda v: f"{v:g}".replace(".", ","), lambda v: ",".join(f"{v:g}"), lambda v: f"{v:g} million",
    )  # fmt: skip
    texts = ["yes", "No", "0", "0.0", "nan", "inf", "1e400", "1,2,3", "12,5", "", "Q1", "2015", "2,015"]
    pairs = []

    for _ in range(count):
        value = rng.choice([0, 1, 3, 12.5, 99, 100, 1234.5, 2015, 12000, 1000000, 0.05])
        answer = rng.choice(spellings)(value) if rng.random() < 0.85 else rng.choice(texts)
        near = value * rng.choice([1, 1, 1, 1.05, 0.95, 1.04, 0.949, 1.2])
        prediction = rng.choice(spellings)(near) if rng.random() < 0.85 else rng.choice(texts)
        pairs.append(Pair(prediction, [answer]))

    return pairs


def draw_yes_no(count: int, seed: int) -> list[Pair]:
    """Return answers to yes-or-no questions as models word them."""
    rng = random.Random(seed)
    wordings = [
        "{}", "{}.", "{}, it is", "**{}**", "The answer is {}.", "({})", " {} ",
        "...{}", '"{}"', "Answer: {}",
        "\n{}", "{}!", "I say {}", "[{}]", "- {}", ". {}", "<{}>",
    ]  # fmt: skip
    words = [
        "yes",
        "Yes",
        "NO",
        "no",
        "y",
        "N",
        "nope",
        "yeah",
        "not sure",
        "know",
        "maybe",
        "",
        "true",
        "n.o.",
        "ye.s",
    ]
    return [
        Pair(rng.choice(wordings).format(rng.choice(words)), [rng.choice(["yes", "no"])])
        for _ in range(count)
    ]


_TABLE_VALUES = [
    # text, canonical form as in the official tagged files
    ("Italy", "Italy"), ("100,000", "100000.0"), ("17 years", "17.0"), ("January 26, 1995", "1995-01-26"),
    ("17", "17.0"), ("2004", "2004.0"), ("092.1", "92.1"), ("20 km walk", "20 km walk"), ("50s", "50s"),
    ("St. Mary's Church", "St. Mary's Church"), ("0011 1001", "0011-xx-xx"), ("Hard (i)", "Hard (i)"),
    ("Mariesea Mnesiču", "Mariesea Mnesiču"), ("5:19.35", "5:19.35"), ("five", "five"), ("May 1995",
    "1995-05-xx"),
    ("“Help!”[1]", "“Help!”[1]"), ("3.5", "3.5"), ("-4", "-4.0"), ("March 3", "xx-03-03"),
]  # fmt: skip


def draw_table_answers(count: int, seed: int) -> list[Pair]:
    """Return predicted values of tables, with answers and their canonical forms."""
    rng = random.Random(seed)
    forms = (
        lambda text, canonical: text, lambda text, canonical: canonical, lambda text, canonical: text.lower(),
        lambda text, canonical: canonical.removesuffix(".0"), lambda text, canonical: text.replace(",", ""),
        lambda text, canonical: f"{text} (x)", lambda text, canonical: f"{text}.",
        lambda text, canonical: text[:4],
        lambda text, canonical: f"{text}†", lambda text, canonical: f'"{text}"',
    )  # fmt: skip
    pairs = []

    for _ in range(count):
        values = rng.sample(_TABLE_VALUES, rng.choice([1, 1, 1, 2, 3]))
        parts = [rng.choice(forms)(*value) for value in values]
        if rng.random() < 0.2:
            parts = parts[1:] or ["x"]
        rng.shuffle(parts)
        answers = [text for text, _ in values]
        meta = {"canonical": [canonical for _, canonical in values]}
        pairs.append(Pair("|".join(parts), answers, meta))

    return pairs


def draw_choices(count: int, seed: int) -> list[Pair]:
    """Return answers to multiple choice in many wordings, with the index of the choice that they name."""
    rng = random.Random(seed)
    wordings = [
        "{letter}", "({letter})", "{letter}.", "{letter}. {text}", "**{letter}**", "The answer is {letter}.",
        "\\boxed{{{letter}}}", "Option {letter}", "Choice ({letter})", "I think {letter}", "答案是{letter}",
        "`{letter}`",
        "'{letter}'", "<{letter}>", "{letter}。", "{text}", "It is {text}.",
        "The correct answer is **{letter}**.",
        "{letter}) because it fits", "Answer: {letter}\nIt fits.", "A {text} is shown", "not {text}",
        "{letter} or {other}",
        "{letter}, {other}", "I would say {letter}", "It can't be {other}, so {letter}", "[{letter}]",
        "{text}, not {wrong}",
    ]  # fmt: skip
    choices = ["hydrogen", "helium", "carbon", "hydrogen chloride"]
    pairs = []

    for _ in range(count):
        right, other = rng.sample(range(4), 2)
        wording = rng.choice(wordings)
        prediction = wording.format(
            letter="ABCD"[right], text=choices[right], other="ABCD"[other], wrong=choices[other]
        )
        meta = {"choices": choices, "answer": right, "wording": wording}
        pairs.append(Pair(prediction, [choices[right]], meta))

    return pairs
