"""`monkeylib ablations`."""

from monkeylib import resources
from monkeylib.experiments import grid
from monkeylib.experiments.cell import Cell


def test_dry_run_lists_runs_and_runs_nothing(call, monkeypatch, tmp_path):
    monkeypatch.setattr(grid, "run_grid", lambda *_, **__: 1 / 0)
    code, output, _ = call(
        "ablations", "--profile", "smoke", "--only", "per_tile", "--only", "one_view", "--dry-run"
    )
    assert code == 0
    assert "18 runs of profile smoke" in output
    assert "per_tile" in output and "in all" in output and "GPU hours" in output
    assert "left" not in output and "finished" not in output


def test_dry_run_says_what_is_left(call, monkeypatch):
    monkeypatch.setattr(grid, "run_grid", lambda *_, **__: 1 / 0)
    left = [Cell("per_tile", "ordinary", 1)]
    monkeypatch.setattr(grid, "cells_to_train", lambda *_, committed: left if committed else 1 / 0)
    code, output, _ = call("ablations", "--profile", "smoke", "--rendering", "dealt", "--dry-run")
    assert code == 0
    assert "left: 1 of 20 runs, " in output

    left.clear()
    _, output, _ = call("ablations", "--profile", "smoke", "--rendering", "dealt", "--dry-run")
    assert "none of them is left" in output


def test_a_grid_that_is_finished_names_a_run_that_can_be_trained_here(call, monkeypatch):
    here = Cell("per_tile", "dealt", 0)
    monkeypatch.setattr(
        grid, "cells_to_train", lambda _, cells, committed: [cell for cell in cells if cell != here]
    )
    monkeypatch.setattr(grid, "run_grid", lambda profile, cells, *_, **__: grid.GridRun(skipped=list(cells)))
    monkeypatch.setattr(grid, "beside_committed", lambda *_: [])
    code, _, errors = call("ablations", "--profile", "smoke", "--rendering", "dealt", "--seed", "0")
    assert code == 0
    assert "4 of 4 runs were finished already, here or in the committed table" in errors
    assert "name it: --only no_adapters --rendering dealt --seed 0" in errors

    # Naming what is finished here would not train it.
    code, _, errors = call(
        "ablations", "--profile", "smoke", "--only", here.variant, "--rendering", "dealt", "--seed", "0"
    )
    assert code == 0
    assert "1 of 1 runs were finished already, here" in errors and "name it" not in errors


def test_named_runs_are_repeated_although_they_are_committed(call, monkeypatch):
    asked = []

    def run_grid(profile, cells, workers, committed):
        asked.append((cells, workers, committed))
        return grid.GridRun(skipped=list(cells))

    monkeypatch.setattr(grid, "run_grid", run_grid)
    monkeypatch.setattr(grid, "beside_committed", lambda *_: [{"variant": "shared", "value": 1.0}])

    call("ablations", "--profile", "smoke", "--only", "shared", "--rendering", "dealt", "--seed", "9")
    call("ablations", "--profile", "smoke", "--seed", "0", "--rendering", "dealt", "--workers", "3")
    assert asked[0] == ([Cell("shared", "dealt", 9)], None, False)
    assert asked[1][1:] == (3, True)
    assert {cell.rendering for cell in asked[1][0]} == {"dealt"}


def test_seed_of_a_notebook_does_not_choose_the_tables_of_the_grid(call, monkeypatch):
    seeds = []
    monkeypatch.setattr(grid, "run_grid", lambda *_, **__: seeds.append(resources.seed()) or grid.GridRun())
    monkeypatch.setenv(resources.SEED, "7")
    call("ablations", "--profile", "smoke", "--only", "shared")
    assert seeds == [0]


def test_failed_runs_end_with_code_1(call, monkeypatch):
    failed = grid.GridRun(failed={Cell("shared", "dealt", 9): "no space left"})
    monkeypatch.setattr(grid, "run_grid", lambda *_, **__: failed)
    monkeypatch.setattr(grid, "beside_committed", lambda *_: [])
    code, _, errors = call("ablations", "--profile", "smoke", "--only", "shared")
    assert code == 1
    assert "1 runs failed, see log.txt" in errors


def test_unknown_variant_is_a_sentence(call):
    code, _, errors = call("ablations", "--profile", "smoke", "--only", "lora")
    assert code == 2
    assert "no variant called 'lora'" in errors


def test_own_profile_with_the_name_of_another_is_refused(call, tmp_path):
    """Its runs and tables would lie among the other one's."""
    (tmp_path / "nano.yaml").write_text("extends: smoke\n")
    code, _, errors = call(
        "ablations", "--profile", tmp_path / "nano.yaml", "--only", "one_view", "--publish"
    )
    assert code == 2 and "nano is a profile of the library, and this one has other settings" in errors
