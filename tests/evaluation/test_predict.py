"""Files of predictions: resumed, repaired and replaced."""

import multiprocessing
import re
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from monkeylib import prompts
from monkeylib.evaluation import predict as evaluation_predict
from monkeylib.evaluation.examples import Example, read_complete_lines, read_predictions
from monkeylib.evaluation.predict import TooManyFailures, predict
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey, monkey_fingerprint
from monkeylib.image_processor import MonkeyImageProcessor
from monkeylib.jpeg_files import JpegFile
from tests.support import noise_questions, random_monkey


def _echo(examples):
    return [f"{example.id}: {example.question}" for example in examples]


def test_predictions_hold_the_example_and_the_fingerprint_of_the_model(monkey, tmp_path):
    path = tmp_path / "new" / "p.jsonl"
    examples = noise_questions.make_examples(2, 2)
    assert predict(monkey, examples, path, max_new_tokens=3, progress=False)[:3] == (path, 4, 0)

    rows = read_predictions(path)
    assert {row.id for row in rows} == {"0-0", "0-1", "1-0", "1-1"}

    row = next(row for row in rows if row.id == "1-0")
    assert row.answers == ["yes", "no"] and row.image == "image 1" and row.prompt == "vqa"
    assert row.meta == {"family": "general", "answer_box": [1.0, 2.0]}
    assert row.model == monkey_fingerprint(monkey, 3)


def test_images_of_the_next_batch_are_opened_while_one_is_answered(tmp_path, monkeypatch):
    opened = [threading.Event() for _ in range(3)]
    count = iter(opened)
    open_images = evaluation_predict.open_images

    def watched_open(*arguments):
        images = open_images(*arguments)
        next(count).set()
        return images

    is_open = []

    def answer(batch):
        if len(is_open) < 2:
            is_open.append(opened[len(is_open) + 1].wait(30))
        return _echo(batch)

    monkeypatch.setattr(evaluation_predict, "open_images", watched_open)
    examples = noise_questions.make_examples(3, 1)
    predict(answer, examples, tmp_path / "p.jsonl", batch_size=1, progress=False, name="echo")
    assert is_open == [True, True]


def test_views_are_made_beside_the_thread_that_answers(monkey, tmp_path, monkeypatch):
    """Each image's once, and those of an image that cannot be cut like this by the call that refuses it."""
    prepared = []
    make_views = MonkeyImageProcessor.preprocess

    def watched_preprocess(processor, image, *arguments):
        prepared.append(threading.current_thread().name)
        return make_views(processor, image, *arguments)

    monkeypatch.setattr(MonkeyImageProcessor, "preprocess", watched_preprocess)
    examples = noise_questions.make_examples(3, 2)
    predict(monkey, examples, tmp_path / "p.jsonl", batch_size=2, max_new_tokens=3, progress=False)
    first, *others = prepared
    assert first == "MainThread" and len(others) == 2
    assert all(name.startswith("images") for name in others)


@pytest.mark.parametrize("exact", [True, False])
def test_file_is_opened_as_its_views_need_it(exact, tmp_path, monkeypatch):
    """Unless views are exact, a JPEG file is decoded when its size is known to suffice."""
    monkey = random_monkey.make_monkey()
    monkey.processor.image_processor.exact = exact
    file = tmp_path / "photograph.jpg"
    Image.new("RGB", (640, 480), "red").save(file)
    decoded = []
    decode = JpegFile.decode
    monkeypatch.setattr(JpegFile, "decode", lambda *arguments: decoded.append(1) or decode(*arguments))

    examples = [replace(example, image=file) for example in noise_questions.make_examples(1, 2)]
    predict(monkey, examples, tmp_path / "p.jsonl", max_new_tokens=3, progress=False)
    assert len(decoded) == int(not exact)


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

    assert last[:3] == (part, 7, 8) and last.repaired
    assert part.read_bytes() == uninterrupted.read_bytes()

    num_calls = len(calls)
    again = predict(killed_after(0), examples, part, batch_size=4, progress=False, name=name)
    assert len(calls) == num_calls and again[:3] == (part, 0, 15), "all answers are on disk"


def test_incomplete_line_is_predicted_again(tmp_path):
    examples = noise_questions.make_examples()
    path, *_ = predict(_echo, examples, tmp_path / "p.jsonl", batch_size=5, progress=False)
    content = path.read_bytes()
    for cut in (1, 40, len(content) // 2):
        path.write_bytes(content[:-cut])
        again = predict(_echo, examples, path, batch_size=5, progress=False)
        assert path.read_bytes() == content and again.generated % 5 == 0 < again.generated


def _numbered_examples(count):
    return [Example(str(number), None, "what is " + "x" * (number % 7), ("a",)) for number in range(count)]


def _long_answer(examples):
    return ["né" + example.id * 20 for example in examples]


def test_file_that_a_kill_has_cut_at_any_byte_is_completed(tmp_path):
    examples = _numbered_examples(6)
    path, *_ = predict(_long_answer, examples, tmp_path / "full.jsonl", batch_size=2, progress=False)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)

    # Around the ends of lines, inside the two bytes of a letter, and here and there.
    ends = np.cumsum([len(line) for line in lines])
    cuts = {0, *(ends[:3] - 1), *ends[:3], *(ends[:3] + 1), content.index("é".encode()) + 1}
    cuts |= set(range(100, len(content), 300))

    # By one process, which appends to the file, and by one of two, which appends to its part.
    for cut in sorted(map(int, cuts)):
        file, part = tmp_path / "p.jsonl", tmp_path / "p.jsonl.part1"
        file.write_bytes(content[:cut])
        run = predict(_long_answer, examples, file, batch_size=2, progress=False)
        assert file.read_bytes() == content
        assert run.repaired == (not content[:cut].endswith(b"\n") and cut > 0)

        # The part is merged into the file before it is removed, so a kill leaves its lines in both.
        file.write_bytes(b"".join(lines[:2]))
        part.write_bytes(content[len(lines[0]) : max(cut, len(lines[0]))])
        predict(_long_answer, examples, file, batch_size=2, progress=False)
        assert file.read_bytes() == content and not part.exists()


def test_killed_processes_lose_and_double_nothing(tmp_path):
    examples = _numbered_examples(30)
    full, *_ = predict(_long_answer, examples, tmp_path / "full.jsonl", batch_size=2, progress=False)
    path = tmp_path / "p.jsonl"
    context = multiprocessing.get_context("fork")
    options = {"batch_size": 2, "progress": False}
    random = np.random.default_rng(0)
    num_killed = 0

    while True:
        process = context.Process(target=predict, args=(_long_answer, examples, path), kwargs=options)
        process.start()
        time.sleep(random.uniform(0.0, 0.005 * (2 + num_killed)))  # in the end, long enough
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        num_killed += 1
        assert num_killed < 500

        # What is there is a part of the complete file, whenever the kill came.
        if path.exists():
            rows, _ = read_complete_lines(path)
            assert len({row.id for row in rows}) == len(rows)
            assert {row.to_line() for row in rows} <= set(full.read_bytes().splitlines(keepends=True))

    assert num_killed > 3 and path.read_bytes() == full.read_bytes()


def test_predictions_of_another_model_raise_or_are_replaced(tmp_path):
    examples = noise_questions.make_examples(2, 1)
    path = tmp_path / "p.jsonl"
    predict(_echo, examples, path, progress=False, name="first")
    before = path.read_bytes()

    with pytest.raises(ValueError, match="predictions of another model.*stale"):
        predict(_echo, examples, path, progress=False, name="second")
    assert path.read_bytes() == before

    predict(_echo, examples[:1], path, progress=False, name="second", stale="replace")
    assert [row.model for row in read_predictions(path)] == ["second"]


def test_predictions_about_further_examples_are_retained(tmp_path):
    path = tmp_path / "p.jsonl"
    predict(_echo, noise_questions.make_examples(3, 1), path, progress=False)
    before = path.read_bytes()

    fewer = predict(_fail, noise_questions.make_examples(2, 1), path, progress=False)
    assert path.read_bytes() == before
    assert (fewer.generated, fewer.cached, fewer.others) == (0, 2, 1)

    more = predict(_echo, noise_questions.make_examples(4, 1), path, progress=False)
    assert (more.cached, more.others) == (3, 0) and len(read_predictions(path)) == 4

    # In the end, the file is that of a single call.
    single, *_ = predict(_echo, noise_questions.make_examples(4, 1), tmp_path / "s.jsonl", progress=False)
    assert path.read_bytes() == single.read_bytes()


def _fail(examples):
    raise AssertionError(f"answered again: {[example.id for example in examples]}")


@pytest.fixture()
def pages(tmp_path):
    """Return four examples about image files, and the folder of the files."""
    folder = tmp_path / "pages"
    folder.mkdir()
    for number in range(4):
        noise_questions.make_image(number).save(folder / f"{number}.png")

    return [Example(f"q{n}", folder / f"{n}.png", f"what is {n}?", ("a",)) for n in range(4)], folder


def _mean_pixel(examples):
    """Answer with what is in the image."""
    return [str(np.asarray(example.rendered_image).mean().round(3)) for example in examples]


def test_answer_belongs_to_the_content_of_the_image(pages, tmp_path):
    examples, folder = pages
    path = tmp_path / "p.jsonl"
    predict(_mean_pixel, examples, path, batch_size=2, progress=False)
    before = {row.id: row.prediction for row in read_predictions(path)}

    # The same content under another name, and other content of the same size under the same name.
    (folder / "0.png").rename(folder / "renamed.png")
    renamed = [replace(examples[0], image=folder / "renamed.png", image_id="renamed"), *examples[1:]]
    assert predict(_fail, renamed, path, batch_size=2, progress=False).cached == 4

    noise_questions.make_image(9).save(folder / "2.png")
    run = predict(_mean_pixel, renamed, path, batch_size=2, progress=False)
    after = {row.id: row.prediction for row in read_predictions(path)}

    assert run.changed == 1 and len(after) == 4
    assert {id for id in after if after[id] != before[id]} == {"q2"}


def test_answer_belongs_to_the_text_of_the_prompt_and_the_question(pages, tmp_path, monkeypatch):
    examples, _ = pages
    path = tmp_path / "p.jsonl"
    predict(_echo, examples, path, progress=False)

    monkeypatch.setitem(prompts.PROMPTS, "vqa", prompts.PromptTemplate("{question} Reply: "))
    assert predict(_echo, examples, path, progress=False).changed == 4
    assert {row.template for row in read_predictions(path)} == {"{question} Reply: "}

    other_question = [replace(examples[0], question="who is 0?"), *examples[1:]]
    assert predict(_echo, other_question, path, progress=False).changed == 1

    # Another accepted answer doesn't change what the model says.
    other_answer = [replace(example, answers=("b",)) for example in other_question]
    assert predict(_fail, other_answer, path, progress=False).cached == 4
    assert {row.answers[0] for row in read_predictions(path)} == {"b"}


def _break(file, kind):
    if kind == "missing":
        file.unlink()
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-2000])
    elif kind == "unsupported":
        file.write_text("<html>not found</html>")
    else:
        file.unlink()
        file.mkdir()


@pytest.mark.parametrize(
    ("kind", "error"),
    [(kind, kind) for kind in ("missing", "empty", "truncated", "unsupported")] + [("folder", "unsupported")],
)
def test_broken_image_is_a_recorded_failure(pages, tmp_path, kind, error):
    examples, folder = pages
    _break(folder / "1.png", kind)
    path = tmp_path / "p.jsonl"
    answered_ids = []

    def count(batch):
        answered_ids.extend(example.id for example in batch)
        return _mean_pixel(batch)

    run = predict(count, examples, path, batch_size=2, progress=False)
    rows = {row.id: row for row in read_predictions(path)}
    assert (run.failed, run.generated, len(rows)) == (1, 4, 4)
    assert rows["q1"].error == f"image: {error}" and rows["q1"].prediction == ""
    assert not any(rows[id].error for id in ("q0", "q2", "q3"))
    assert sorted(answered_ids) == ["q0", "q2", "q3"]

    # It is settled, until the image changes.
    again = predict(_fail, examples, path, batch_size=2, progress=False)
    assert (again.failed, again.generated, again.cached) == (1, 0, 4)
    retried = predict(count, examples, path, batch_size=2, progress=False, retry_failed=True)
    assert (retried.failed, retried.cached) == (1, 3)

    if kind == "folder":
        (folder / "1.png").rmdir()
    noise_questions.make_image(1).save(folder / "1.png")
    fixed = predict(count, examples, path, batch_size=2, progress=False)
    assert (fixed.failed, fixed.changed) == (0, 1)

    undamaged, *_ = predict(_mean_pixel, examples, tmp_path / "u.jsonl", batch_size=2, progress=False)
    assert path.read_bytes() == undamaged.read_bytes()


def test_example_that_the_model_refuses_is_a_failure(pages, tmp_path):
    examples, _ = pages

    def refuse(batch):
        if any(example.id == "q2" for example in batch):
            raise ValueError("the aspect ratio must be\nsmaller than 200")
        return _echo(batch)

    run = predict(refuse, examples, tmp_path / "p.jsonl", progress=False)
    rows = {row.id: row for row in read_predictions(run.path)}
    assert run.failed == 1
    assert rows["q2"].error == "refused: the aspect ratio must be smaller than 200"
    assert rows["q3"].prediction == "q3: what is 3?"


def test_run_stops_where_too_many_examples_fail(tmp_path):
    image = tmp_path / "image.png"
    noise_questions.make_image(0).save(image)
    examples = [
        Example(f"{n}", tmp_path / "gone.png" if n < 30 else image, "q" * n, ("a",)) for n in range(150)
    ]
    path = tmp_path / "p.jsonl"

    with pytest.raises(TooManyFailures, match="16 of the 150 questions.*image: missing.*10 % may"):
        predict(_echo, examples, path, batch_size=4, progress=False)
    assert len(read_predictions(path)) == 16, "nothing was answered after the limit"

    # Allowed, the run goes on where it stopped.
    run = predict(_echo, examples, path, batch_size=4, progress=False, max_failed=0.5)
    assert (run.failed, run.cached) == (30, 16) and len(read_predictions(path)) == 150

    with pytest.raises(TooManyFailures, match="none of the 5 questions"):
        predict(_echo, examples[:5], tmp_path / "none.jsonl", progress=False)
    with pytest.raises(ValueError, match="from 0 to 1, got 10"):
        predict(_echo, examples, path, progress=False, max_failed=10)


def test_question_beyond_the_context_is_a_failure_with_its_numbers(monkey, tmp_path):
    """Beside others about the same image, and where its answer alone does not fit."""
    first, *others = noise_questions.make_examples(1, 4)
    long = replace(first, id="long", question="what? " * 100)
    context = monkey.model.config.text_config.max_position_embeddings = 100
    run = predict(monkey, [first, long, *others], tmp_path / "p.jsonl", max_new_tokens=3, progress=False)
    rows = {row.id: row for row in read_predictions(run.path)}

    assert run.failed == 1 and all(not rows[example.id].error for example in (first, *others))
    assert re.search(
        rf"refused: .* \d+ tokens, 20 of them visual, and max_new_tokens is 3, .* takes {context}",
        rows["long"].error,
    )


def test_predictions_say_how_generation_ended(monkey, tmp_path):
    """A length of one token cuts every answer, unless its first token ends it."""
    examples = noise_questions.make_examples(2, 2)
    path, *_ = predict(monkey, examples, tmp_path / "p.jsonl", max_new_tokens=1, progress=False)
    assert {(row.tokens, row.is_cut) for row in read_predictions(path)} == {(1, True)}


@pytest.mark.parametrize(
    ("examples", "complaint"),
    [([], "nothing to predict"), ([Example("a", None, "q", ("x",))] * 2, "must be unique: 'a' repeats")],
)
def test_no_examples_and_repeated_ids_raise(tmp_path, examples, complaint):
    with pytest.raises(ValueError, match=complaint):
        predict(_echo, examples, tmp_path / "p.jsonl", progress=False)
    assert not (tmp_path / "p.jsonl").exists()


def test_prompt_that_a_model_does_not_have_ends_the_run_before_its_first_answer(monkey, tmp_path):
    examples = [replace(noise_questions.make_examples()[0], prompt="vqb")]
    with pytest.raises(ValueError, match="no prompt called 'vqb': choose one of vqa, chat"):
        predict(monkey, examples, tmp_path / "p.jsonl", progress=False)
    assert not (tmp_path / "p.jsonl").exists()


def test_image_that_is_replaced_while_it_is_read_is_asked_about_again(pages, tmp_path, monkeypatch):
    """The digest of a file is taken before it is opened, so that it never belongs to a later image."""
    (example, *_), folder = pages
    path = tmp_path / "p.jsonl"
    open_image = evaluation_predict.open_image

    def open_and_replace(image):
        opened = open_image(image)
        noise_questions.make_image(9).save(folder / "0.png")
        return opened

    monkeypatch.setattr(evaluation_predict, "open_image", open_and_replace)
    predict(_mean_pixel, [example], path, progress=False)
    monkeypatch.setattr(evaluation_predict, "open_image", open_image)

    (before,) = read_predictions(path)
    again = predict(_mean_pixel, [example], path, progress=False)
    assert (again.generated, again.changed) == (1, 1)
    assert read_predictions(path)[0].prediction != before.prediction
