"""`monkeylib chat`."""

import io
import sys


def test_chat_remembers_the_conversation(call, checkpoint, image, monkey, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What?\nWhy?\n"))
    code, output, errors = call("chat", image, "--model", checkpoint, "--max-new-tokens", 3)
    first = monkey.chat(image, "What?", max_new_tokens=3)
    second = monkey.chat(image, "Why?", [("What?", first)], max_new_tokens=3)

    assert (code, errors) == (0, "")
    assert [line.strip() for line in output.split("\n")[:2]] == [first, second]
