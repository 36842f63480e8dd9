"""Characters that a tokenizer has no token for are counted."""

import pytest

from monkeylib import profiles
from monkeylib.data.lost_characters import LostCharacters
from monkeylib.data.records import Record
from monkeylib.profiles.build import build_processor


@pytest.fixture(scope="module")
def layout():
    return build_processor(profiles.load_profile("nano")).layout


def test_lost_characters_are_counted_with_an_example(layout):
    lost = LostCharacters(layout)
    lost.add_record(
        Record.from_turns("1", (), (("What does it say?", "Größe"), ("How much?", "€45.30")), "r", "r")
    )
    lost.add("Straße")

    assert lost.counts == {"ß": 2, "ö": 1, "€": 1}
    assert (lost.texts, lost.affected_texts) == (5, 3)
    assert lost.describe() == (
        "the tokenizer has no token for 'ß' (2), 'ö' (1), '€' (1): 3 of 5 prompts and answers lose "
        "characters, such as 'Größe', which the model reads as 'gr<unk><unk>e'; the "
        "tokenizer has no capitals: 1 of 2 answers are learned in small letters"
    )
    assert (lost.answers, lost.affected_answers, lost.folded_answers) == (2, 2, 1)
    with pytest.raises(ValueError, match="2 of 2 answers hold characters that the model cannot write: "):
        lost.check()


def test_few_lost_answers_are_no_error_and_capitals_are_counted(layout):
    lost = LostCharacters(layout)
    answers = ["Please", "stop", "five", "Größe"]
    lost.add_record(Record.from_turns("1", (), [("what?", answer) for answer in answers[:3]], "r", "r"))
    assert lost.describe() == ("the tokenizer has no capitals: 1 of 3 answers are learned in small letters")
    lost.add_record(Record.from_turns("2", (), [("what?", answers[3])], "r", "r"))
    lost.check()


def test_text_in_the_vocabulary_loses_nothing(layout):
    lost = LostCharacters(layout)
    lost.add("How much is 45.30?")
    assert (lost.texts, lost.affected_texts, lost.describe()) == (1, 0, "")


def test_long_lists_and_texts_are_shortened(layout):
    lost = LostCharacters(layout)
    lost.add("äöüßéèêëîïôûç" + "x" * 100)
    assert "and 5 more" in lost.describe()
    assert len(lost.describe()) < 400
