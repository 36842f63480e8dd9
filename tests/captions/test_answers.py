"""Answers of chat models: which are descriptions, and which must not be kept."""

import pytest

from monkeylib.captions import answers
from tests.support import caption_records
from tests.support.caption_records import line, region

REGIONS = [region("black cat"), region("red mat"), region("dog"), region("sign")]
SIGN = "I'm sorry, <b>no</b> entry [1, 2] 出口"

GOOD_ANSWERS = [
    "A cat.",
    "A black cat sits on a red mat in the centre, and a dog sleeps beside it.",
    "A black cat sits on a red mat behind a dog at one side of a room.",
    f'A red sign with the white text "{SIGN}" stands to the left of the cat.',
    "A cat on a mat. The sign reads 出口.",
    "In this picture, a large black cat with green eyes lies on a mat. To its right, a dog looks at it. "
    "The mat is red, and the room behind them is dark.",
    "The cat, whose fur is black, can't be missed: it fills the left half, from top to bottom.",
    "A well-lit café: a cat, a dog and a mat at 10:30.",
]


def rejections(text, **more):
    return answers.rejections(
        caption_records.record(regions=REGIONS, lines=[line(SIGN)], detailed_caption=text), **more
    )


@pytest.mark.parametrize("text", GOOD_ANSWERS, ids=range(len(GOOD_ANSWERS)))
def test_answers_that_describe_are_not_rejected(text):
    assert rejections(text) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # Refusals, and talk to the user.
        ("I am unable to see the black cat on the red mat.", "it refuses: unable to see"),
        ("I'd be happy to describe the cat on the mat!", "it talks to the user: I'd be"),
        ("Sorry, the cat on the mat is not clear.", "it refuses: Sorry"),
        ("As an AI language model, the cat on the mat is unknown to me.", "it refuses: As an AI"),
        ("It is not possible to describe the cat on the mat.", "it refuses: not possible to describ"),
        ("No image was provided of a cat on a mat.", "it refuses: No image was provided"),
        ("The cat on the mat goes against the content policy.", "it refuses: content policy"),
        ('"I\'m afraid the cat is not on the mat."', "it talks to the user: I'm afraid"),
        ("Sure! A black cat on a red mat.", "it talks to the user: Sure!"),
        ("Here is a detailed description: a black cat on a red mat.", "it talks to the user: Here is"),
        ("Caption: a black cat on a red mat.", "it talks to the user: Caption:"),
        ("A black cat on a red mat. Please upload it again.", "it talks to the user: Please upload"),
        # Languages.
        ("Ein schwarzer Kater liegt auf einer roten Matte vor dem Hund im Zimmer links.", "not in English"),
        ("Un chat noir est assis sur un tapis rouge devant un chien qui dort.", "not in English"),
        ("Un gato negro en una estera.", "have a source"),
        ("Чёрная кошка.", "not in English"),
        ("A black cat on a red mat 黑猫.", "not in English"),
        ('A black cat, and the text "这是一张图片".', "not in English"),
        # Markup.
        ("<script>alert(1)</script> A cat.", "it has markup: <script>"),
        ("## A cat\nA black cat.", "it has markup: ##"),
        ("A black cat, see https://cats.example.", "it has markup: https://"),
        ("A cat <|endoftext|>", "it has markup"),
        ("A *black* cat on a red mat.", "it has markup: *b"),
        ("A black cat &lt;b&gt; on a red mat.", "it has markup: &lt;"),
        ('{"caption": "A black cat on a red mat"}', "it has markup: {"),
        ("- A black cat\n- A red mat", "it has markup: -"),
        ("A black cat \\textbf{on} a red mat.", "it has markup: \\textbf{"),
        # Characters.
        ("A black cat \x1b[31mon a red mat.", "a control character: U+001B"),
        ("A black cat\x00 on a red mat.", "a control character: U+0000"),
        ('A black cat with the text "no\x1b".', "a control character: U+001B"),
        ("A black cat \u202eon a red mat.", "a control character: U+202E"),
        ("A black cat \ud800 on a red mat.", "a control character: U+D800"),
        # Length.
        ("The black cat on the red mat. " * 6, "it has 6 sentences"),
        ("\n".join(f"A cat, {word}" for word in "mat dog red sign black and".split()), "it has 6 sentences"),
        ("the black cat on the mat " * 20, "it repeats itself"),
        ("cat " * 400_000, "it has 1599999 characters, more than 2000"),
        # Coordinates.
        ("A black cat at [0.00, 0.00, 1.00, 0.50].", "it has coordinates"),
        ("A black cat at (10%, 20%) on a red mat.", "it has coordinates"),
        ("A black cat at (0.1; 0.2) on a red mat.", "it has coordinates"),
        ("A black cat from 0.10 to 0.35 on a red mat.", "it has coordinates"),
        ("A black cat at x=10, y=20 on a red mat.", "it has coordinates"),
        ("A black cat on a red mat, bbox 12 34 56 78.", "it has coordinates"),
        # What nobody saw.
        ("A giraffe.", "0% of its words have a source, less than 40%: nobody said giraffe"),
        ("A giraffe and two elephants drink tea while a dragon sings.", "0% of its words have a source"),
        ("A cat sits beside a giraffe, an elephant and a dragon.", "nobody said giraffe, elephant, dragon"),
        ("It is a picture.", "it says nothing"),
        ("!", "it says nothing"),
    ],
)  # fmt: skip
def test_answers_that_are_no_descriptions_are_rejected(text, reason):
    problems = rejections(text)
    assert any(reason in problem for problem in problems), problems


def test_the_share_of_words_with_a_source_can_be_lower_but_never_none():
    text = "A cat sits beside a giraffe, an elephant and a dragon."
    assert rejections(text, minimum_grounding=0.1) == []
    assert "nobody said giraffe" in rejections("A giraffe.", minimum_grounding=0.0)[0]
