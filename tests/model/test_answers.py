"""Answers are used as their texts."""

import json


def test_answer_prints_and_compares_as_its_text(monkey, questions):
    answer = monkey.answer(*questions[0], max_new_tokens=5)
    assert str(answer) == f"{answer}" == answer.text == answer
    assert answer != "something else" and answer != 5
    assert {answer: 1}[answer.text] == 1

    fields = json.loads(json.dumps(answer.to_dict()))
    assert fields["text"] == answer.text and fields["tokens"] == 5 and fields["samples"] == []


def test_history_takes_answers(monkey, make_image):
    first = monkey.chat(make_image(), "What?", max_new_tokens=4)
    expected = monkey.chat(make_image(), "Why?", [("What?", first.text)], max_new_tokens=4)
    second = monkey.chat(make_image(), "Why?", [("What?", first)], max_new_tokens=4)
    assert second == expected and second.prompt_tokens == expected.prompt_tokens
