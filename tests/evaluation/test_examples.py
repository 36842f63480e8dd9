"""Batches of examples, and predictions on disk."""

import json

import pytest
from PIL import Image

from monkeylib.digests import FileDigests, file_digest
from monkeylib.evaluation.examples import Example, make_batches, open_images, read_predictions
from monkeylib.evaluation.predict import predict
from tests.support import noise_questions, prediction_rows


def test_batches_keep_the_questions_of_an_image_in_a_row():
    examples = noise_questions.make_examples()
    batches = make_batches(examples, 4)

    assert [len(batch) for batch in batches] == [4, 4, 4, 3]

    flat = [example for batch in batches for example in batch]
    assert sorted(e.id for e in flat) == sorted(e.id for e in examples)

    keys = [example.image_key for example in flat]
    changes = sum(first != second for first, second in zip(keys, keys[1:], strict=False))
    assert changes == 4, "the questions of each of five images are neighbours"

    # Batches do not depend on the order of the examples.
    assert make_batches(examples[::-1], 4)[0][0].image_key == batches[0][0].image_key


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


@pytest.mark.parametrize(("field", "value"), [("prediction", None), ("answers", "yes"), ("id", 1)])
def test_field_of_another_type_is_named(field, value, tmp_path):
    row = json.loads(prediction_rows.prediction(1, correct=True).to_line()) | {field: value}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=f"Line 1 of .* is no prediction .its {field} is {value!r}"):
        read_predictions(tmp_path / "p.jsonl")


def test_image_of_several_questions_is_opened_once(tmp_path):
    rendered = []

    def render():
        rendered.append(1)
        return Image.new("RGB", (8, 6))

    shared = [Example(id, render, "what?", ("a",), image_id="page") for id in ("q1", "q2")]
    broken = [Example(id, tmp_path / "gone.png", "what?", ("a",), image_id="gone") for id in ("q3", "q4")]
    without_image = Example("q5", None, "what?", ("a",))
    with_file = Example("q6", tmp_path / "file.png", "what?", ("a",))
    Image.new("RGB", (3, 2)).save(with_file.image)
    opened, errors, digests = open_images([*shared, *broken, without_image, with_file], FileDigests())

    assert len(rendered) == 1
    assert [example.id for example in opened] == ["q1", "q2", "q5", "q6"]
    assert opened[0].image is opened[1].image and opened[0].image.size == (8, 6)
    assert opened[2].image is None
    assert errors == {"q3": "image: missing", "q4": "image: missing"}
    assert digests == {"gone": "", "q6": file_digest(with_file.image)}, "images in memory don't change"
