"""`monkeylib chat`."""

import io
import json
import sys

from monkeylib.inference import load_model
from monkeylib.raising import raise_resolution
from tests.support import tiny_vlms


def test_chat_remembers_the_conversation(call, checkpoint, image, monkey, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What?\nWhy?\n"))
    code, output, errors = call("chat", image, "--model", checkpoint, "--max-new-tokens", 3)
    first = monkey.chat(image, "What?", max_new_tokens=3)
    second = monkey.chat(image, "Why?", [("What?", first)], max_new_tokens=3)

    cut = "monkeylib: the answer was cut after 3 tokens: allow more with --max-new-tokens\n"
    assert (code, errors) == (0, cut * 2)
    assert [line.strip() for line in output.split("\n")[:2]] == [first, second]


def test_terminal_says_how_the_conversation_ends(call, checkpoint, image, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    chatting = ("chat", image, "--model", checkpoint, "--max-new-tokens", 3)
    for end in ("", "/exit", "/quit"):
        monkeypatch.setattr(sys, "stdin", Terminal(f"/help\nWhat?\n{end}\nnever\n"))
        code, output, errors = call(*chatting)
        assert code == 0 and len(output.splitlines()) == 1
        how = "One question per line; an empty line, Ctrl-D or /exit ends the conversation.\n"
        assert errors.startswith(f"{how}> {how}> ")  # a /command is answered, and is no question


def test_file_of_questions_may_have_empty_lines_and_commands(call, checkpoint, image, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What?\n\n/help\nWhy?\n/exit\nnever\n"))
    code, output, errors = call("chat", image, "--model", checkpoint, "--max-new-tokens", 3, "--json")
    assert code == 0 and "One question per line" in errors and "> " not in errors
    assert [json.loads(line)["question"] for line in output.splitlines()] == ["What?", "Why?"]


def test_json_holds_a_line_for_each_answer(call, checkpoint, image, monkey, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What?\nWhy?\n"))
    code, output, _ = call("chat", image, "--model", checkpoint, "--max-new-tokens", 3, "--json")
    first, second = map(json.loads, output.splitlines())
    assert code == 0 and (first["question"], second["question"]) == ("What?", "Why?")
    assert first["text"] == monkey.chat(image, "What?", max_new_tokens=3).text
    assert second["prompt_tokens"] > first["prompt_tokens"]


def test_several_images_stand_in_front_of_the_conversation(
    call, checkpoint, image, make_image, monkey, monkeypatch, tmp_path
):
    second = tmp_path / "second.png"
    make_image(1).save(second)
    monkeypatch.setattr(sys, "stdin", io.StringIO("What?\n"))
    code, output, _ = call("chat", image, "--image", second, "--model", checkpoint, "--max-new-tokens", 3)
    assert code == 0 and output.strip() == monkey.chat([image, second], "What?", max_new_tokens=3).text


def test_conversation_beyond_the_context_is_reported(call, checkpoint, image, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"What?\n{'why? ' * 500}\nnever\n"))
    code, output, errors = call("chat", image, "--model", checkpoint, "--max-new-tokens", 3)
    assert code == 2 and output.count("\n") == 1 and "but the model takes 2048" in errors.splitlines()[-1]
    assert call("chat", image, "--model", checkpoint, "--temperature", 0)[0] == 2


def test_raised_model_remembers_the_conversation(call, image, monkeypatch, tmp_path):
    vlm = tiny_vlms.build("llava_clip")
    vlm.model.save_pretrained(tmp_path / "base")
    vlm.processor.save_pretrained(tmp_path / "base")
    base = type(vlm.model).from_pretrained(tmp_path / "base")
    raise_resolution(base, vlm.processor, grid="1x2", rank=2).save(tmp_path / "raised")
    monkey = load_model(tmp_path / "raised")
    first = monkey.chat(image, "ab", max_new_tokens=3)
    second = monkey.chat(image, "cd", [("ab", first)], max_new_tokens=3)

    monkeypatch.setattr(sys, "stdin", io.StringIO("ab\ncd\n"))
    code, output, _ = call("chat", image, "--model", tmp_path / "raised", "--max-new-tokens", 3, "--json")

    assert code == 0
    answers = [tuple(json.loads(line)["token_ids"]) for line in output.splitlines()]
    assert answers == [first.token_ids, second.token_ids]
    assert second.prompt_tokens > first.prompt_tokens
