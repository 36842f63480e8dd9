"""Official and released files as they are downloaded, in old and new layouts, and as editors leave them."""

import json

import pytest

from monkeylib.data import dataset_cards
from monkeylib.evaluation import benchmarks
from monkeylib.evaluation.metrics import registry
from monkeylib.images import open_image
from tests.support import record_files
from tests.support.benchmark_files import RELEASED_ROWS, download, lay_out, released_download

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LINE = {"image": "data/x/0.jpg", "question": "how much?", "answer": "4.20", "question_id": 1}


def encode(*rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize(
    ("content", "answers"),
    [
        (encode(LINE) + b"\n \n" + encode(LINE | {"question_id": 2}), [("4.20",), ("4.20",)]),
        (BYTE_ORDER_MARK + encode(LINE), [("4.20",)]),
        (encode(LINE).replace(b"\n", b"\r\n"), [("4.20",)]),
        (encode(LINE).rstrip(), [("4.20",)]),
        (encode(LINE | {"answer": 14}), [("14",)]),
        (encode(LINE | {"answer": [14, "fourteen", 1.5]}), [("14", "fourteen", "1.5")]),
        (json.dumps([LINE]).encode(), [("4.20",)]),
    ],
)
def test_released_lines_are_read_as_training_reads_them(content, answers, tmp_path):
    source = dataset_cards.evaluation_cards()["chartqa"].test.released
    released_download(tmp_path, source)
    (tmp_path / source.file).write_bytes(content)

    examples = benchmarks.get("released-chartqa", data=tmp_path).load(None)
    assert [example.answers for example in examples] == answers


def test_line_that_is_no_json_is_named(tmp_path):
    source = dataset_cards.evaluation_cards()["chartqa"].test.released
    released_download(tmp_path, source)
    (tmp_path / source.file).write_bytes(encode(RELEASED_ROWS[0]) + b"\n{broken\n")
    with pytest.raises(ValueError, match="line 3 of .*chartqa.jsonl is not JSON"):
        benchmarks.get("released-chartqa", data=tmp_path).load(None)


def test_official_file_may_begin_with_a_byte_order_mark_and_have_numbers(tmp_path):
    questions = download(tmp_path, "textvqa")
    file = tmp_path / "textvqa/TextVQA_0.5.1_val.json"
    file.write_bytes(BYTE_ORDER_MARK + file.read_bytes().replace(b'"10:10"', b"10"))

    examples = benchmarks.get("textvqa", data=tmp_path).load(None)
    assert len(examples) == len(questions)
    assert {example.answers[0] for example in examples} == {"nokia", "10"}


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("docvqa", "spdocvqa_images"),
        ("docvqa", "documents"),
        ("infovqa", "infographicsvqa_images"),
        ("infovqa", "images"),
    ],
)
def test_folder_of_images_may_have_its_old_or_its_new_name(name, images, tmp_path):
    download(tmp_path, name)
    folder = next(path for path in (tmp_path / name).iterdir() if path.is_dir())
    folder.rename(folder.with_name(images))

    examples = benchmarks.get(name, data=tmp_path).load(None)
    assert {example.image.parent for example in examples} == {tmp_path / name / images}
    assert all(open_image(example.image).size[1] == 4 for example in examples)


def test_limited_sample_is_the_same_whatever_the_folder_of_images_is_called(tmp_path):
    rows = [
        {"questionId": n, "image": f"documents/{n}.png", "question": "What?", "answers": ["x"]}
        for n in range(12)
    ]
    samples = []
    for images in ("documents", "spdocvqa_images"):
        files = {"val_v1.0_withQT.json": {"data": rows}}
        lay_out(tmp_path / images / "docvqa", files, {f"{images}/{n}.png" for n in range(12)})
        examples = benchmarks.get("docvqa-val", data=tmp_path / images).load(6)
        samples.append([example.id for example in examples])
    assert samples[0] == samples[1] and samples[0] != [str(n) for n in range(6)]


def test_fields_that_say_something_are_kept_for_groups(tmp_path):
    row = {
        "questionId": 1, "image": "documents/a.png", "question": "What?", "answers": ["x"],
        "question_types": ["figure/diagram", "layout"], "docId": 7,
    }  # fmt: skip
    lay_out(tmp_path / "docvqa", {"val_v1.0_withQT.json": {"data": [row]}}, {"spdocvqa_images/a.png"})
    (example,) = benchmarks.get("docvqa-val", data=tmp_path).load(None)
    assert example.meta == {"question_types": "figure/diagram, layout"}

    download(tmp_path, "vqav2")
    metas = [example.meta for example in benchmarks.get("vqav2", data=tmp_path).load(None)]
    assert all(meta == {"answer_type": "other"} for meta in metas)


def test_variant_keeps_what_it_does_not_change(tmp_path):
    card = benchmarks.get("vqav2-test-dev").card
    assert (card.folder, card.test.images) == ("vqav2", "test2015")
    assert card.test.options == {"coco_split": "test2015"} and card.test.metrics[0] == "vqa_accuracy"
    assert benchmarks.get("vqav2-test-dev").reported == ()

    # Its files lie in the folder of its dataset.
    questions = {"questions": [{"question_id": 5, "image_id": 9, "question": "What?"}]}
    files = {"v2_OpenEnded_mscoco_test-dev2015_questions.json": questions}
    lay_out(tmp_path / "vqav2", files, {"test2015/COCO_test2015_000000000009.jpg"})
    (example,) = benchmarks.get("vqav2-test-dev", data=tmp_path).load(None)
    assert (example.id, example.answers) == ("5", ())
    assert "vqav2-test-dev" in benchmarks.available(tmp_path)
    assert "vqav2-test" not in benchmarks.available(tmp_path)


def test_question_of_a_table_is_asked_as_it_is_written(tmp_path):
    annotation = {"key": "who is  __ on the left?", "values": [{"value": "Ana"}]}
    row = {"name": "t.pdf", "language": "en", "split": "test", "annotations": [annotation]}
    (tmp_path / "wtq/test").mkdir(parents=True)
    record_files.write_lines(tmp_path / "wtq/test/document.jsonl", [row])
    image = tmp_path / "wtq/png/t/0.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(record_files.png())

    (example,) = benchmarks.get("wtq", data=tmp_path).load(None)
    assert example.question == "who is  __ on the left?" and example.image == image
    assert not example.is_document


def test_canonical_answers_of_tables_are_read_where_their_file_is(tmp_path):
    answers = {"how many?": ["100,000"], "which two?": ["Oslo|x", "Bergen"], "who?": ["Ana"]}
    rows = [{"key": key, "values": [{"value": value} for value in values]} for key, values in answers.items()]
    (tmp_path / "wtq/test").mkdir(parents=True)
    row = {"name": "t", "language": "en", "split": "test", "annotations": rows}
    record_files.write_lines(tmp_path / "wtq/test/document.jsonl", [row])
    (tmp_path / "wtq/png/t").mkdir(parents=True)
    (tmp_path / "wtq/png/t/0.png").write_bytes(record_files.png())

    benchmark = benchmarks.get("wtq", data=tmp_path)
    assert all("canonical" not in example.meta for example in benchmark.load(None))

    lines = [
        "id\tutterance\tcontext\ttargetValue\ttargetCanon",
        "nu-0\thow many?\tcsv\t100,000\t100000.0",
        "nu-1\twhich two?\tcsv\tOslo\\px|Bergen\tOslo\\px|Bergen",
        "nu-2\twho?\tcsv\tOther\tOther",
    ]
    file = tmp_path / "wtq/tagged/data/pristine-unseen-tables.tagged"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines) + "\n")
    canonical = {example.question: example.meta.get("canonical") for example in benchmark.load(None)}
    assert canonical == {"how many?": ["100000.0"], "which two?": ["Oslo|x", "Bergen"], "who?": None}

    # As the official evaluator, which takes a plain number for its form with a comma.
    (example,) = [example for example in benchmark.load(None) if example.question == "how many?"]
    for metric, score in {"denotation_accuracy": 1, "denotation_accuracy_due": 0}.items():
        assert registry.get(metric).scores(["100000"], [example.answers], [example.meta])[0] == score
