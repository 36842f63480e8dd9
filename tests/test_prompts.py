import pytest

from monkeylib.prompts import PROMPTS, build_prompt, wrap_content


def test_prompts_of_the_paper():
    assert build_prompt("vqa", "What is it?") == "What is it? Answer: "
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


def test_unknown_prompt_raises_and_lists_the_names():
    with pytest.raises(ValueError, match="'vqaa'.*vqa, .*detailed_caption"):
        build_prompt("vqaa", "Q")


def test_empty_question_raises():
    with pytest.raises(ValueError, match="needs a question"):
        build_prompt("vqa", "  ")
    with pytest.raises(ValueError, match="needs a question"):
        build_prompt("vqa_no_blank", "", " ")
    with pytest.raises(ValueError, match="needs a question"):
        wrap_content([0], "vqa")


def test_the_default_of_the_released_evaluation_and_full_prompts_take_no_separator():
    assert build_prompt("vqa_no_blank", "Q", " ") == "Q Answer:"
    assert build_prompt("vqa", "Q", " ") == " Q Answer: "
    assert build_prompt("vizwiz", "Q", " ").startswith(" Q When")
    assert [name for name, template in PROMPTS.items() if not template.takes_separator] == [
        "vqa_no_blank",
        "exact",
    ]


def test_words_of_a_prompt_go_to_the_first_and_the_last_text():
    assert wrap_content(["a", 5, "c"], "choice") == ["\n a", 5, "c Answer: "]
    assert wrap_content(["a"], "vqa") == ["a Answer: "]
    assert wrap_content(["a", 5], "vqa") == ["a Answer: ", 5]


def test_prompt_without_question_replaces_the_texts():
    assert wrap_content(["a", 5, "c"], "caption") == [5, "Generate the caption in English:"]
    assert wrap_content([5], "caption") == [5, "Generate the caption in English:"]
