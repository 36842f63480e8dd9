"""`monkeylib train`."""

import json
import math
from pathlib import Path

import pytest
import yaml
from transformers import LlavaConfig

from monkeylib import resources
from monkeylib.checkpoints import hub
from monkeylib.cli import train as train_command
from monkeylib.cli.train import _num_records
from monkeylib.raising import loading
from monkeylib.runs import RunFolder
from monkeylib.training.curves import read_curves
from tests.support import record_files as files


@pytest.fixture()
def train(call, monkeypatch):
    """Return a function that runs `monkeylib train` without training, and the calls of `finetune.run`."""
    from monkeylib.training import finetune

    calls = []

    def run(profile, folder, *_, **options):
        calls.append((profile, folder, options))
        return folder / "model"

    monkeypatch.setattr(finetune, "run", run)

    def train(*arguments):
        code, output, error = call("train", "--profile", "smoke", *arguments)
        assert code == 0, error
        return calls[-1]

    return train


def test_train_writes_into_the_folder_of_the_profile(call, train):
    profile, folder, _ = train()
    assert (profile.name, folder) == ("smoke", resources.runs("smoke") / "monkey")


def write_mixture(folder):
    """Write a mixture of one record, called mixture.yaml in every folder."""
    folder.mkdir()
    (folder / "a.png").write_bytes(files.png())
    files.write_lines(folder / "rows.jsonl", [files.example()])
    entry = {"name": "pets", "format": "evaluation", "path": "rows.jsonl"}
    (folder / "mixture.yaml").write_text(yaml.safe_dump({"sets": [entry]}))
    return folder / "mixture.yaml"


def test_mixtures_of_one_name_have_folders_of_their_own(train, tmp_path, monkeypatch):
    first, second = write_mixture(tmp_path / "cats"), write_mixture(tmp_path / "dogs")
    folders = [train("--data", first)[1], train("--data", second)[1]]
    assert folders[0] != folders[1]
    assert all(folder.parent == resources.runs("smoke") for folder in folders)
    assert all(folder.name.startswith("mixture-") for folder in folders)

    # The same one from another place, so that the same command resumes.
    monkeypatch.chdir(tmp_path / "cats")
    assert train("--data", "mixture.yaml")[1] == folders[0]
    assert train("--data", "samples")[1] == resources.runs("smoke") / "samples"


def test_folder_below_home_is_one_folder(train, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_mixture(tmp_path / "cats")
    assert train("--out=~/run", "--data=~/cats/mixture.yaml")[1] == tmp_path / "run"


def test_profiles_of_one_name_have_folders_of_their_own(train, tmp_path):
    folders = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nano.yaml").write_text("extends: smoke\n")
        folders.add(train("--profile", tmp_path / name / "nano.yaml")[1])
    assert len(folders) == 2
    assert resources.runs("nano") / "monkey" not in folders


def hold_run(folder, seed, kind="training"):
    """Leave a run with a seed in a folder."""
    with RunFolder.open(folder, kind, {"training": {"seed": seed}}) as run:
        run.start()


def test_each_seed_has_a_default_folder_of_its_own(train, tmp_path):
    assert train("--set", "training.seed=7")[1] == resources.runs("smoke", 7) / "monkey"
    assert train("--set", "training.seed=7", "--data", "samples")[1] == resources.runs("smoke", 7) / "samples"

    # The seed of a profile is its own, as that of paper-896 is.
    (tmp_path / "mine.yaml").write_text("extends: smoke\ntraining:\n  seed: 46\n")
    folder = train("--profile", tmp_path / "mine.yaml")[1]
    assert folder.parent.name.startswith("mine-") and folder.parent.name.endswith("-seed-46")


def test_run_that_an_earlier_version_began_in_the_folder_of_seed_0_goes_on(train):
    earlier = resources.runs("smoke") / "monkey"
    hold_run(earlier, 7)
    assert train("--set", "training.seed=7")[1] == earlier
    assert train("--set", "training.seed=8")[1] == resources.runs("smoke", 8) / "monkey"

    # Unless a later one has begun beside it.
    hold_run(resources.runs("smoke", 7) / "monkey", 7)
    assert train("--set", "training.seed=7")[1] == resources.runs("smoke", 7) / "monkey"


@pytest.mark.parametrize("text", ["{}", "not JSON", '{"kind": "training"}'])
def test_damaged_run_in_the_folder_of_seed_0_is_no_obstacle(train, text):
    earlier = resources.runs("smoke") / "monkey"
    hold_run(earlier, 7)
    (earlier / "run.json").write_text(text)
    assert train("--set", "training.seed=7")[1] == resources.runs("smoke", 7) / "monkey"


def test_fields_are_overridden_and_recorded(train):
    profile, _, options = train(
        "--steps", "3", "--lr", "0.01", "--precision", "bf16-mixed", "--workers", "2",
        "--save-every", "5", "--set", "lora.dropout=0.5", "--set", "training.seed=4", "--fresh",
    )  # fmt: skip
    training = profile.training
    assert (training.steps, training.lr, training.precision, training.workers) == (3, 0.01, "bf16-mixed", 2)
    assert (training.save_every_steps, profile.lora.dropout, training.seed) == (5, 0.5, 4)
    assert options["fresh"] is True
    assert options["notes"]["overrides"] == {
        "training.steps": 3,
        "training.lr": 0.01,
        "training.precision": "bf16-mixed",
        "training.workers": 2,
        "training.save_every_steps": 5,
        "lora.dropout": 0.5,
        "training.seed": 4,
    }

    assert train("--save-every", "2.5min")[0].training.save_every_minutes == 2.5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--lr", "1", "--set", "training.lr=2"],
            "training.lr is given by --set and by an option of its own",
        ),
        (["--set", "training.lerning=2"], "a profile has no field training.lerning"),
        (["--precision", "7-bit"], "training.precision: Input should be"),
        (["--save-every", "soon"], "--save-every takes steps (500) or minutes (30min), got 'soon'"),
        (["--lr", "-1"], "training.lr: Input should be greater than 0"),
    ],
)
def test_wrong_option_is_one_sentence(call, arguments, sentence):
    code, _, error = call("train", "--profile", "smoke", *arguments)
    assert code == 2
    assert sentence in error
    assert len(error.strip().splitlines()) == 1


def test_trained_run_of_the_default_folder_is_not_harmed(call):
    command = ["train", "--profile", "smoke", "--steps", "1"]
    assert call(*command)[0] == 0
    run = resources.runs("smoke") / "monkey"
    record = json.loads((run / "run.json").read_text())
    assert record["notes"]["overrides"] == {"training.steps": 1} and record["finished"]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    code, output, error = call(*command)
    assert code == 0 and "is finished already, nothing was done" in error

    code, _, error = call(*command, "--set", "training.lr=0.5")
    assert code == 2 and "other settings (training.lr" in error and "--fresh" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    # Another seed trains beside it; in a folder that is named, it is refused.
    assert call(*command, "--set", "training.seed=1")[0] == 0
    assert (resources.runs("smoke", 1) / "monkey" / "model" / "config.json").exists()
    code, _, error = call(*command, "--set", "training.seed=1", "--out", run)
    assert code == 2 and "other settings (training.seed 0 -> 1" in error and "--fresh" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_json_is_one_line_about_the_run(call, tmp_path):
    mixture, run = write_mixture(tmp_path / "pets"), tmp_path / "run"
    broken = files.example(image="gone.png")
    files.write_lines(mixture.parent / "rows.jsonl", [files.example(), broken])
    options = ("--profile", "smoke", "--steps", 1, "--micro-batch-size", 1, "--skip-bad", "--json")
    command = ("train", "--data", mixture, "--out", run, "--set", "training.max_bad_share=1", *options)
    code, output, errors = call(*command)
    assert code == 0 and output.count("\n") == 1, errors

    fields = json.loads(output)
    assert fields["model"] == str(run / "model") and (run / "model" / "config.json").exists()
    assert (fields["run"], fields["data"]) == (str(run), str(mixture))
    assert (fields["profile"], fields["seed"], fields["steps"]) == ("smoke", 0, 1)
    losses = {row["part"]: row["loss"] for row in read_curves(run / "metrics.csv")}
    assert (fields["train_loss"], fields["val_loss"]) == (losses["train"], losses.get("val"))
    assert 0 < fields["train_loss"] < 20
    assert fields["skipped"] == len(Path(fields["skipped_file"]).read_text().splitlines()) == 1

    # A finished run says the same again.
    code, again, errors = call(*command)
    assert code == 0 and "is finished already" in errors
    assert json.loads(again)["train_loss"] == fields["train_loss"]


@pytest.mark.parametrize("epochs", [math.inf, math.nan, 0, -1])
def test_epochs_that_are_no_number_of_records_are_refused(epochs):
    with pytest.raises(ValueError, match=f"--epochs.*{epochs}"):
        _num_records(epochs, range(3))


@pytest.fixture()
def llava(tmp_path):
    LlavaConfig().save_pretrained(tmp_path / "llava")
    return tmp_path / "llava"


def test_base_of_transformers_is_raised(call, train, llava, tmp_path, monkeypatch):
    from monkeylib.training import finetune

    runs = []

    def run(profile, folder, *_, **options):
        runs.append((profile, folder))
        return folder / "model"

    monkeypatch.setattr(finetune, "run", run)
    data = write_mixture(tmp_path / "cats")
    arguments = ("train", "--base", llava, "--data", data, "--grid", "1x2", "--steps", 7, "--set", "rank=8")
    code, _, errors = call(*arguments, "--set", "connector=frozen", "--out", tmp_path / "run")
    assert code == 0, errors

    profile, folder = runs[-1]
    assert (profile.base, profile.grid, profile.rank, profile.connector) == (str(llava), "1x2", 8, "frozen")
    assert (profile.training.steps, folder) == (7, tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--base", "BASE"), "trains on your records: name them by --data"),
        (("--base", "BASE", "--profile", "smoke", "--data", "DATA"), "leave it out"),
        (("--base", "BASE", "--grid", "2", "--data", "DATA"), "ROWSxCOLUMNS"),
        (("--grid", "2x2"), "--grid is of a model of transformers"),
        (
            ("--base", "BASE", "--data", "DATA", "--set", "training.packing=true"),
            "packing is not for a raised",
        ),
        (("--base", "BASE", "--data", "DATA", "--set", "rows=3"), "no field rows"),
    ],
    ids=["no data", "profile", "grid", "Monkey", "packing", "field"],
)
def test_options_of_a_raised_model_that_do_not_fit_are_one_sentence(
    arguments, sentence, call, llava, tmp_path
):
    places = {"BASE": llava, "DATA": write_mixture(tmp_path / "cats")}
    code, output, errors = call("train", *(places.get(argument, argument) for argument in arguments))
    assert (code, output) == (2, "") and sentence in errors and errors.count("\n") == 1


def test_base_is_named_as_a_shipped_model_or_as_one_on_a_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, changes = train_command._start("smoke", Path("nano-base"), "", "")
    assert changes == {"base_checkpoint": str(resources.models() / "nano-base")}

    monkeypatch.setattr(loading, "may_be_raised", lambda name: False)
    monkeypatch.setattr(hub, "fetch_model", lambda name: tmp_path / "cache" / name)
    _, changes = train_command._start("smoke", Path("owner/monkey"), "", "")
    assert changes == {"base_checkpoint": str(tmp_path / "cache" / "owner" / "monkey")}


def test_image_that_is_missing_is_told_before_training(call, tmp_path):
    write_mixture(tmp_path / "pets")
    (tmp_path / "pets" / "a.png").unlink()
    code, _, errors = call("train", "--profile", "smoke", "--data", tmp_path / "pets" / "mixture.yaml")
    assert code == 2 and "there is no image at" in errors and "a.png" in errors
    assert not (tmp_path / "out" / "data" / "runs").exists()


def test_dataset_of_text_alone_is_told_before_training(call, train, tmp_path):
    (tmp_path / "rows.csv").write_text("question,answer\nwhat?,x\nwho?,y\n")
    code, _, errors = call("train", "--profile", "smoke", "--data", tmp_path / "rows.csv")
    assert code == 0 and "dataset rows: none of its 2 records has an image: they are" in errors
