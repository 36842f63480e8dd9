"""Functions that take a path take it as text, too, with the home folder's `~`."""

import pytest
from PIL import Image

from monkeylib import tables
from monkeylib.captions.record_files import read_records
from monkeylib.data.mixture import load_mixture
from monkeylib.data.writers import write_records
from monkeylib.evaluation.own_benchmarks import is_own_data, own_benchmark
from monkeylib.inference import load_model
from monkeylib.plots.images import contact_sheet
from monkeylib.raised_monkey import RaisedMonkey
from monkeylib.raising import load_raised, raise_resolution
from monkeylib.training.export import is_from_training
from tests.support import record_files, tiny_vlms


@pytest.fixture()
def home(monkeypatch, tmp_path):
    """Return the home folder, with an image and a file of records; the working folder is another one."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    Image.new("RGB", (40, 30), "white").save(home / "a.png")
    record_files.write_list(home / "records.json", [record_files.example()])
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    yield home
    assert not list(elsewhere.iterdir())


def test_files_are_read(home):
    (home / "t.csv").write_text("a\n1\n")
    assert tables.read_csv("~/t.csv") == [{"a": 1}]
    (home / "captions.jsonl").touch()
    assert list(read_records("~/captions.jsonl")) == []

    mixture = load_mixture("~/records.json")
    assert len(mixture.sets[0]) == 1
    assert is_own_data("~/records.json") and not is_from_training("~/records.json")
    (example,) = own_benchmark("~/records.json").load()
    assert example.question == "what is it?"


def test_files_are_written(home):
    assert tables.write_csv([{"a": 1}], "~/t.csv") == home / "t.csv"
    assert contact_sheet([load_mixture("~/records.json").sets[0][0]], "~/sheet.png") == home / "sheet.png"
    write_records(load_mixture("~/records.json").sets[0], "~/shards/records.tar")
    assert (home / "shards" / "records.tar").is_file()


def test_models_are_read(home, monkey):
    for part in (monkey.model, monkey.processor):
        part.save_pretrained(home / "model")
    assert load_model("~/model").answer("~/a.png", "what?", max_new_tokens=2) == monkey.answer(
        home / "a.png", "what?", max_new_tokens=2
    )


def test_models_are_written(home, monkey):
    monkey.save("~/saved")
    assert (home / "saved" / "config.json").is_file()


def test_raised_models_are_written_and_read(home):
    vlm = tiny_vlms.build("llava_clip")
    for part in (vlm.model, vlm.processor):
        part.save_pretrained(home / "base")
    base = type(vlm.model).from_pretrained(home / "base")
    raise_resolution(base, vlm.processor, grid="1x2", rank=2).save("~/raised")
    assert (home / "raised" / "monkey.json").is_file()
    assert load_raised("~/raised").settings.base == str(home / "base")
    assert isinstance(load_model("~/raised"), RaisedMonkey)
