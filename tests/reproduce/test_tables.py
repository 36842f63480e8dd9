import re

import pytest

from monkeylib.reproduce import tables
from monkeylib.tables import write_table

PAGE = "Results\n\n<!-- table:main -->\nold\n<!-- /table -->\n\n<!-- table:other -->\n<!-- /table -->\nend\n"


def test_markdown_table_has_the_named_columns_with_numbers_to_the_right():
    rows = [{"model": "a|b", "score": 0.6333333, "n": 600}, {"model": "c", "score": 12.25, "n": None}]

    assert tables.markdown_table(rows, {"model": "Model", "score": "Score", "n": "n"}) == (
        "| Model | Score | n |\n| --- | ---: | ---: |\n| a\\|b | 0.633 | 600 |\n| c | 12.2 |  |\n"
    )


def test_only_marked_blocks_are_filled():
    filled = tables.fill_blocks(PAGE, lambda name: f"new {name}\n")

    assert filled == PAGE.replace("old\n", "new main\n").replace("other -->\n", "other -->\nnew other\n")
    assert tables.fill_blocks(filled, lambda name: f"new {name}\n") == filled


@pytest.mark.parametrize(
    "page", ["<!-- table:main -->\n", "<!-- /table -->\n", "x <!-- table:a b -->\n<!-- /table -->"]
)
def test_mark_without_partner_raises(page):
    with pytest.raises(ValueError, match="no partner"):
        tables.fill_blocks(page, str)


def test_page_is_filled_from_the_result_tables(monkeypatch, tmp_path):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    write_table([{"a": 1}], "main", "nano")
    page = tmp_path / "README.md"
    page.write_text("<!-- table:main -->\n<!-- /table -->\n")

    tables.update_page(page)

    assert page.read_text() == "<!-- table:main -->\n| a |\n| ---: |\n| 1 |\n<!-- /table -->\n"


SENTENCE = "It scores <!-- value:main score +.1f x100 model=a split=fine -->old<!-- /value --> points."


def test_numbers_in_sentences_are_filled():
    rows = [
        {"model": "a", "split": split, "score": score} for split, score in (("fine", 0.125), ("large", 0.5))
    ]
    filled = tables.fill_values(SENTENCE, lambda name: rows)
    assert filled == SENTENCE.replace("old", "+12.5")
    assert tables.fill_values(filled, lambda name: rows) == filled
    assert tables.fill_values("no number", lambda name: rows) == "no number"

    for wrong in ("split=other", "model=a"):
        page = re.sub(" model=.*? -->", f" {wrong} -->", SENTENCE)
        with pytest.raises(ValueError, match="names one number of one row"):
            tables.fill_values(page, lambda name: rows)
    with pytest.raises(ValueError, match="column of numbers"):
        tables.fill_values(SENTENCE.replace("score ", "split "), lambda name: rows)


@pytest.mark.parametrize("page", ["<!-- value:main score -->1<!-- /value -->", "1<!-- /value -->"])
def test_value_that_is_marked_wrongly_raises(page):
    with pytest.raises(ValueError, match="A number is marked as"):
        tables.fill_values(page, lambda name: [])
