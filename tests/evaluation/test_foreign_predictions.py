"""Predictions of other tools, in the forms in which these write them."""

import csv
import json

import pytest

from monkeylib.evaluation import benchmarks
from monkeylib.evaluation.foreign_predictions import match, read_any_predictions
from tests.support import prediction_rows, record_files
from tests.support.benchmark_files import download

# Rows of tools, and what is read: id, prediction, accepted answers.
ROWS = {
    "monkeylib's simplest": ({"id": "a", "prediction": "x", "answers": ["y", 2]}, ("a", "x", ["y", "2"])),
    "numbers": ({"question_id": 7, "prediction": 14, "answer": 14.5}, ("7", "14", ["14.5"])),
    "test server": ({"question_id": 7, "answer": "x"}, ("7", "x", [])),
    "DocVQA's server": ({"questionId": 7, "answer": "x"}, ("7", "x", [])),
    "VizWiz's server": ({"image": "V_0.jpg", "answer": "x"}, ("V_0.jpg", "x", [])),
    "released code": ({"question_id": 7, "answer": "x", "annotation": ["y"]}, ("7", "x", ["y"])),
    "released code without ids": ({"answer": "x", "annotation": "y"}, ("1", "x", ["y"])),
    "LLaVA": (
        {"question_id": 7, "prompt": "what?", "text": "x", "answer_id": "9", "model_id": "m", "metadata": {}},
        ("7", "x", []),
    ),
    "lmms-eval": (
        {"doc_id": 7, "target": "y", "filtered_resps": ["x"], "resps": [["x "]], "doc": {}},
        ("7", "x", ["y"]),
    ),
    "VLMEvalKit": ({"index": 7, "question": "what?", "answer": "y", "prediction": "x"}, ("7", "x", ["y"])),
    "annotations of VQA": (
        {"question_id": 7, "response": "x", "answers": [{"answer": "y"}, {"answer": "z"}]},
        ("7", "x", ["y", "z"]),
    ),
    "nothing": ({"id": 7, "prediction": None, "answer": "y"}, ("7", "", ["y"])),
    "yes or no": ({"id": 7, "prediction": True, "answer": "true"}, ("7", "true", ["true"])),
}


@pytest.mark.parametrize("tool", ROWS)
def test_rows_of_a_tool_are_read(tool, tmp_path):
    row, expected = ROWS[tool]
    record_files.write_lines(tmp_path / "p.jsonl", [row])
    record_files.write_list(tmp_path / "p.json", [row])

    for name in ("p.jsonl", "p.json"):
        (prediction,) = read_any_predictions(tmp_path / name)
        assert (prediction.id, prediction.prediction, prediction.answers) == expected


def test_tables_are_read_and_further_fields_are_kept(tmp_path):
    rows = [
        {"index": 1, "question": "what?", "answer": "['y', 'z']", "prediction": "x", "split": "a"},
        {"index": 2, "question": "what?", "answer": "y", "prediction": "", "split": "b"},
    ]
    for name, separator in {"p.csv": ",", "p.tsv": "\t"}.items():
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    record_files.write_parquet(
        tmp_path / "p.parquet", **{name: [row[name] for row in rows] for name in rows[0]}
    )

    for name in ("p.csv", "p.tsv", "p.parquet"):
        first, second = read_any_predictions(tmp_path / name)
        assert (first.id, first.answers, first.meta["split"]) == ("1", ["y", "z"], "a")
        assert (second.prediction, second.is_empty) == ("", True)


@pytest.mark.parametrize("end", ["\n", "", "\r\n", "\n\n \n"])
def test_every_line_counts_whatever_the_file_ends_in(end, tmp_path):
    rows = [prediction_rows.prediction(n, correct=n == 0) for n in range(2)]
    lines = "\n".join(row.to_line().decode().strip() for row in rows)
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode() + end.encode())

    assert read_any_predictions(tmp_path / "p.jsonl") == rows
    assert prediction_rows.score(tmp_path / "p.jsonl", "exact_match").value == 0.5


def test_unfinished_line_is_named(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": 1, "prediction": "a", "answer": "a"}\n{"id": 2, "predic')
    with pytest.raises(ValueError, match="line 2 of .*p.jsonl is not JSON"):
        read_any_predictions(tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            '{"id": 1, "question": "what?"}',
            "line 1 of .* has no prediction: expected a field .*got id, question",
        ),
        (
            '{"id": 1, "prediction": {"a": 1}}',
            "line 1 of .*, field prediction: expected a text, got {'a': 1}",
        ),
        ('{"id": 1, "prediction": ["a", "b"]}', "field prediction: expected a text"),
        ("[1, 2]", "record 1 of .*: expected a prediction, an object with fields, got 1"),
        ('{"id": 1, "prediction": "a", "answers": [null, {}]}', None),
        ("\n \n", "there are no predictions in .*p.jsonl: it is empty"),
        ("[]", "there are no predictions in .*p.jsonl: it is empty"),
    ],
)
def test_row_that_is_no_prediction_is_one_sentence(content, sentence, tmp_path):
    (tmp_path / "p.jsonl").write_text(content)
    if sentence is None:
        assert read_any_predictions(tmp_path / "p.jsonl")[0].answers == []
        return
    with pytest.raises(ValueError, match=sentence) as error:
        read_any_predictions(tmp_path / "p.jsonl")
    assert "\n" not in str(error.value)


def test_repeated_questions_count_once_and_contradictions_are_refused(tmp_path, capsys):
    same = {"id": 1, "prediction": "a", "answer": "a"}
    record_files.write_lines(tmp_path / "p.jsonl", [same, same, same | {"id": 2}])
    assert [row.id for row in read_any_predictions(tmp_path / "p.jsonl")] == ["1", "2"]
    assert "1 predictions are repeated and count once, such as 1" in capsys.readouterr().err

    record_files.write_lines(tmp_path / "p.jsonl", [same, same | {"prediction": "b"}])
    with pytest.raises(ValueError, match="question 1 has two predictions in .*, 'a' and 'b'"):
        read_any_predictions(tmp_path / "p.jsonl")

    # A kill may leave an older prediction of the same run.
    older, newer = (prediction_rows.prediction(1, correct) for correct in (False, True))
    prediction_rows.write_predictions(tmp_path / "own.jsonl", [older, newer])
    assert read_any_predictions(tmp_path / "own.jsonl") == [newer]


def test_predictions_are_matched_with_the_questions_of_a_benchmark(tmp_path, capsys):
    download(tmp_path / "data", "textvqa")
    benchmark = benchmarks.get("textvqa", data=tmp_path / "data")
    file = tmp_path / "p.json"
    file.write_text(json.dumps([{"question_id": 1, "answer": "Nokia"}, {"question_id": 99, "answer": "x"}]))
    rows = match(read_any_predictions(file), benchmark, file)

    assert {row.id: (row.prediction, row.error) for row in rows} == {
        "1": ("Nokia", ""),
        "2": ("", "no prediction"),
    }
    assert prediction_rows.score(rows, "vqa_accuracy").value == 0.5
    errors = capsys.readouterr().err
    assert "1 of the 2 questions of textvqa have no prediction and count as wrong, such as 2" in errors
    assert "1 predictions are for no question of textvqa and are left out, such as 99" in errors

    file.write_text(json.dumps([{"question_id": "x-1", "answer": "Nokia"}]))
    with pytest.raises(ValueError, match="its ids are such as 'x-1', those of the questions such as '[12]'"):
        match(read_any_predictions(file), benchmark, file)


def test_vizwiz_is_matched_by_image(tmp_path):
    download(tmp_path / "data", "vizwiz")
    benchmark = benchmarks.get("vizwiz", data=tmp_path / "data")
    record_files.write_list(tmp_path / "p.json", [{"image": f"V_{n}.jpg", "answer": "can"} for n in range(2)])
    rows = match(read_any_predictions(tmp_path / "p.json"), benchmark, tmp_path / "p.json")
    assert sorted(row.id for row in rows) == ["0", "1"] and {row.prediction for row in rows} == {"can"}


def test_two_questions_of_one_id_are_refused(tmp_path):
    rows = [{"doc_id": 0, "response": "yes", "target": answer} for answer in ("yes", "no")]
    record_files.write_lines(tmp_path / "p.jsonl", rows)
    with pytest.raises(ValueError, match="two questions have the id 0 in .*give each an id of its own"):
        read_any_predictions(tmp_path / "p.jsonl")


def test_nothing_is_no_accepted_answer(tmp_path):
    record_files.write_lines(tmp_path / "p.jsonl", [{"id": 1, "prediction": "", "answers": ["x", None]}])
    assert read_any_predictions(tmp_path / "p.jsonl")[0].answers == ["x"]
