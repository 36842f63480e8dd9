"""The evaluation of base and Monkey in its smallest form."""

import errno
import json
import shutil

import pytest

from monkeylib import profiles, resources, tables
from monkeylib.evaluation.examples import read_predictions
from monkeylib.experiments import base_vs_monkey
from monkeylib.inference import load_model
from monkeylib.processing import MonkeyProcessor
from tests.support.smoke_experiments import COUNTS, smallest_profile


def test_evaluation_runs_and_predicts_nothing_twice(outputs, monkeypatch):
    profile = smallest_profile()
    table = base_vs_monkey.evaluate(profile)  # trains what notebook 05 would have trained
    rows = tables.read_csv(table)

    assert {(row["model"], row["split"]) for row in rows} == {
        (model, f"nano-{split}") for model in ("base", "monkey") for split in COUNTS
    }

    counts = {row["split"]: row["n"] for row in rows if row["group"] == "all"}
    assert counts == {f"nano-{split}": count for split, count in COUNTS.items()}

    # From here on, a model that generated anything would fail.
    before = table.read_bytes()
    monkeypatch.setattr("monkeylib.model.MonkeyForConditionalGeneration.generate", None)
    assert base_vs_monkey.evaluate(profile).read_bytes() == before

    runs = base_vs_monkey.predict_models(profile)
    assert runs.keys() == {(model, f"nano-{split}") for model in ("base", "monkey") for split in COUNTS}
    for (_, split), run in runs.items():
        assert (run.generated, run.cached) == (0, COUNTS[split.removeprefix("nano-")])


def file_bytes(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_seed_is_trained_and_predicted_in_folders_of_its_own(outputs, monkeypatch):
    profile = smallest_profile()
    base_vs_monkey.evaluate(profile)
    before = file_bytes(outputs)

    other = profile.with_seed(7)
    with pytest.raises(ValueError, match=r"seed is 7, .* of seed 0: call `resources.use_seed\(7\)` first"):
        base_vs_monkey.evaluate(other)
    monkeypatch.setenv(resources.SEED, "0")
    resources.use_seed(7)
    table = base_vs_monkey.evaluate(other)

    assert before.items() <= file_bytes(outputs).items()
    assert table == outputs / "data/results/smoke-seed-7/evaluation.csv"
    weights = [of_seed.runs / "monkey/model/model.safetensors" for of_seed in (profile, other)]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    assert other.runs == resources.runs("smoke", 7)
    assert all(path.is_relative_to(other.runs) for path in base_vs_monkey.prediction_files(other).values())


def test_predictions_hold_what_scores_and_images_need(outputs):
    profile = smallest_profile()
    base_vs_monkey.evaluate(profile)
    first, second = read_predictions(base_vs_monkey.prediction_files(profile)["monkey", "nano-fine"])

    assert set(first.meta) == {"family", "kind", "text_size", "height", "answer_box"}
    assert first.meta["text_size"] == "fine" and first.meta["height"] < 18
    assert len(second.meta["answer_box"]) == 4


def test_profile_that_starts_from_random_weights_gets_the_same_base_each_time(outputs):
    smoke = profiles.load_profile("smoke")
    folder = base_vs_monkey.base_checkpoint(smoke)
    weights = (folder / "model.safetensors").read_bytes()

    assert json.loads((folder / "config.json").read_text())["views"] == "global"

    # It is written once, and again where it is gone.
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert base_vs_monkey.base_checkpoint(smoke) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    shutil.rmtree(folder)
    assert (base_vs_monkey.base_checkpoint(smoke) / "model.safetensors").read_bytes() == weights


def test_untrained_base_has_the_settings_of_its_profile_and_is_whole(outputs, monkeypatch):
    smoke = profiles.load_profile("smoke")
    fewer = smoke.model_copy(update={"queries": smoke.queries - 7})
    folders = [base_vs_monkey.base_checkpoint(profile) for profile in (smoke, fewer)]
    tokens = [load_model(folder).processor.visual_tokens() for folder in folders]
    assert tokens == [smoke.queries, fewer.queries]

    # Another process has written it while this one did.
    shutil.move(folders[0], outputs / "whole")
    save = MonkeyProcessor.save_pretrained
    with monkeypatch.context() as patch:

        def save_beside_another(processor, folder):
            save(processor, folder)
            shutil.copytree(outputs / "whole", folders[0])

        patch.setattr(MonkeyProcessor, "save_pretrained", save_beside_another)
        assert base_vs_monkey.base_checkpoint(smoke) == folders[0]
    assert len(list(folders[0].parent.iterdir())) == 2

    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "no room")

    # Killed or out of room in between: nothing half-written is taken for a model.
    shutil.rmtree(folders[0])
    with monkeypatch.context() as patch:
        patch.setattr(MonkeyProcessor, "save_pretrained", fail)
        with pytest.raises(OSError, match="no room"):
            base_vs_monkey.base_checkpoint(smoke)
    assert not folders[0].exists()


def test_base_of_nano_is_the_shipped_one():
    assert base_vs_monkey.base_checkpoint(profiles.load_profile("nano")) == resources.models() / "nano-base"


def test_model_titles_state_the_pixels_that_they_see():
    assert base_vs_monkey.model_titles(profiles.load_profile("nano")) == {
        "base": "base at 96 px",
        "monkey": "Monkey at 192 px",
    }


NANO, NANO_MONKEY = (profiles.load_profile(name) for name in ("nano", "nano-monkey"))


@pytest.mark.parametrize(
    ("profile", "is_shipped"),
    [
        (NANO, True),
        (NANO_MONKEY, True),
        (NANO.with_seed(1), False),
        (NANO.with_training(steps=300), False),
        (NANO.model_copy(update={"rows": 1}), False),
        (NANO_MONKEY.with_training(steps=4), False),
        (profiles.load_profile("smoke"), False),
    ],
    ids=["nano", "nano-monkey", "seed", "steps", "grid", "steps of nano-monkey", "smoke"],
)
def test_monkey_is_the_shipped_one_where_it_is_the_profiles_and_trained_elsewhere(
    profile, is_shipped, tmp_path, monkeypatch
):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    trained = profile.runs / "monkey" / "model"  # what notebook 05 has left
    monkeypatch.setattr(base_vs_monkey.finetune, "run", lambda *arguments, **options: trained)

    models = base_vs_monkey.train_models(profile)
    assert models["monkey"] == (resources.shipped_monkey() if is_shipped else trained)


def test_monkey_is_trained_where_the_shipped_one_is_not_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "models", lambda: tmp_path)
    resources.shipped_monkey().mkdir()
    assert base_vs_monkey.shipped_monkey(NANO) is None
    (resources.shipped_monkey() / "config.json").write_text("{}")
    assert base_vs_monkey.shipped_monkey(NANO) == resources.shipped_monkey()
