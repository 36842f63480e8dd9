import json

import pytest
from pydantic import BaseModel, ConfigDict

from monkeylib import settings_files
from monkeylib.settings_files import read_json, read_yaml, validate


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_aliases_merges_and_dates_are_read(tmp_path):
    path = write(
        tmp_path / "a.yaml",
        "\ufeffbase: &base {lr: 1, steps: 2}\n"
        "run:\n  <<: *base\n  steps: 3\n"
        "both:\n  <<: [{a: 1}, {a: 2, b: 2}]\n"
        "again: *base\nday: 2024-01-01\nwords: !!str 5\nnothing:\nflags: [true, 1.5, 0x10]\n",
    )
    settings = read_yaml(path)

    assert settings.values == {
        "base": {"lr": 1, "steps": 2},
        "run": {"lr": 1, "steps": 3},
        "both": {"a": 1, "b": 2},
        "again": {"lr": 1, "steps": 2},
        "day": "2024-01-01",
        "words": "5",
        "nothing": None,
        "flags": [True, 1.5, 16],
    }
    assert settings.place(("run", "steps")).endswith("a.yaml, line 4")
    assert settings.place(("run", "gone")).endswith("a.yaml, line 2")
    assert settings.place(("gone",)).endswith("a.yaml")


def test_python_loader_reads_the_same_where_the_one_in_c_is_missing(tmp_path, monkeypatch):
    path = write(tmp_path / "a.yaml", "a: [1, {b: x}]\n")
    expected = read_yaml(path)
    monkeypatch.setattr(settings_files, "_LOADER", settings_files.yaml.SafeLoader)
    assert read_yaml(path) == expected

    write(path, "a: 1\n\tb: 2\n")
    with pytest.raises(ValueError, match="a.yaml, line 2, is not YAML: found a tab"):
        read_yaml(path)


def test_settings_are_merged_section_by_section_and_keep_their_lines(tmp_path):
    base = read_yaml(write(tmp_path / "base.yaml", "a: {x: 1, y: 2}\nb: [1, 2, 3]\nc: {z: 1}\n"))
    own = read_yaml(write(tmp_path / "own.yaml", "\n\na:\n  y: 3\nb: [4]\nc: 5\n"))
    merged = own.merged_over(base)

    assert merged.values == {"a": {"x": 1, "y": 3}, "b": [4], "c": 5}
    assert merged.place(("a", "x")).endswith("base.yaml, line 1")
    assert merged.place(("a", "y")).endswith("own.yaml, line 4")
    # What the base had at these places is gone: the line is that of the value around it.
    assert merged.place(("b", 2)).endswith("own.yaml, line 5")
    assert merged.place(("c", "z")).endswith("own.yaml, line 6")


class Wide(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int
    height: int


class Named(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model_type: str
    config: dict[str, int]


class Page(BaseModel):
    model_config = ConfigDict(extra="forbid")
    shape: Wide | Named
    sides: list[Wide] = []
    path: str | list[str] = ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        # The kind that fits best is meant, and its name does not appear.
        ("shape: {width: a, height: 1}\n", "line 1, shape.width: Input should be a valid integer"),
        (
            "shape: {model_type: a, confg: {}}\n",
            "line 1, shape.confg: there is no such field; did you mean config",
        ),
        (
            "shape: {width: 1, height: 1}\nsides:\n- {width: 1, height: 1}\n- width: 1\n  hight: 1\n",
            "line 5, sides.1.hight: there is no such field; did you mean height",
        ),
        (
            "shape: {width: 1, height: 1}\nqqq: 1\n",
            "qqq: there is no such field; choose one of shape, sides, path",
        ),
        ("shape: {width: 1, height: 1}\npath: {}\n", "line 2, path: Input should be a valid"),
    ],
)
def test_problem_is_told_with_line_and_field(text, sentence, tmp_path):
    settings = read_yaml(write(tmp_path / "page.yaml", text))
    with pytest.raises(ValueError, match=sentence) as raised:
        validate(Page, settings)
    assert "pydantic" not in str(raised.value) and "Wide" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no JSON"),
        ("[]", "must hold a JSON object"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": [-Infinity]}', "-Infinity is no number"),
        ('{"a": 1e999}', "1e999 is too large"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": ' + "9" * 10_000 + "}", "is no JSON"),
    ],
)
def test_broken_json_raises_with_the_file(text, sentence, tmp_path):
    path = write(tmp_path / "config.json", text)
    with pytest.raises(ValueError, match=sentence) as raised:
        read_json(path)
    assert str(path) in str(raised.value) and len(str(raised.value)) < 400


def test_json_of_a_sparse_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ValueError, match="1,000,000,000,000 bytes, more than"):
        read_json(tmp_path / "config.json")

    write(tmp_path / "config.json", json.dumps({"a": {"b": [1.5, None]}}))
    assert read_json(tmp_path / "config.json") == {"a": {"b": [1.5, None]}}
