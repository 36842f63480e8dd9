"""When a run may resume another one, and what is said about what has changed."""

import pytest

from monkeylib import runs
from monkeylib.runs import resuming
from tests.support.run_folders import changed, contents, open_run, read_manifest, write_run


def test_other_fingerprint_is_refused_with_every_field(tmp_path):
    write_run(tmp_path / "run", ["model.bin"])
    before = contents(tmp_path)

    other = {"training": {"steps": 8, "lr": 0.5, "betas": [0.9, 0.95], "seed": 1}, "data": "e" * 64}
    with pytest.raises(ValueError) as error:
        open_run(tmp_path / "run", other, may_change=["training.steps"])

    assert str(error.value) == (
        f"{tmp_path / 'run'} holds a run of training with other settings (training.lr 0.1 -> 0.5, "
        "training.seed not set -> 1, data has another content (dddddddddddd -> eeeeeeeeeeee)): replace it "
        "with --fresh, or name another folder"
    )
    assert contents(tmp_path) == before


def test_fields_that_may_change_are_said_and_recorded(tmp_path):
    write_run(tmp_path)
    with open_run(tmp_path, changed(steps=9), may_change=["training.steps"]) as run:
        assert run.state == "finished", "the caller decides whether there is something left to do"
        assert run.changes == {"training.steps": (4, 9)}
        assert run.remarks == ["settings changed since the run was started: training.steps 4 -> 9"]
        run.start()
    assert read_manifest(tmp_path)["fingerprint"]["training"]["steps"] == 9
    assert not read_manifest(tmp_path)["finished"]

    # A group of fields.
    assert open_run(tmp_path, changed(lr=7), may_change=["training"], lock=False).changes


def test_field_of_a_later_version_has_its_default_in_earlier_runs(tmp_path):
    write_run(tmp_path)
    defaults = {"training": {"packing": False}}

    assert open_run(tmp_path, changed(packing=False), defaults=defaults, lock=False).changes == {}
    with pytest.raises(ValueError, match="training.packing false -> true"):
        open_run(tmp_path, changed(packing=True), defaults=defaults)


def test_manifest_records_the_code_and_says_when_it_differs(tmp_path, monkeypatch):
    write_run(tmp_path, finish=False)
    code = read_manifest(tmp_path)["code"]
    assert code == runs.code_version()
    assert {"monkeylib", "torch"} <= set(code)
    assert open_run(tmp_path, lock=False).remarks == []

    monkeypatch.setattr(resuming, "code_version", lambda: code | {"monkeylib": "99.0"})
    with open_run(tmp_path) as run:
        assert run.state == "resumed"
        assert run.remarks == [
            f"the code has changed since the run was started: monkeylib {code['monkeylib']} -> 99.0"
        ]
