"""EST-VQA's metric, against the official script's values on its own kind of answers."""

import pytest

from monkeylib.evaluation.metrics import text
from monkeylib.evaluation.metrics.estvqa import estvqa_anls, simplify


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("禾不锈钢", "禾不銹鋼", 1.0),  # traditional and simplified
        ("禾不銹鋼", "禾不锈钢", 1.0),
        ("PLEASE", "please", 1.0),
        ("pleas", "please", 1 - 1 / 6),
        ("ab", "ax", 0.0),  # a distance of exactly one half
        ("abc", "axc", 1 - 1 / 3),
        (" please", "please", 1 - 1 / 7),  # outer blanks count
        ("", "please", 0.0),
    ],
)
def test_scores_of_the_official_script(prediction, answer, score):
    assert estvqa_anls(prediction, [answer]) == pytest.approx(score)


def test_it_differs_from_anls_where_the_scripts_differ():
    assert text.anls("ab", ["ax"]) == 0.5 and estvqa_anls("ab", ["ax"]) == 0
    assert text.anls("禾不锈钢", ["禾不銹鋼"]) == 0.5


def test_ascii_needs_no_library(monkeypatch):
    monkeypatch.setattr("monkeylib.evaluation.metrics.estvqa._converter", None)
    assert simplify("Coca-Cola") == "Coca-Cola"


def test_missing_library_is_one_sentence(monkeypatch):
    import sys

    from monkeylib.evaluation.metrics import estvqa

    estvqa._converter.cache_clear()
    monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(ModuleNotFoundError, match="OpenCC is missing: pip install 'monkeylib.data.'"):
        simplify("銹")
