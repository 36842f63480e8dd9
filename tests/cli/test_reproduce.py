"""`monkeylib reproduce`."""

import pytest

from monkeylib import resources
from monkeylib.reproduce import publishing, series


def test_failing_notebook_exits_with_code_1(call, monkeypatch):
    def fail(*arguments, **options):
        raise series.NotebookFailed("Notebook 05_finetuning stopped in cell [3] with ValueError: no")

    monkeypatch.setattr(series, "run_series", fail)
    code, output, errors = call("reproduce", "--profile", "smoke")

    assert (code, output) == (1, "")
    assert errors == "monkeylib: Notebook 05_finetuning stopped in cell [3] with ValueError: no\n"


def test_file_of_a_profile_is_refused_before_anything_runs(call, monkeypatch, tmp_path):
    monkeypatch.setattr(series, "run_series", lambda *_, **__: pytest.fail("it ran before it refused"))
    file = tmp_path / "mine.yaml"
    file.write_text("extends: smoke\n")
    code, _, errors = call("reproduce", "--profile", file)
    assert code == 2 and f"got the file {file}" in errors
    assert f"`monkeylib train --profile {file}`" in errors and len(errors.splitlines()) == 1


def test_only_a_clone_that_writes_into_itself_is_published(call, monkeypatch, tmp_path):
    monkeypatch.setattr(series, "run_series", lambda *_, **__: pytest.fail("it ran before it refused"))
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    code, _, errors = call("reproduce", "--publish")
    assert code == 2 and "unset MONKEYLIB_OUTPUTS" in errors

    monkeypatch.setattr(resources, "is_installed", lambda: True)
    code, _, errors = call("reproduce", "--publish")
    assert code == 2 and "--publish is for a clone of the repository" in errors


def test_notebooks_beside_those_that_run_are_checked_before(call, monkeypatch):
    def refuse(notebooks):
        names = [notebook.name for notebook in notebooks]
        raise ValueError(f"{len(names)} of them, {'05_finetuning' in names}")

    monkeypatch.setattr(series, "run_series", lambda *_, **__: pytest.fail("it ran before it refused"))
    monkeypatch.setattr(publishing, "require_current", refuse)
    monkeypatch.delenv("MONKEYLIB_OUTPUTS", raising=False)
    code, _, errors = call("reproduce", "--only", "05", "--publish")
    assert code == 2 and f"{len(series.SERIES) - 1} of them, False" in errors
