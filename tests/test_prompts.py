import pytest

from monkeylib.prompts import PROMPTS, after_image, build_prompt


def test_the_papers_prompts():
    assert PROMPTS["vqa"].format(question="What is it?") == "What is it? Answer: "
    assert build_prompt("caption") == "Generate the caption in English:"
    assert build_prompt("detailed_caption") == "Generate the detailed caption in English:"
    assert build_prompt("chat", "Q") == build_prompt("vqa", "Q") == "Q Answer: "
    assert build_prompt("vqa_no_blank", "Q") == "Q Answer:"
    assert build_prompt("detailed_caption_blank") == "Generate the detailed caption in English: "
    assert build_prompt("vizwiz_lower", "Q") == (
        'Q When the provided information is insufficient, respond with "unanswerable". Answer: '
    )
    assert build_prompt("vizwiz", "Q") == (
        'Q When the provided information is insufficient, respond with "Unanswerable". Answer:'
    )


def test_braces_in_a_question_stay():
    assert build_prompt("vqa", "what does {name} say?") == "what does {name} say? Answer: "


def test_an_unknown_prompt_names_those_there_are():
    with pytest.raises(ValueError, match="'vqaa'.*vqa, .*detailed_caption"):
        build_prompt("vqaa", "Q")


def test_a_missing_question_is_refused():
    with pytest.raises(ValueError, match="needs a question"):
        build_prompt("vqa", "  ")


def test_the_release_s_default_stands_right_behind_the_image():
    assert after_image("vqa_no_blank", "Q", " ") == "Q Answer:"
    assert after_image("vqa", "Q", " ") == " Q Answer: "
    assert after_image("vizwiz", "Q", " ").startswith(" Q When")
    with pytest.raises(ValueError, match="needs a question"):
        after_image("vqa_no_blank", "", " ")
