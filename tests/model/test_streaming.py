"""Streams: their parts, their end, and their thread."""

import subprocess
import sys
import threading

import pytest

from monkeylib import resources
from monkeylib.model import streaming


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "monkeylib stream"]


def test_stream_ends_with_the_answer_of_a_single_question(monkey, questions):
    for image, question in questions:
        expected = monkey.answer(image, question, max_new_tokens=24)
        with monkey.stream(image, question, max_new_tokens=24) as stream:
            parts = list(stream)

        assert "".join(parts).strip() == stream.answer == expected
        assert stream.answer.token_ids == expected.token_ids
        assert stream.answer.token_log_probabilities == pytest.approx(expected.token_log_probabilities)
        assert all(parts) and list(stream) == []
        # Without reading the parts.
        assert monkey.stream(image, question, max_new_tokens=24).answer == expected

    assert stream_threads() == []


def test_stream_can_be_delegated_to(monkey, questions):
    def answer():
        return (yield from monkey.stream(*questions[0], max_new_tokens=3))

    parts = answer()
    while True:
        try:
            next(parts)
        except StopIteration as end:
            assert end.value == monkey.answer(*questions[0], max_new_tokens=3)
            return


def test_stream_yields_nothing_of_a_stop_string(monkey, questions):
    text = monkey.answer(*questions[1], max_new_tokens=24).text
    for start in range(0, len(text) - 3, 3):
        stop = text[start : start + 3]
        stream = monkey.stream(*questions[1], max_new_tokens=24, stop_strings=[stop])
        assert "".join(stream).strip() == stream.answer == text.partition(stop)[0].strip()
        assert stream.answer.ended_by == "stop string"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_stream_leaves_no_thread(monkey, make_image, error):
    steps = []
    monkey.model.register_forward_hook(lambda *_: steps.append(1))

    with pytest.raises(error), monkey.stream(make_image(), "What?", max_new_tokens=1500) as stream:
        for _ in stream:
            raise error

    assert stream_threads() == [] and 0 < len(steps) < 1500
    with pytest.raises(ValueError, match="closed before its end"):
        print(stream.answer)


def test_interruption_while_waiting_for_a_part_leaves_no_thread(monkey, make_image, monkeypatch):
    stream = monkey.stream(make_image(), "What?", max_new_tokens=1500)
    next(stream)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(streaming.TextIteratorStreamer, "__next__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert stream_threads() == []


def test_stream_that_nobody_reads_any_more_ends(monkey, make_image):
    for _ in monkey.stream(make_image(), "What?", max_new_tokens=1500):
        break
    for thread in stream_threads():
        thread.join(timeout=30)
    assert stream_threads() == []


# Programs that end in the middle of a stream; torch aborts a Python that ends while another thread computes.
MONKEY = """
from tests.support import random_monkey
monkey = random_monkey.make_monkey()
"""
RAISED = """
from pathlib import Path
from tempfile import TemporaryDirectory
from monkeylib.raised_monkey import RaisedMonkey
from tests.support.raised_models import raise_base, save_base
with TemporaryDirectory() as folder:
    raised = raise_base(save_base(Path(folder) / "base"))
    monkey = RaisedMonkey(raised.model, raised.processor)
monkey.model.config.text_config.max_position_embeddings = 2000
"""
STREAM = """
from PIL import Image
stream = monkey.stream(Image.new("RGB", (32, 32)), "what?", max_new_tokens=1500, min_new_tokens=1500)
next(stream)
"""


@pytest.mark.parametrize(
    ("model", "ending", "expected"),
    [
        (MONKEY, "", 0),
        (MONKEY, "del stream", 0),
        (MONKEY, "raise ValueError", 1),
        (RAISED, "", 0),
    ],
    ids=["monkey", "dropped", "error", "raised"],
)
def test_python_ends_in_the_middle_of_a_stream(model, ending, expected):
    process = subprocess.run(
        [sys.executable, "-c", model + STREAM + ending],
        cwd=resources.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == expected, process.stderr
    assert "terminate" not in process.stderr


def test_error_of_the_model_reaches_the_reader_of_a_stream(monkey, make_image):
    def fail(*_):
        raise RuntimeError("no memory")

    stream = monkey.stream(make_image(), "What?", max_new_tokens=4)
    monkey.model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        list(stream)
    assert stream_threads() == []

    for options in ({"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
        with pytest.raises(ValueError, match="a stream is one answer without beams"):
            monkey.stream(make_image(), "What?", **options)


def test_answers_beside_a_stream_are_its_own(monkey, questions):
    """Both record the logits of one model, in two threads."""
    expected = [monkey.answer(*question, max_new_tokens=12) for question in questions[:2]]
    stream = monkey.stream(*questions[0], max_new_tokens=12)
    next(stream)
    beside = monkey.answer(*questions[1], max_new_tokens=12)

    for answer, alone in zip((stream.answer, beside), expected, strict=True):
        assert answer.token_log_probabilities == pytest.approx(alone.token_log_probabilities, abs=1e-5)
