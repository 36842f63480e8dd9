"""What several commands share."""

from pathlib import Path

import pytest

from monkeylib import resources
from monkeylib.cli import options
from monkeylib.model.answers import Answer
from monkeylib.processing import MonkeyImageProcessor
from monkeylib.tiling import AutoGrid, Grid


def test_home_folder_stands_in_place_of_its_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resources.to_path("~/run") == tmp_path / "run"
    assert resources.to_path(Path("run/~")) == Path("run/~")


def test_default_checkpoint_is_the_shipped_one_whatever_was_trained_here(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    trained = resources.runs("nano") / "monkey" / "model"
    trained.mkdir(parents=True)
    (trained / "config.json").write_text("{}")
    assert options.default_checkpoint() == resources.models() / "nano-monkey"
    assert capsys.readouterr().err == ""


def test_base_model_answers_where_there_is_no_other(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(resources, "models", lambda: tmp_path)
    with pytest.raises(
        FileNotFoundError, match="nano-monkey is missing, and so is its base: clone or install"
    ):
        options.default_checkpoint()

    (tmp_path / "nano-base").mkdir()
    (tmp_path / "nano-base" / "config.json").write_text("{}")
    assert options.default_checkpoint() == tmp_path / "nano-base"
    assert "nano-base answers: clone or install monkeylib anew, or name a model" in capsys.readouterr().err


def test_profile_is_loaded_with_other_values():
    profile = options.load_profile("smoke", ["training.lr=0.5", "grid=auto"])
    assert profile.training.lr == 0.5 and profile.grid == "auto"
    with pytest.raises(ValueError, match="no profile called"):
        options.load_profile("gone", None)


@pytest.mark.parametrize(
    "text, grid", [("", None), ("2x3", Grid(2, 3)), ("auto", AutoGrid()), ("auto:6", AutoGrid(6))]
)
def test_grid_is_read(text, grid):
    assert options.read_grid(text) == grid


@pytest.mark.parametrize(
    "size, grid, note",
    [
        ((60, 40), None, None),
        ((30, 300), None, "30x300 pixels is stretched over 2x2 tiles (rows x columns), 10 times more"),
        ((300, 30), None, "300x30 pixels is stretched over 2x2 tiles"),
        ((30, 300), AutoGrid(), "30x300 pixels is stretched over 2x1 tiles (rows x columns), 5 times more"),
        ((30, 300), Grid(2, 2), None),
        ((30, 89), None, None),
        ((30, 90), None, "3 times more"),
    ],
)
def test_squeezed_image_is_noted(size, grid, note, monkey, make_image, capsys):
    options.note_distortion(monkey, make_image(0, *size), grid)
    errors = capsys.readouterr().err

    assert errors.count("\n") == (note is not None)
    assert (note or "") in errors
    assert ("--grid auto" in errors) == (note is not None and grid is None)


def test_squeezed_image_of_one_view_is_noted_without_advice(monkey, make_image, monkeypatch, capsys):
    # The processor is that of all tests.
    monkeypatch.setattr(monkey.processor, "image_processor", MonkeyImageProcessor(56, views="global"))
    options.note_distortion(monkey, make_image(0, 30, 300), None)
    errors = capsys.readouterr().err
    assert "over one square view" in errors and "--grid" not in errors


def test_padded_image_is_not_squeezed(monkey, make_image, monkeypatch, capsys):
    monkeypatch.setattr(monkey.processor, "image_processor", MonkeyImageProcessor(56, resize_mode="pad"))
    options.note_distortion(monkey, make_image(0, 30, 300), None)
    assert capsys.readouterr().err == ""


def test_cut_answers_and_answers_without_text_are_told_apart(capsys):
    counts = {"token_ids": (5,), "token_log_probabilities": (-1.0,), "prompt_tokens": 9, "visual_tokens": 4}
    whole = Answer("red", "end of text", **counts)
    cut, empty = (Answer(text, "length limit", **counts) for text in ("red", " \n"))

    options.report_cut([whole], 8)
    assert capsys.readouterr().err == ""
    options.report_cut([whole, cut], 8)
    assert "1 of 2 answers were cut after 8 tokens" in capsys.readouterr().err
    options.report_cut([empty], 8)
    assert "gave no text within 8 tokens: it may need more of them" in capsys.readouterr().err
    options.report_cut([Answer("", "end of text", **counts)], 8)
    assert "ended its answer at once, without text" in capsys.readouterr().err
    options.report_cut([], 8)
    assert capsys.readouterr().err == ""
