"""Files of predictions: resumed, repaired and replaced."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from monkeylib.evaluation.examples import Example, read_predictions
from monkeylib.evaluation.predict import predict
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey, monkey_fingerprint
from tests.support import noise_questions


def _echo(examples):
    return [f"{example.id}: {example.question}" for example in examples]


def test_predictions_hold_the_example_and_the_fingerprint_of_the_model(monkey, tmp_path):
    path = tmp_path / "new" / "p.jsonl"
    examples = noise_questions.make_examples(2, 2)
    assert predict(monkey, examples, path, max_new_tokens=3, progress=False) == (path, 4, 0)

    rows = read_predictions(path)
    assert {row.id for row in rows} == {"0-0", "0-1", "1-0", "1-1"}

    row = next(row for row in rows if row.id == "1-0")
    assert row.answers == ["yes", "no"] and row.image == "image 1" and row.prompt == "vqa"
    assert row.meta == {"family": "general", "answer_box": [1.0, 2.0]}
    assert row.model == monkey_fingerprint(monkey, 3)


def test_interrupted_run_ends_with_the_same_file(monkey, tmp_path):
    examples = noise_questions.make_examples()
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
    examples = noise_questions.make_examples()
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
    examples = noise_questions.make_examples(2, 1)
    path = tmp_path / "p.jsonl"
    predict(_echo, examples, path, progress=False, name="first")

    with pytest.raises(ValueError, match="another model or other questions.*stale"):
        predict(_echo, examples, path, progress=False, name="second")
    with pytest.raises(ValueError, match="another model or other questions"):
        predict(_echo, examples[:1], path, progress=False, name="first")

    # More examples of the same benchmark are no contradiction.
    predict(_echo, noise_questions.make_examples(3, 1), path, progress=False, name="first")
    assert len(read_predictions(path)) == 3

    predict(_echo, examples, path, progress=False, name="second", stale="replace")
    assert [row.model for row in read_predictions(path)] == ["second"] * 2


@pytest.mark.parametrize(
    ("examples", "complaint"),
    [([], "nothing to predict"), ([Example("a", None, "q", ("x",))] * 2, "must be unique: 'a' repeats")],
)
def test_no_examples_and_repeated_ids_raise(tmp_path, examples, complaint):
    with pytest.raises(ValueError, match=complaint):
        predict(_echo, examples, tmp_path / "p.jsonl", progress=False)
    assert not (tmp_path / "p.jsonl").exists()
