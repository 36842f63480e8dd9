"""Nested fields by their dotted names, and what differs between two sets."""

from monkeylib.fields import describe_changes, differences, flatten


def test_nested_fields_have_dotted_names():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2], "e": {}}


def test_differences_are_those_of_the_values_in_a_file():
    old = {"a": {"b": [1, 2], "gone": 3}, "same": None}
    new = {"a": {"b": (1, 2), "later": True}, "same": None}
    assert differences(old, new) == {"a.later": ("not set", True), "a.gone": (3, "not set")}
    assert differences(old, new, {"a": {"later": True, "gone": 3}}) == {}


def test_changes_are_listed_in_a_line():
    changes = {"a.b": (1, 2.5), "c": ("d" * 64, "e" * 64), "f": ("x" * 80, None)}
    assert describe_changes(changes) == (
        f"a.b 1 -> 2.5, c has another content ({'d' * 12} -> {'e' * 12}), f {'x' * 57}... -> null"
    )


def test_fields_that_come_or_go_together_are_told_as_one():
    old = {"models": {"sam": {"version": 1, "settings": {"count": 2, "points": 3}}, "ocr": {"score": 0.5}}}
    new = {"models": {"ocr": {"score": 0.6}}}
    gone = "models.ocr.score 0.5 -> 0.6, models.sam.* set -> not set"
    assert describe_changes(differences(old, new)) == gone
    assert "models.sam.* not set -> set" in describe_changes(differences(new, old))
    # What is partly there is told field by field.
    partly = {"models": {"sam": {"version": 2}, "ocr": {"score": 0.5}}}
    assert "models.sam.settings.count 2 -> not set" in describe_changes(differences(old, partly))


def test_many_changes_are_counted():
    changes = {f"a{number}": (0, 1) for number in range(20)}
    assert describe_changes(changes).endswith("a11 0 -> 1, and 8 more")
