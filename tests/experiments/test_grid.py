import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from monkeylib import profiles, tables
from monkeylib.experiments import grid
from monkeylib.experiments.cell import Cell, folder_of, read_result, run_cell
from monkeylib.experiments.variants import VARIANTS

SMOKE = profiles.load_profile("smoke")
PAIR = [Cell("no_adapters", "ordinary", 0), Cell("one_view", "ordinary", 0)]


def test_grid_has_every_variant_rendering_and_seed_once():
    cells = grid.list_cells()
    assert len(set(cells)) == len(cells)
    assert len(cells) == sum(len(variant.renderings) * variant.seeds for variant in VARIANTS.values())
    assert all(variant.seeds >= 3 for variant in VARIANTS.values())
    # All variants of a seed come before the next seed.
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


def test_cells_are_chosen_by_variant_rendering_and_seed():
    assert grid.list_cells(["shared"], ["dealt"], [7]) == [Cell("shared", "dealt", 7)]
    assert grid.list_cells(["one_view", "full"], seeds=[2]) == [
        Cell("one_view", "ordinary", 2),
        Cell("full", "ordinary", 2),
    ]
    with pytest.raises(ValueError, match="no variant called 'lora'"):
        grid.list_cells(["lora"])
    with pytest.raises(ValueError, match="trained in the rendering dealt: give one of ordinary"):
        grid.list_cells(["one_view"], ["dealt"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of outputs in which a pair of cells is finished, and how their run went."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONKEYLIB_OUTPUTS", str(folder))
        outcome = grid.run_grid(SMOKE, PAIR, workers=2, progress=False)
    return folder, outcome


@pytest.fixture()
def outputs(finished, outputs):
    """A copy of this folder, for everything that a test writes."""
    shutil.copytree(finished[0], outputs, dirs_exist_ok=True)
    return outputs


def test_cells_run_side_by_side_once(finished, outputs):
    assert set(finished[1].finished) == set(PAIR)
    assert not finished[1].skipped and not finished[1].failed

    again = grid.run_grid(SMOKE, PAIR, workers=2, progress=False)
    assert set(again.skipped) == set(PAIR) and not again.finished


def test_cells_to_train_are_neither_here_nor_committed(outputs, monkeypatch):
    committed, left = Cell("shared", "dealt", 7), Cell("shared", "dealt", 8)
    monkeypatch.setattr(grid, "committed_fingerprints", lambda _: {committed: committed.fingerprint(SMOKE)})
    cells = [*PAIR, committed, left]
    assert grid.cells_to_train(SMOKE, cells) == [left]
    assert grid.cells_to_train(SMOKE, cells, committed=False) == [committed, left]

    # A result with other settings is none.
    monkeypatch.setattr(grid, "committed_fingerprints", lambda _: {committed: "0123456789abcdef"})
    assert grid.cells_to_train(SMOKE, cells) == [committed, left]


def test_finished_cells_are_published(outputs):
    assert grid.publish(SMOKE) == PAIR
    rows = tables.read_table(grid.TABLE, "smoke")
    per_cell = (2 * len(SMOKE.ablation.counts) + len(SMOKE.ablation.curve_counts)) * 2
    assert len(rows) == 2 * per_cell

    # Scores by question have the means that the table states.
    arrays = grid.read_final_scores(SMOKE, PAIR[0])
    row = next(
        row
        for row in rows
        if (row["variant"], row["split"], row["metric"]) == ("no_adapters", "fine", "log-likelihood")
        and row["step"] == SMOKE.ablation.steps
    )
    assert np.isclose(arrays["end_fine_log_likelihood"].mean(), float(row["value"]), atol=5e-3)
    assert len(grid.read_questions(SMOKE, PAIR[0])) == sum(SMOKE.ablation.counts.values())

    # What is committed is not run again where nothing else is known of it.
    for cell in PAIR:
        (folder_of(SMOKE) / cell.name / "result.json").unlink()
    assert grid.run_grid(SMOKE, PAIR, progress=False).skipped == PAIR

    # Publishing other cells leaves these in the table.
    assert grid.publish(SMOKE) == []
    assert tables.read_table(grid.TABLE, "smoke") == rows


def test_failed_cell_is_told_and_the_others_go_on(outputs):
    # A folder that no run of ours has written.
    broken = Cell("no_adapters", "ordinary", 1)
    folder = folder_of(SMOKE) / broken.name / "run"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("a stranger's file")

    outcome = grid.run_grid(SMOKE, [broken, PAIR[1]], workers=1, progress=False)
    assert outcome.skipped == [PAIR[1]]
    assert "notes.txt" in outcome.failed[broken]
    assert (folder / "notes.txt").read_text() == "a stranger's file"


def test_interrupted_grid_of_an_own_profile_ends_its_processes_and_goes_on(outputs, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: smoke\ndescription: somebody's own\nablation: {steps: 3}\n")
    profile = profiles.load_profile(str(file))
    cell = Cell("one_view", "ordinary", 1)

    command = [sys.executable, "-m", "monkeylib", "ablations", "--profile", file.name]
    command += ["--only", cell.variant, "--seed", str(cell.seed)]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    log = folder_of(profile) / cell.name / "log.txt"
    while not (log.exists() and "train on" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)

    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0

    # The cell's process has ended, too: its folder is free, and its run goes on.
    run_cell(profile, cell)
    assert read_result(folder_of(profile) / cell.name, cell.fingerprint(profile)) is not None


@pytest.mark.parametrize("name", profiles.profile_names())
def test_profile_reaches_the_process_of_a_cell_as_it_is(name):
    profile = profiles.load_profile(name)
    assert type(profile).model_validate_json(profile.model_dump_json()) == profile


def test_cells_that_are_named_twice_run_once():
    assert grid.list_cells(["one_view", "one_view"], (), [0, 1, 0]) == [
        Cell("one_view", "ordinary", seed) for seed in (0, 1)
    ]


def test_plan_counts_runs_operations_and_memory():
    cells = grid.list_cells(["per_tile", "one_view"])
    smoke = {row["variant"]: row for row in grid.plan(SMOKE, cells)}
    assert smoke["per_tile"]["runs"] == 15 and smoke["one_view"]["runs"] == 3
    assert smoke["per_tile"]["visual_tokens"] == 5 * smoke["one_view"]["visual_tokens"]
    assert all(row["step_gb"] >= 0 for row in smoke.values())

    nano, paper = (
        {row["variant"]: row for row in grid.plan(profiles.load_profile(name), cells, with_memory=False)}
        for name in ("nano", "paper-896")
    )
    assert nano["per_tile"]["petaflops_per_run"] > 3 * nano["one_view"]["petaflops_per_run"]
    assert paper["per_tile"]["gpu_hours"] > 1000 * nano["per_tile"]["gpu_hours"]


def test_scores_stand_beside_committed_ones(outputs):
    trained, step = grid.collect(SMOKE, PAIR[:1]), SMOKE.ablation.steps
    assert {row["committed_runs"] for row in grid.beside_committed(SMOKE, trained, step)} == {0}

    grid.publish(SMOKE)
    rows = grid.beside_committed(SMOKE, trained, step)
    assert {row["committed_runs"] for row in rows} == {1}
    assert all(abs(row["value"] - row["committed_mean"]) < 1e-3 for row in rows)


def test_a_notebook_trains_first_steps_where_a_table_is_committed(outputs, monkeypatch):
    trained = []

    def run_first_steps(profile, cell, until, progress=False):
        trained.append((cell.name, until))
        return [{"step": until}]

    monkeypatch.setattr(grid, "run_first_steps", run_first_steps)
    monkeypatch.setattr(grid, "run_grid", lambda *_, until, **__: grid.GridRun())

    # No table of nano stands in this folder.
    nano = profiles.load_profile("nano")
    assert grid.train_here(nano, PAIR, progress=False) == [] and not trained

    tables.write_table([{"variant": "one_view"}], grid.TABLE, "nano")
    rows = grid.train_here(nano, PAIR, progress=False)
    assert trained == [(cell.name, 30) for cell in PAIR]
    assert [row["variant"] for row in rows] == [cell.variant for cell in PAIR]

    # Whole cells under another profile, here from disk.
    assert {row["step"] for row in grid.train_here(SMOKE, PAIR)} >= {SMOKE.ablation.steps}

    monkeypatch.setattr(grid, "run_grid", lambda *_, **__: grid.GridRun(failed={PAIR[0]: "no space left"}))
    with pytest.raises(RuntimeError, match="no space left"):
        grid.train_here(SMOKE, PAIR)


def test_first_steps_are_those_of_the_whole_run(outputs):
    """And the run goes on from there."""
    cell, (first, *_) = Cell("per_tile", "ordinary", 2), SMOKE.ablation.curve_steps
    outcome = grid.run_grid(SMOKE, [cell], committed=False, progress=False, until=first)
    assert outcome.finished == [cell] and not grid.collect(SMOKE, [cell])
    assert grid.run_grid(SMOKE, [cell], committed=False, progress=False, until=first).skipped == [cell]

    rows = grid.collect_first_steps(SMOKE, [cell], first)
    assert {row["step"] for row in rows} == {0, first} and {row["variant"] for row in rows} == {"per_tile"}

    whole = {
        (row["step"], row["condition"], row["split"], row["metric"]): row["value"]
        for row in run_cell(SMOKE, cell)["rows"]
    }
    for row in rows:
        assert whole[row["step"], row["condition"], row["split"], row["metric"]] == row["value"]
    assert SMOKE.ablation.steps in {step for step, *_ in whole}
