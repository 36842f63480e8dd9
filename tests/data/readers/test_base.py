"""Paths with braces and wildcards, and numbers as texts."""

import math

import pytest

from monkeylib.data.json_rows import number_as_text
from monkeylib.data.readers.base import expand_pattern, find_files, is_pattern, split_list
from tests.support import record_files as files

PATTERNS = {
    "s-{00..02}.tar": ["s-00.tar", "s-01.tar", "s-02.tar"],
    "s-{9..10}.tar": ["s-9.tar", "s-10.tar"],
    "{a,b}-{0..1}.tar": ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"],
    "plain.tar": ["plain.tar"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_braces_name_files_whether_or_not_they_exist(folder, pattern):
    assert [path.relative_to(folder).as_posix() for path in expand_pattern(pattern, folder)] == PATTERNS[
        pattern
    ]
    assert is_pattern(pattern) == (pattern != "plain.tar")


def test_wildcards_stand_for_files_that_exist_in_the_order_of_their_names(folder):
    (folder / "sub").mkdir()
    for name in ("b.jsonl", "a.jsonl", "c.json", "sub/d.jsonl"):
        (folder / name).write_text("")

    def names(pattern):
        return [path.relative_to(folder).as_posix() for path in expand_pattern(pattern, folder)]

    assert names("*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names("**/*.jsonl") == ["a.jsonl", "b.jsonl", "sub/d.jsonl"]
    assert names("{sub/*,?}.jsonl") == ["sub/d.jsonl", "a.jsonl", "b.jsonl"]
    assert names("*.tar") == ["*.tar"]


def test_file_whose_name_looks_like_a_pattern_is_read(folder):
    (folder / "rows[1].json").write_text("[]")
    assert find_files(files.entry("llava", "rows[1].json"), folder) == [folder / "rows[1].json"]


def test_numbers_become_texts_and_nothing_else_does():
    assert [number_as_text(value) for value in (3, -1, 1.86, 1e30)] == ["3", "-1", "1.86", "1e+30"]
    for value in (True, None, "3", [3], math.inf):
        assert number_as_text(value) is value or number_as_text(value) == value


LISTS = {
    "['a', 'b']": ("a", "b"),
    '["a", "b"]': ("a", "b"),
    # As NumPy writes them: without commas, over several lines.
    "['a' 'b']": ("a", "b"),
    "['1.86'\n 'it\\'s 2']": ("1.86", "it's 2"),
    "['a', 2]": ("a", "2"),
    "[]": (),
    # No lists of answers.
    "[10, 20, 30, 40]": ("[10, 20, 30, 40]",),
    "[['a'], ['b']]": ("[['a'], ['b']]",),
    "['a', None]": ("['a', None]",),
    "[sic]": ("[sic]",),
    "['": ("['",),
}


@pytest.mark.parametrize("text", LISTS)
def test_lists_that_a_table_holds_as_texts_are_split(text):
    assert split_list((text,)) == LISTS[text]
