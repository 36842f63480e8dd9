"""`monkeylib models`, `profiles`, `prompts` and `experts`."""

import json
from pathlib import Path

import pytest

from monkeylib import resources
from monkeylib.captions import registry
from monkeylib.checkpoints import hub
from monkeylib.profiles import profile_names
from monkeylib.prompts import PROMPTS


def test_shipped_models_are_listed_with_names_that_can_be_given(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, _ = call("models", "--json")
    rows = [json.loads(line) for line in output.splitlines()]
    assert code == 0 and [row["name"] for row in rows] == ["nano-base", "nano-monkey"]
    assert [row["tiles"] for row in rows] == ["none", "2x2"]

    for row in rows:
        assert hub.fetch_model(row["name"]) == resources.models() / row["name"]
        assert Path(row["card"]).is_file()
        assert row["name"] in call("models")[1]


def test_folder_of_the_same_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano-base").mkdir()
    assert hub.fetch_model("nano-base") == Path("nano-base")
    assert hub.fetch_model(tmp_path / "nano-monkey") == tmp_path / "nano-monkey"
    assert hub.fetch_model("./nano-monkey/x") == Path("nano-monkey/x")


@pytest.mark.parametrize(
    ("command", "names", "text"),
    [
        ("profiles", profile_names, "2x2"),
        ("prompts", lambda: list(PROMPTS), "Generate the detailed caption in English:"),
        ("experts", registry.expert_names, "composers: "),
    ],
)
def test_everything_with_a_name_is_listed(call, command, names, text):
    # Named when the test runs: other tests of the same process may register experts of their own.
    names = names()
    code, output, _ = call(command)
    assert code == 0 and text in output and all(name in output for name in names)

    lines = call(command, "--json")[1].splitlines()
    assert [json.loads(line)["name"] for line in lines] == names


def test_missing_weights_are_listed_with_what_fetches_them(call, monkeypatch):
    monkeypatch.setattr(registry, "missing_assets", lambda name: ["a", "b"])
    rows = [json.loads(line) for line in call("experts", "--json")[1].splitlines()]
    states = {row["weights"] for row in rows}
    assert {"from a hub", "downloaded when needed"} < states
    assert "the released file, in $MONKEYLIB_WEIGHTS" in states and "none: an endpoint answers" in states
    assert "is fetched now by `monkeylib assets fetch a b`" in call("experts")[1]


def test_each_prompt_says_what_it_is_for(call):
    rows = [json.loads(line) for line in call("prompts", "--json")[1].splitlines()]
    assert all(row["purpose"] for row in rows)
