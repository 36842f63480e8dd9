"""The nano tokenizer: characters for drawn text, tokens for template words."""

from hypothesis import given
from hypothesis import strategies as st

from monkeylib.data.synthetic import words
from monkeylib.data.synthetic.tokenizer import CHARACTERS, SPECIALS, WORDS, build_tokenizer

TOKENIZER = build_tokenizer()


def encode(text):
    return TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@given(st.text(st.sampled_from(CHARACTERS), max_size=60))
def test_any_drawn_text_is_decoded_unchanged(text):
    ids = encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.unk_token_id not in ids


@given(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join))
def test_template_word_is_one_token(text):
    ids = encode(text)
    assert len(ids) == len(text.split()) and TOKENIZER.decode(ids) == text


def test_markup_in_a_text_stays_text():
    ids = encode("<img> a <imgpad>")
    special = set(TOKENIZER.convert_tokens_to_ids(list(SPECIALS)))

    assert not special & set(ids) and TOKENIZER.decode(ids) == "<img> a <imgpad>"

    # Characters outside ASCII are unknown, and upper case is folded.
    assert TOKENIZER("OPEN é", add_special_tokens=False)["input_ids"][-1] == TOKENIZER.unk_token_id
    assert TOKENIZER.decode(TOKENIZER("OPEN", add_special_tokens=False)["input_ids"]) == "open"


def test_no_drawn_word_is_a_template_word(all_samples):
    """Otherwise reading would not mean copying characters."""
    lists = (words.ITEMS, words.SHOPS, words.NAMES, words.CITIES, words.MONTHS, words.DAYS, words.FORM_TITLES)
    lists += (words.TABLE_TITLES, words.COLUMNS, words.SIGN_WORDS, list(words.FIELDS), ["total"])

    assert not {word for word_list in lists for word in word_list} & set(WORDS)

    for sample in all_samples:
        for text in sample.texts:
            assert all(len(token) == 1 for token in TOKENIZER.tokenize(text.string))


def test_questions_answers_and_captions_have_no_unknown_tokens(all_samples):
    for sample in all_samples:
        for question in sample.questions:
            assert TOKENIZER.unk_token_id not in TOKENIZER(question.question + question.answer)["input_ids"]
        for caption in (sample.caption, sample.detailed_caption):
            assert TOKENIZER.unk_token_id not in TOKENIZER(caption)["input_ids"]
