import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monkeylib import tables

NUMBERS = st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.6g}"))
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1).filter(
    lambda text: tables._parsed(text) == text
)
SCORE = {"model": "Monkey", "split": "nano-fine", "group": "all", "metric": "exact_match", "n": 600}


@pytest.fixture(autouse=True)
def _outputs(monkeypatch, tmp_path):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.fixed_dictionaries({"a": NUMBERS | st.none(), "b": TEXTS}), min_size=1, max_size=4))
def test_a_table_reads_back_as_it_was_written(rows):
    tables.write(rows, "t", "nano")
    back = tables.read("t", "nano")
    assert back == rows
    assert [type(row["a"]) for row in back] == [type(row["a"]) for row in rows]


def test_columns_come_in_the_order_of_their_first_mention():
    path = tables.write([{"model": "x", "fine": 1 / 3}, {"model": "y", "large": 2.0}], "t", "smoke")
    assert path.read_text() == "model,fine,large\nx,0.333333,\ny,,2.0\n"
    assert tables.frame("t", "smoke").shape == (2, 3)


def test_what_looks_like_a_number_and_is_a_name_stays_text():
    tables.write([{"a": "007", "b": "1.", "c": "1e"}], "t", "nano")
    assert tables.read("t", "nano") == [{"a": "007", "b": "1.", "c": "1e"}]


def test_answers_that_look_like_numbers_stay_as_they_were_said():
    """Read as a number, "4.20" would be shown as 4.200."""
    answers = [{"answer": "4.20", "n": 1}, {"answer": "leo b", "n": 2}, {"answer": None, "n": None}]
    tables.write(answers, "t", "nano")
    assert tables.read("t", "nano") == answers


def test_a_missing_table_is_said_with_the_command_that_makes_it():
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=smoke"):
        tables.read("t", "smoke")
    with pytest.raises(ValueError, match="no rows"):
        tables.write([], "t", "smoke")


def test_markdown_has_the_named_columns_with_numbers_to_the_right():
    rows = [{"model": "a|b", "score": 0.6333333, "n": 600}, {"model": "c", "score": 12.25, "n": None}]
    assert tables.markdown(rows, {"model": "Model", "score": "Score", "n": "n"}) == (
        "| Model | Score | n |\n| --- | ---: | ---: |\n| a\\|b | 0.633 | 600 |\n| c | 12.2 |  |\n"
    )


def test_scores_become_one_line_per_model():
    rows = [
        {**SCORE, "value": 0.6333, "low": 0.6012, "high": 0.6649},
        {**SCORE, "metric": "anls", "value": 0.7, "low": 0.6, "high": 0.8},
        {**SCORE, "group": "receipt", "value": 0.1, "low": 0.0, "high": 0.2},
        {**SCORE, "model": "nano-base", "value": 0.125, "low": 0.1, "high": 0.15},
        {**SCORE, "split": "nano-large", "value": 1.0, "low": 1.0, "high": 1.0},
    ]
    assert tables.presented(rows) == [
        {"model": "Monkey", "fine": "63.3 (60.1–66.5)", "large": "100.0 (100.0–100.0)"},
        {"model": "nano-base", "fine": "12.5 (10.0–15.0)", "large": None},
    ]
    assert tables.presented(rows[:1]) == [{"model": "Monkey", "fine": "63.3 (60.1–66.5)"}]
    assert tables.presented(rows[:1], {"Monkey": "ours"})[0]["model"] == "ours"
    assert tables.presented([{"a": 1}]) == [{"a": 1}]


PAGE = "Results\n\n<!-- table:main -->\nold\n<!-- /table -->\n\n<!-- table:other -->\n<!-- /table -->\nend\n"


def test_marked_blocks_are_filled_and_the_rest_is_left_alone():
    filled = tables.fill(PAGE, lambda name: f"new {name}\n")
    assert filled == PAGE.replace("old\n", "new main\n").replace("other -->\n", "other -->\nnew other\n")
    assert tables.fill(filled, lambda name: f"new {name}\n") == filled


@pytest.mark.parametrize(
    "page", ["<!-- table:main -->\n", "<!-- /table -->\n", "x <!-- table:a b -->\n<!-- /table -->"]
)
def test_a_mark_without_partner_is_refused(page):
    with pytest.raises(ValueError, match="no partner"):
        tables.fill(page, str)


def test_a_page_is_written_from_the_tables(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- table:main -->\n<!-- /table -->\n")
    tables.write([{"a": 1}], "main", "nano")
    tables.update_page(page)
    assert page.read_text() == "<!-- table:main -->\n| a |\n| ---: |\n| 1 |\n<!-- /table -->\n"
