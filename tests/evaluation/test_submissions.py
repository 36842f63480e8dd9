"""Files for test servers and for MME's script, as their makers describe them."""

import json

import pytest

from monkeylib.evaluation import benchmarks, submissions
from monkeylib.evaluation.examples import read_predictions
from monkeylib.evaluation.predict import predict
from tests.support import record_files
from tests.support.benchmark_files import download, lay_out

# Files of test splits as their makers publish them, without answers, and the images; what the server gets.
TEST_SPLITS = {
    "vqav2-test-dev": (
        {
            "v2_OpenEnded_mscoco_test-dev2015_questions.json": {
                "questions": [{"question_id": 42, "image_id": 7, "question": "what colour?"}]
            }
        },
        {"test2015/COCO_test2015_000000000007.jpg"},
        [{"question_id": 42, "answer": "red\tcar"}],
    ),
    "textvqa-test": (
        {
            "TextVQA_0.5.1_test.json": {
                "data": [{"question_id": 36602, "image_id": "f0", "question": "what brand?"}]
            }
        },
        {"test_images/f0.jpg"},
        [{"question_id": 36602, "answer": "red\tcar"}],
    ),
    "vizwiz-test": (
        {"Annotations/test.json": [{"image": "VizWiz_test_00000000.jpg", "question": "what is it?"}]},
        {"test/VizWiz_test_00000000.jpg"},
        [{"image": "VizWiz_test_00000000.jpg", "answer": "red\tcar"}],
    ),
    "docvqa": (
        {
            "test_v1.0.json": {
                "data": [{"questionId": 57344, "image": "documents/x_1.png", "question": "what date?"}]
            }
        },
        {"documents/x_1.png"},
        [{"questionId": 57344, "answer": "red\tcar"}],
    ),
    "infovqa": (
        {
            "infographicsVQA_test_v1.0.json": {
                "data": [{"questionId": 98321, "image_local_name": "1.jpeg", "question": "how many?"}]
            }
        },
        {"infographicsvqa_images/1.jpeg"},
        [{"questionId": 98321, "answer": "red\tcar"}],
    ),
}


def answer(name, data, path, text):
    benchmark = benchmarks.get(name, data=data)
    predict(lambda batch: [text] * len(batch), benchmark.load(None), path, progress=False)
    return benchmark, read_predictions(path)


@pytest.mark.parametrize("name", TEST_SPLITS)
def test_split_without_answers_becomes_the_file_of_its_server(name, tmp_path, capsys):
    files, images, entries = TEST_SPLITS[name]
    folder = name.partition("-")[0]
    lay_out(tmp_path / "data" / folder, files, images)
    benchmark, rows = answer(name, tmp_path / "data", tmp_path / "p.jsonl", "red\tcar")

    assert submissions.needs_submission(benchmark, rows) and rows[0].answers == []
    submissions.report_submission(benchmark, rows, tmp_path)
    file = tmp_path / f"{name}.submission.json"
    assert json.loads(file.read_text()) == entries
    assert submissions.file_names(benchmark) == [file.name]
    assert f"{name}: 1 answers for https://" in capsys.readouterr().err

    # Again, and not in the place of somebody else's file.
    submissions.write_submission(benchmark, rows, tmp_path)
    for content in ("mine", "[1]", '[{"question_id": 1}]'):
        file.write_text(content)
        with pytest.raises(FileExistsError, match=f"{file.name} isn't a submission file"):
            submissions.write_submission(benchmark, rows, tmp_path)
        assert file.read_text() == content


def test_mme_becomes_a_text_for_each_task(tmp_path):
    download(tmp_path / "data", "mme")
    benchmark, rows = answer("mme", tmp_path / "data", tmp_path / "p.jsonl", "Yes,\nthere\tis.")

    assert submissions.needs_submission(benchmark, rows)
    files = submissions.write_submission(benchmark, rows, tmp_path)
    assert len(files) == 14 and len(submissions.file_names(benchmark)) == 14
    lines = (tmp_path / "mme.submission" / "artwork.txt").read_text().splitlines()

    # Image, question, answer and prediction, two questions an image, one after the other.
    assert [line.split("\t") for line in sorted(lines)][:2] == [
        ["0001.jpg", "Is there a artwork 0001? Please answer yes or no.", "Yes", "Yes, there is."],
        ["0001.jpg", "Is there no artwork? yes or no.", "No", "Yes, there is."],
    ]
    assert [line.split("\t")[0] for line in lines[::2]] == [line.split("\t")[0] for line in lines[1::2]]

    files[0].write_text("my notes\n")
    with pytest.raises(FileExistsError, match="isn't a submission file"):
        submissions.write_submission(benchmark, rows, tmp_path)


def test_questions_with_answers_and_released_files_need_none(tmp_path):
    download(tmp_path, "textvqa")
    record_files.write_lines(tmp_path / "x.jsonl", [])
    for name in ("textvqa", "chartqa", "nano-fine"):
        benchmark = benchmarks.get(name)
        rows = benchmarks.get("textvqa", data=tmp_path).load(None)
        assert not submissions.needs_submission(benchmark, rows)

    released = benchmarks.get("released-docvqa")
    assert submissions.file_names(released) == [] and not submissions.needs_submission(released, [])
