import io
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from monkeylib import resources, tables

NUMBERS = st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.6g}"))
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1).filter(
    lambda text: tables._parse(text) == text
)
SCORE = {"model": "Monkey", "split": "nano-fine", "group": "all", "metric": "exact_match", "n": 600}


@pytest.fixture(autouse=True)
def _outputs(monkeypatch, tmp_path):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.fixed_dictionaries({"a": NUMBERS | st.none(), "b": TEXTS}), min_size=1, max_size=4))
def test_table_is_read_back_as_it_was_written(rows):
    tables.table_path("t", "nano").unlink(missing_ok=True)
    tables.write_table(rows, "t", "nano")
    read_back = tables.read_table("t", "nano")

    assert read_back == rows
    assert [type(row["a"]) for row in read_back] == [type(row["a"]) for row in rows]


def test_columns_come_in_the_order_of_their_first_mention():
    path = tables.write_table([{"model": "x", "fine": 1 / 3}, {"model": "y", "large": 2.0}], "t", "smoke")

    assert path.read_text() == "model,fine,large\nx,0.333333,\ny,,2.0\n"
    assert tables.read_frame("t", "smoke").shape == (2, 3)


def test_tables_of_another_seed_lie_apart_and_a_published_one_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "checkout/data/results/nano").mkdir(parents=True)
    monkeypatch.setattr(resources, "REPOSITORY", tmp_path / "checkout")
    tables.write_csv([{"a": 0}], tmp_path / "checkout/data/results/nano/t.csv")
    tables.write_table([{"a": 1}], "t", "smoke")
    tables._say_published.cache_clear()

    monkeypatch.setenv(resources.SEED, "7")
    monkeypatch.setenv(resources.REPRODUCES, "nano-seed-7")
    for _ in range(2):
        assert tables.read_table("t", "nano") == [{"a": 0}]
    sentence = "t.csv is the published one: nothing here has written one with seed 7"
    assert capsys.readouterr().err.count(sentence) == 1, "once"

    tables.write_table([{"a": 2}], "t", "nano")
    assert tables.read_table("t", "nano") == [{"a": 2}]
    assert capsys.readouterr().err == ""

    monkeypatch.delenv(resources.REPRODUCES)
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=smoke SEED=7`"):
        tables.read_table("t", "smoke")


@pytest.mark.parametrize("content", ["my notes\n", "", "\xff\xfe", "step,loss\n1,2\n"])
def test_file_that_is_no_such_table_is_not_replaced(content):
    path = tables.table_path("t", "smoke")
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="latin-1")

    with pytest.raises(FileExistsError, match=r"t\.csv is in the way .* columns model, value: move it away"):
        tables.write_table([{"model": "x", "value": 1}], "t", "smoke")
    assert path.read_text(encoding="latin-1") == content


def test_earlier_version_of_a_table_is_replaced():
    tables.write_table([{"model": "x", "fine": 1}], "t", "smoke")
    path = tables.write_table([{"model": "x", "large": 2}], "t", "smoke")
    assert path.read_text() == "model,large\nx,2\n"


def test_link_is_not_replaced(tmp_path):
    (tmp_path / "mine.csv").write_text("model,value\n")
    path = tables.table_path("t", "smoke")
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "mine.csv")
    with pytest.raises(FileExistsError, match="in the way"):
        tables.write_table([{"model": "x", "value": 1}], "t", "smoke")


def test_names_that_resemble_numbers_stay_text():
    rows = [{"a": "007", "b": "1.", "c": "1e"}]
    tables.write_table(rows, "t", "nano")
    assert tables.read_table("t", "nano") == rows


def test_column_with_one_word_stays_text():
    """Read as a number, the answer "4.20" would be displayed as 4.200."""
    answers = [{"answer": "4.20", "n": 1}, {"answer": "leo b", "n": 2}, {"answer": None, "n": None}]
    tables.write_table(answers, "t", "nano")
    assert tables.read_table("t", "nano") == answers


def test_missing_table_raises_with_the_command_that_writes_it():
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=smoke"):
        tables.read_table("t", "smoke")


def test_table_without_rows_raises():
    with pytest.raises(ValueError, match="no rows"):
        tables.write_table([], "t", "smoke")


def test_scores_become_one_row_per_model():
    rows = [
        {**SCORE, "value": 0.6333, "low": 0.6012, "high": 0.6649},
        {**SCORE, "metric": "anls", "value": 0.7, "low": 0.6, "high": 0.8},
        {**SCORE, "group": "receipt", "value": 0.1, "low": 0.0, "high": 0.2},
        {**SCORE, "model": "nano-base", "value": 0.125, "low": 0.1, "high": 0.15},
        {**SCORE, "split": "nano-large", "value": 1.0, "low": 1.0, "high": 1.0},
    ]

    assert tables.pivot_scores(rows) == [
        {"model": "Monkey", "fine": "63.3 (60.1–66.5)", "large": "100.0 (100.0–100.0)"},
        {"model": "nano-base", "fine": "12.5 (10.0–15.0)", "large": None},
    ]
    assert tables.pivot_scores(rows[:1]) == [{"model": "Monkey", "fine": "63.3 (60.1–66.5)"}]
    assert tables.pivot_scores([{"a": 1}]) == [{"a": 1}]


def test_printed_table_is_cut_nowhere():
    row = {"benchmark": "scienceqa-without-hint", "metric": "released_relaxed_accuracy", "questions": 300}
    row |= {f"model {n}": "50.0 (40.0–60.0)" for n in range(6)}

    # A file or a pipe gets full lines; a terminal breaks words.
    for is_terminal in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, width=80, force_terminal=is_terminal, no_color=True)
        tables.print_table([row], "scores", console)
        text = re.sub(r"\x1b\[\d*m", "", stream.getvalue())
        assert "…" not in text
        assert ("scienceqa-without-hint" in text) != is_terminal
        assert (max(map(len, text.splitlines())) > 80) != is_terminal


def test_brackets_in_a_table_are_text():
    console = Console(file=io.StringIO(), width=80)
    tables.print_table([{"model": "own[bold]", "remedy": "pip install x[train]"}], "scores of [/a]", console)
    for text in ("own[bold]", "x[train]", "scores of [/a]"):
        assert text in console.file.getvalue()


def test_fields_of_any_length_are_read(tmp_path):
    (tmp_path / "t.csv").write_text(f"a,b\n1,{'x' * 200_000}\n")
    assert tables.read_csv(tmp_path / "t.csv") == [{"a": 1, "b": "x" * 200_000}]


def test_file_of_one_long_line_is_not_replaced():
    path = tables.table_path("t", "nano")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x" * 200_000)
    with pytest.raises(FileExistsError, match="is in the way"):
        tables.write_table([{"a": 1}], "t", "nano")
