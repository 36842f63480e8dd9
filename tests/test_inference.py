import subprocess
import sys

import pytest
import torch

import monkeylib


def test_answers_in_a_batch_equal_those_one_by_one(monkey, picture):
    questions = [
        (picture(1), "What is it?"),
        (picture(2, 40, 120), "And what does this longer question ask?"),
    ]
    batch = monkey.answer_batch(questions, max_new_tokens=8)
    assert batch == [monkey.answer(*question, max_new_tokens=8) for question in questions]
    assert batch[0] != batch[1]


def test_a_stream_gives_the_answer_in_pieces(monkey, picture):
    pieces = list(monkey.stream(picture(), "What?", max_new_tokens=8))
    assert len(pieces) > 1
    assert "".join(pieces).strip() == monkey.answer(picture(), "What?", max_new_tokens=8)


def test_a_streams_failure_reaches_the_reader(monkey, picture):
    with pytest.raises(ValueError, match="beam"):
        list(monkey.stream(picture(), "What?", max_new_tokens=4, num_beams=2))


def test_a_caption_needs_no_question(monkey, picture):
    assert isinstance(monkey.answer(picture(), prompt="detailed_caption", max_new_tokens=2), str)


def test_no_questions_no_answers(monkey):
    assert monkey.answer_batch([]) == []


def test_sampling_follows_the_seed(monkey, picture):
    def sample(seed: int) -> str:
        torch.manual_seed(seed)
        return monkey.answer(picture(), "What?", max_new_tokens=12, do_sample=True, temperature=2.0)

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_a_checkpoint_folder_answers_as_before(monkey, picture, tmp_path):
    monkey.model.save_pretrained(tmp_path)
    monkey.processor.save_pretrained(tmp_path)
    loaded = monkeylib.load(tmp_path, device="cpu")
    assert not loaded.model.training
    assert loaded.answer(picture(), "What?", max_new_tokens=8) == monkey.answer(
        picture(), "What?", max_new_tokens=8
    )


def test_a_folder_without_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*nothing"):
        monkeylib.load(tmp_path / "nothing")


def test_importing_the_package_stays_light():
    heavy = "torch transformers lightning ray gradio".split()
    program = f"import sys, monkeylib; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "[]"
