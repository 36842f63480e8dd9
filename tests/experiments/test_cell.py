import json

import numpy as np
import pytest

from monkeylib.data.synthetic import label_levels
from monkeylib.evaluation.likelihood import AnswerScores
from monkeylib.experiments import cell as cells
from monkeylib.experiments.cell import Cell, run_cell, scored_steps
from monkeylib.experiments.scoring import PERMUTED, step_file, write_scores
from monkeylib.profiles import build, load_profile
from tests.support.smoke_experiments import smallest_profile


@pytest.fixture(scope="module")
def profile():
    return smallest_profile()


def test_cell_is_trained_once_and_scored_from_step_0(profile, outputs, monkeypatch):
    cell = Cell("per_tile", "fixed", 1)
    result = run_cell(profile, cell)

    assert result["cell"] == {"variant": "per_tile", "rendering": "fixed", "seed": 1}
    assert result["fingerprint"] == cell.fingerprint(profile)
    assert {"machine", "date", "torch", "commit"} <= result.keys()

    counts = profile.ablation.counts
    expected = {
        (step, condition, split, metric)
        for step, condition in ((0, "as trained"), (1, "as trained"), (1, "permuted"))
        for split in counts
        for metric in ("log-likelihood", "exact match")
    }
    rows = {(row["step"], row["condition"], row["split"], row["metric"]): row for row in result["rows"]}
    assert set(rows) == expected and len(result["rows"]) == len(expected)
    assert all(row["n"] == counts[split] for (_, _, split, _), row in rows.items())
    assert rows[0, "as trained", "fine", "log-likelihood"] != rows[1, "as trained", "fine", "log-likelihood"]

    costs = result["costs"]
    assert costs["visual_tokens"] == profile.visual_tokens
    assert costs["trained_parameters"] > 0 and costs["flops"] > 0 and costs["step_bytes"] != 0

    # Read from disk from here on.
    monkeypatch.setattr(build, "build_model", lambda *_: pytest.fail("trained twice"))
    assert run_cell(profile, cell) == result
    assert json.loads((cells.folder_of(profile) / cell.name / "result.json").read_text()) == result


def test_seeds_train_on_other_images(profile, outputs):
    first, second = (run_cell(profile, Cell("no_adapters", "ordinary", seed)) for seed in (0, 1))
    assert first["fingerprint"] != second["fingerprint"]

    def values(result, step):
        return [row["value"] for row in result["rows"] if row["step"] == step]

    assert values(first, 1) != values(second, 1)


@pytest.mark.parametrize("lost", ["permuted.npz", "step-0001.npz"])
def test_lost_scores_are_made_again_and_are_the_same(lost, profile, outputs):
    cell = Cell("per_tile", "ordinary", 0)
    result = run_cell(profile, cell)

    folder = cells.folder_of(profile) / cell.name
    (folder / "result.json").unlink()
    (folder / "scores" / cell.fingerprint(profile) / lost).unlink()
    assert run_cell(profile, cell)["rows"] == result["rows"]


@pytest.mark.parametrize(
    "changed",
    [
        Cell("shared", "ordinary", 0),
        Cell("per_tile", "dealt", 0),
        Cell("per_tile", "ordinary", 1),
    ],
)
def test_fingerprint_names_what_decides(profile, changed):
    assert changed.fingerprint(profile) != Cell("per_tile", "ordinary", 0).fingerprint(profile)


def test_fingerprint_follows_training_and_questions_but_not_names(profile):
    cell = Cell("per_tile", "ordinary", 0)
    fingerprint = cell.fingerprint(profile)

    longer = profile.model_copy(update={"ablation": profile.ablation.model_copy(update={"steps": 9})})
    more = profile.model_copy(
        update={"ablation": profile.ablation.model_copy(update={"counts": {"fine": 9}})}
    )
    assert fingerprint not in (cell.fingerprint(longer), cell.fingerprint(more))
    assert cell.fingerprint(profile.model_copy(update={"description": "another"})) == fingerprint


def test_fingerprint_follows_the_descriptions_that_labels_come_from(profile, monkeypatch, tmp_path):
    described, questions = Cell("labels_pipeline", "ordinary", 0), Cell("per_tile", "ordinary", 0)
    before = described.fingerprint(profile), questions.fingerprint(profile)

    file = tmp_path / "records.jsonl"
    file.write_bytes(label_levels.pipeline_file().read_bytes() + b"\n")
    monkeypatch.setattr(label_levels, "pipeline_file", lambda: file)

    assert described.fingerprint(profile) != before[0]
    assert questions.fingerprint(profile) == before[1]


def test_result_of_another_fingerprint_is_none(tmp_path):
    (tmp_path / "result.json").write_text('{"fingerprint": "abc", "rows": []}')
    assert cells.read_result(tmp_path, "abc") == {"fingerprint": "abc", "rows": []}
    assert cells.read_result(tmp_path, "def") is None
    # A file that was cut off, as no kill of ours leaves it.
    (tmp_path / "result.json").write_text('{"fingerprint": "abc"')
    assert cells.read_result(tmp_path, "abc") is None


def test_first_steps_end_before_the_last_one(profile, outputs):
    with pytest.raises(ValueError, match=r"scored at the steps \[0, 1\]: give one before the last"):
        cells.run_first_steps(profile, Cell("per_tile", "ordinary", 0), 1)


def test_first_steps_of_a_finished_cell_leave_out_what_was_scored_at_its_end(outputs):
    profile, cell = smallest_profile(), Cell("per_tile", "ordinary", 0)
    folder = cells.scores_folder_of(profile, cell)
    scores = {"fine": AnswerScores(np.zeros(2), np.ones(2, bool))}
    for path in (step_file(folder, 0), step_file(folder, 1), folder / PERMUTED):
        write_scores(scores, path)

    rows = cells.run_first_steps(profile, cell, 0)
    assert {(row["step"], row["condition"]) for row in rows} == {(0, "as trained")}


def test_first_steps_whose_scores_are_gone_are_trained_anew(outputs):
    profile = smallest_profile()
    ablation = profile.ablation.model_copy(
        update={"steps": 3, "curve_steps": [1, 2], "curve_counts": profile.ablation.counts}
    )
    profile, cell = profile.model_copy(update={"ablation": ablation}), Cell("no_adapters", "ordinary", 0)
    rows = cells.run_first_steps(profile, cell, 2)

    (cells.scores_folder_of(profile, cell) / "step-0001.npz").unlink()
    assert cells.run_first_steps(profile, cell, 2) == rows
    assert {row["step"] for row in rows} == {0, 1, 2}


def test_steps_of_a_longer_profile_are_left_out_of_a_shorter_curve():
    nano = load_profile("nano")
    assert scored_steps(nano) == [0, 10, 30, 60, 120]
    short = nano.model_copy(update={"ablation": nano.ablation.model_copy(update={"steps": 30})})
    assert scored_steps(short) == [0, 10, 30]
