"""Both ways of the benchmark of matching judge alike, and its table states their ratio."""

import csv
import importlib.util

import pytest

from monkeylib import paths

FILE = paths.REPOSITORY / "benchmarks" / "matching.py"
spec = importlib.util.spec_from_file_location("matching", FILE)
matching = importlib.util.module_from_spec(spec)
spec.loader.exec_module(matching)


def test_matching_gives_the_same_scores_both_ways_and_asks_less_often(tmp_path):
    size = (160, 120)
    judge = matching.matcher("small")
    asked = matching.pairs(tmp_path, 2, 6, size)
    assert len(asked) == 12 and len({text for *_, text in asked}) == 3
    seen = {"pictures": 0, "texts": 0}
    for name in seen:
        encode = getattr(judge.encoders, name)

        def counted(inputs, name=name, encode=encode):
            seen[name] += len(inputs)
            return encode(inputs)

        setattr(judge.encoders, name, counted)
    ours = matching.ours(judge, asked)
    assert seen == {"pictures": 12, "texts": 3}
    assert ours == pytest.approx(matching.released(judge, asked), abs=1e-5)
    assert seen == {"pictures": 24, "texts": 15}
    assert len({round(score, 4) for score in ours}) > 6


def test_the_table_of_matching_states_the_ratio(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(matching, "RESULTS", tmp_path)
    options = [
        "--sizes",
        "small",
        "--pictures",
        "1",
        "--regions",
        "4",
        "--pixels",
        "64",
        "48",
        "--repeats",
        "1",
    ]
    monkeypatch.setattr("sys.argv", ["matching.py", *options])
    matching.main()
    (row,) = csv.DictReader((tmp_path / "matching.csv").read_text().splitlines())
    ours, released = (float(row[f"CPU seconds {way}"]) for way in ("ours", "released"))
    assert row["pairs"] == "4" and float(row["largest difference of a score"]) < 1e-5
    assert float(row["ratio"]) == pytest.approx(released / ours, rel=0.2)
    assert "ratio: " in capsys.readouterr().out
