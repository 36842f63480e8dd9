import pytest

from monkeylib import profiles, resources, tables
from monkeylib.experiments import training_seeds


@pytest.fixture()
def short(monkeypatch):
    monkeypatch.setattr(training_seeds, "COUNTS", {"fine": 6, "general": 4})
    return profiles.load_profile("smoke")


def test_each_seed_and_all_of_them_are_compared_with_the_base(short, tmp_path, monkeypatch):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    training_seeds.main(["--profile", "smoke", "--seeds", "1", "2", "1"])
    # The table of the seeds 0, 1 and 2 is another one.
    rows = tables.read_table(f"{training_seeds.TABLE}-1-2", "smoke")
    assert [(row["images"], row["split"], row["seed"]) for row in rows] == [
        (images, split, seed)
        for images in ("test", "fresh")
        for split in ("fine", "general")
        for seed in ("1", "2", "all")
    ]
    assert all(row["machine"] and row["date"] and "commit" in row for row in rows)
    for first, second, both in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert first["base"] == second["base"] == both["base"]
        assert both["monkey"] == pytest.approx((first["monkey"] + second["monkey"]) / 2)
        assert both["difference"] == pytest.approx(both["monkey"] - both["base"])
        assert both["low"] <= both["difference"] <= both["high"] and both["n"] == first["n"]

    # Finished trainings are not repeated, and those of two seeds are two models.
    first, second = (training_seeds.train(short, seed) for seed in (1, 2))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] != weights[1]
    times = (first / "model.safetensors").stat().st_mtime_ns
    assert (training_seeds.train(short, 1) / "model.safetensors").stat().st_mtime_ns == times


def test_seed_0_of_the_shipped_models_profile_is_the_shipped_model(tmp_path, monkeypatch):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(training_seeds.finetune, "run", lambda profile, folder, progress: folder)
    profile = profiles.load_profile("nano-monkey")
    assert training_seeds.train(profile, 0) == resources.shipped_monkey()

    # Another seed is another training, and so is the shorter one of notebook 05.
    assert training_seeds.train(profile, 1).is_relative_to(tmp_path)
    assert training_seeds.train(profiles.load_profile("nano"), 0).is_relative_to(tmp_path)

    # A profile of its name with other settings trains seed 0, as it does the others.
    assert training_seeds.train(profile.with_training(steps=4), 0).is_relative_to(tmp_path)


def test_the_table_of_the_shipped_model_is_not_replaced_by_that_of_nano(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    with pytest.raises(SystemExit):
        training_seeds.main(["--profile", "nano", "--seeds", "1"])
    assert "this would replace the table of nano-monkey in nano's results" in capsys.readouterr().err

    # Nor by that of another profile which has its name.
    (tmp_path / "nano-monkey.yaml").write_text("extends: smoke\n")
    with pytest.raises(SystemExit):
        training_seeds.main(["--profile", str(tmp_path / "nano-monkey.yaml")])
    assert "nano-monkey is a profile of the library, and this one has other" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["nano-monkey.yaml"]
