"""Folders of predictions."""

import json
from dataclasses import replace

import pytest

from monkeylib.evaluation import prediction_folders
from tests.support.prediction_rows import predictions_of_images, write_predictions


def write_notes(folder, **notes):
    """Write the record of a run with these notes."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"kind": "evaluation", "finished": True, "fingerprint": {}, "notes": notes}
    (folder / "run.json").write_text(json.dumps(manifest))


def test_model_name_of_a_folder_is_read_back(tmp_path, capsys):
    assert prediction_folders.read_model_name(tmp_path) == tmp_path.name, "without a file, the folder's name"
    write_notes(tmp_path, model="someone/model")
    assert prediction_folders.read_model_name(tmp_path) == "someone/model"

    # A file of somebody else is said once, and the predictions are scored without it.
    (tmp_path / "run.json").write_text(json.dumps({"model": "m"}))
    assert prediction_folders.run_labels([tmp_path]) == [tmp_path.name]
    errors = capsys.readouterr().err
    assert errors.count("not the record of a run") == 1 and "are scored without it" in errors


def test_runs_of_one_model_are_told_apart(tmp_path):
    folders = [tmp_path / name for name in ("one/out", "two/out", "three")]
    facts = [{"prompt": "vqa", "weights": "a" * 64}, {"prompt": "vqa", "weights": "b" * 64}, {}]
    for folder, notes in zip(folders, facts, strict=True):
        write_notes(folder, model="nano", **notes)

    assert prediction_folders.run_labels(folders[:1]) == ["nano"]
    assert prediction_folders.run_labels(folders[:2]) == [
        f"nano (one/out, weights {'a' * 12})",
        f"nano (two/out, weights {'b' * 12})",
    ]

    # Another model keeps its name.
    write_notes(folders[2], model="other")
    assert prediction_folders.run_labels(folders)[2] == "other"

    write_notes(folders[1], model="nano", prompt="caption")
    assert prediction_folders.run_labels(folders[:2])[1] == "nano (two/out, prompt caption)"


def test_folder_is_scored_without_what_has_no_answers_and_foreign_files_stay(tmp_path):
    rows = predictions_of_images(lambda image: True, images=2)
    write_predictions(tmp_path / "docvqa.jsonl", [replace(row, answers=[]) for row in rows])
    assert not prediction_folders.has_scores(tmp_path)
    with pytest.raises(
        ValueError, match="nothing in .* can be scored: the answers of docvqa aren't published"
    ):
        prediction_folders.score_folder(tmp_path)

    write_predictions(tmp_path / "nano-fine.jsonl", rows)
    assert {row.split for row in prediction_folders.score_folder(tmp_path)} == {"nano-fine"}
    assert {
        row.n for row in prediction_folders.score_folder(tmp_path, ids={"nano-fine": ["0-0", "1-0"]})
    } == {2}

    for content in ("my,own,table\n", ""):
        (tmp_path / "scores.csv").write_text(content)
        with pytest.raises(FileExistsError, match="scores.csv isn't a score table of monkeylib"):
            prediction_folders.score_folder(tmp_path)
        assert (tmp_path / "scores.csv").read_text() == content


def test_prediction_files_come_in_the_order_of_the_benchmarks(tmp_path):
    with pytest.raises(FileNotFoundError, match="no predictions in"):
        prediction_folders.prediction_files(tmp_path)

    # Benchmarks come in their order, other names after them.
    for name in ("nano-large", "other", "nano-fine"):
        (tmp_path / f"{name}.jsonl").write_text("")
    assert list(prediction_folders.prediction_files(tmp_path)) == ["nano-fine", "nano-large"]
    assert list(prediction_folders.prediction_files(tmp_path, any_name=True)) == [
        "nano-fine",
        "nano-large",
        "other",
    ]
