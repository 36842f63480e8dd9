"""Predictions on disk: prefix sharing, and files that are resumed and repaired."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from PIL import Image

from monkeylib.evaluation.examples import Example, make_batches, read_predictions
from monkeylib.evaluation.predict import predict
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey, monkey_fingerprint
from monkeylib.inference import Monkey
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from tests.support import random_monkey


@pytest.fixture(scope="module")
def monkey() -> Monkey:
    return random_monkey.make_monkey()


def _image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def _examples(images: int = 5, questions: int = 3) -> list[Example]:
    return [
        Example(
            id=f"{image}-{number}",
            image=lambda image=image: _image(image),
            question="what is " + "x" * (7 * number + image) + "?",
            answers=("yes", "no"),
            image_id=f"image {image}",
            meta={"family": "general" if image % 2 else "document", "answer_box": (1.0, 2.0)},
        )
        for image in range(images)
        for number in range(questions)
    ]


def _echo(examples):
    return [f"{example.id}: {example.question}" for example in examples]


def test_batches_keep_the_questions_of_an_image_in_a_row():
    examples = _examples()
    batches = make_batches(examples, 4)

    assert [len(batch) for batch in batches] == [4, 4, 4, 3]

    flat = [example for batch in batches for example in batch]
    assert sorted(e.id for e in flat) == sorted(e.id for e in examples)

    keys = [example.image_key for example in flat]
    changes = sum(first != second for first, second in zip(keys, keys[1:], strict=False))
    assert changes == 4, "the questions of each of five images are neighbours"

    # Batches do not depend on the order of the examples.
    assert make_batches(examples[::-1], 4)[0][0].image_key == batches[0][0].image_key


@pytest.mark.parametrize(("questions", "size"), [(3, 4), (1, 3), (8, 8)])
def test_prefix_sharing_gives_the_answers_of_single_questions(monkey, monkeypatch, questions, size):
    examples = _examples(images=12 // questions + 1, questions=questions)
    encoded = []
    read = []
    features = monkey.model.get_image_features
    forward = monkey.model.language_model.forward
    monkeypatch.setattr(
        monkey.model, "get_image_features", lambda *a, **k: encoded.append(1) or features(*a, **k)
    )

    def spy(*arguments, **options):
        # Images come as embeddings; questions alone and new tokens come as ids.
        embeddings = options["inputs_embeds"]
        read.append(0 if embeddings is None else embeddings.shape[0])
        return forward(*arguments, **options)

    monkeypatch.setattr(monkey.model.language_model, "forward", spy)
    answer = PrefixSharingMonkey(monkey, max_new_tokens=6)
    batches = make_batches(examples, size)
    shared = {e.id: text for batch in batches for e, text in zip(batch, answer(batch), strict=True)}
    images = {example.image_key for example in examples}

    assert len(encoded) == len(images)  # each once, though batches cut through the questions of an image

    if questions == 1:
        assert sum(read) == len(examples)
    else:
        assert sum(read) <= len(images) + len(batches), "the language model reads an image once in a batch"

    alone = {e.id: monkey.answer(e.image(), e.question, max_new_tokens=6) for e in examples}

    assert shared == alone

    assert len(set(alone.values())) > 5  # the answers differ, so that a mix-up would show


def test_prefix_is_not_shared_beyond_the_trained_length(monkey, monkeypatch):
    monkeypatch.setattr(monkey.model.config.text_config, "trained_length", 60, raising=False)
    short = _examples(1, 4)

    # Two questions per image in both batches, but only the short ones fit the trained length.
    long = [Example(name, _image(0), "x " * 40, ("a",), image_id="i") for name in "ab"]
    options_of_calls = []
    generate = monkey.model.generate
    monkeypatch.setattr(
        monkey.model,
        "generate",
        lambda **options: options_of_calls.append(set(options)) or generate(**options),
    )
    answer = PrefixSharingMonkey(monkey, max_new_tokens=2)
    answer(short)
    answer(long)

    assert ["past_key_values" in options for options in options_of_calls] == [True, False]


def test_predictions_hold_the_example_and_the_fingerprint_of_the_model(monkey, tmp_path):
    path = tmp_path / "new" / "p.jsonl"
    assert predict(monkey, _examples(2, 2), path, max_new_tokens=3, progress=False) == (path, 4, 0)

    rows = read_predictions(path)
    assert {row.id for row in rows} == {"0-0", "0-1", "1-0", "1-1"}

    row = next(row for row in rows if row.id == "1-0")
    assert row.answers == ["yes", "no"] and row.image == "image 1" and row.prompt == "vqa"
    assert row.meta == {"family": "general", "answer_box": [1.0, 2.0]}
    assert row.model == monkey_fingerprint(monkey, 3)


def test_interrupted_run_ends_with_the_same_file(monkey, tmp_path):
    examples = _examples()
    uninterrupted = tmp_path / "uninterrupted.jsonl"
    predict(monkey, examples, uninterrupted, batch_size=4, max_new_tokens=4, progress=False)
    calls = []

    def killed_after(number):
        answer = PrefixSharingMonkey(monkey, 4)

        def answer_some(batch):
            calls.append(len(batch))
            if len(calls) == number:
                raise KeyboardInterrupt
            return answer(batch)

        return answer_some

    part = tmp_path / "part.jsonl"
    name = monkey_fingerprint(monkey, 4)
    for number in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            predict(killed_after(number), examples, part, batch_size=4, progress=False, name=name)
        with part.open("ab") as file:
            file.write(b'{"id": "torn')  # a write that was interrupted by a kill

    last = predict(monkey, examples, part, batch_size=4, max_new_tokens=4, progress=False)

    assert last == (part, 7, 8)
    assert part.read_bytes() == uninterrupted.read_bytes()

    num_calls = len(calls)
    again = predict(killed_after(0), examples, part, batch_size=4, progress=False, name=name)
    assert len(calls) == num_calls and again == (part, 0, 15), "all answers are on disk"


def test_incomplete_line_is_predicted_again(tmp_path):
    examples = _examples()
    path, *_ = predict(_echo, examples, tmp_path / "p.jsonl", batch_size=5, progress=False)
    content = path.read_bytes()
    for cut in (1, 40, len(content) // 2):
        path.write_bytes(content[:-cut])
        again = predict(_echo, examples, path, batch_size=5, progress=False)
        assert path.read_bytes() == content and again.generated % 5 == 0 < again.generated


def test_killed_process_leaves_complete_lines_to_resume_from(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import sys, time
        from monkeylib.evaluation.examples import Example
        from monkeylib.evaluation.predict import predict

        def slow(batch):
            time.sleep(0.05)
            return [example.id for example in batch]

        examples = [Example(str(i), None, "q", ("a",)) for i in range(60)]
        predict(slow, examples, sys.argv[1], batch_size=2, progress=False)
        """)
    )
    path = tmp_path / "p.jsonl"
    command = [sys.executable, str(script), str(path)]
    process = subprocess.Popen(command)

    # Kill it once four batches are on disk.
    deadline = time.monotonic() + 300
    while not path.exists() or path.read_bytes().count(b"\n") < 8:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)

    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    assert 8 <= len(read_predictions(path)) < 60

    subprocess.run(command, check=True)
    assert [row.id for row in read_predictions(path)] == [str(i) for i in range(60)]


def test_stale_file_raises_or_is_replaced(monkey, tmp_path):
    examples = _examples(2, 1)
    path = tmp_path / "p.jsonl"
    predict(_echo, examples, path, progress=False, name="first")

    with pytest.raises(ValueError, match="another model or other questions.*stale"):
        predict(_echo, examples, path, progress=False, name="second")
    with pytest.raises(ValueError, match="another model or other questions"):
        predict(_echo, examples[:1], path, progress=False, name="first")

    # More examples of the same benchmark are no contradiction.
    predict(_echo, _examples(3, 1), path, progress=False, name="first")
    assert len(read_predictions(path)) == 3

    predict(_echo, examples, path, progress=False, name="second", stale="replace")
    assert [row.model for row in read_predictions(path)] == ["second"] * 2


def test_fingerprint_depends_on_weights_grid_and_settings(monkey):
    before = monkey_fingerprint(monkey, 4)
    assert monkey_fingerprint(monkey, 5) != before

    one_view = MonkeyProcessor(
        MonkeyImageProcessor(16, views="global"), monkey.processor.tokenizer, queries=4
    )

    assert monkey_fingerprint(Monkey(monkey.model, one_view), 4) != before

    weight = monkey.model.resampler.query
    original = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1e-3)
        assert monkey_fingerprint(monkey, 4) != before
        weight.copy_(original)

    assert monkey_fingerprint(monkey, 4) == before


@pytest.mark.parametrize(
    ("examples", "complaint"),
    [([], "nothing to predict"), ([Example("a", None, "q", ("x",))] * 2, "must be unique: 'a' repeats")],
)
def test_no_examples_and_repeated_ids_raise(tmp_path, examples, complaint):
    with pytest.raises(ValueError, match=complaint):
        predict(_echo, examples, tmp_path / "p.jsonl", progress=False)
    assert not (tmp_path / "p.jsonl").exists()


def test_any_text_is_the_same_after_reading(tmp_path):
    texts = ["", "a\nb", '"quoted"', "é漢😀", "\u2028", "\ud800", "<img>"]
    examples = [Example(str(i), None, text, (text,)) for i, text in enumerate(texts)]
    path = tmp_path / "p.jsonl"
    predict(lambda batch: [e.question for e in batch], examples, path, progress=False)

    assert {row.id: row.prediction for row in read_predictions(path)} == {
        str(i): text for i, text in enumerate(texts)
    }


def test_damaged_or_missing_predictions_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no predictions at"):
        read_predictions(tmp_path / "p.jsonl")
    (tmp_path / "p.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match="Line 1 of .*p.jsonl is no prediction"):
        read_predictions(tmp_path / "p.jsonl")
