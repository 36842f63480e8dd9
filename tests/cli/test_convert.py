"""`monkeylib convert`."""

import json
import resource
import signal
import sys
import time
from functools import partial

import pytest

from monkeylib import resources
from monkeylib.checkpoints import peft
from monkeylib.cli import app
from monkeylib.experiments import parity
from monkeylib.raising import raise_resolution
from monkeylib.training import export
from tests.support import released_files, tiny_vlms
from tests.torture import sandbox


def test_convert_round_trip_and_lora_export(call, tmp_path, monkeypatch):
    source = released_files.write(
        tmp_path / "source", released_files.golden_settings(), parity.released_weights()
    )
    code, output, errors = call("convert", source, tmp_path / "converted")

    assert (code, errors) == (0, "") and output.startswith("wrote ")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call("convert", "~/converted", "~/back")[0] == 0

    before, after = (released_files.read(folder) for folder in (source, tmp_path / "back"))

    assert all(released_files.same(before[name], after[name]) for name in before)

    for folder, adapters in ((source, tmp_path / "a"), (tmp_path / "converted", tmp_path / "b")):
        assert call("convert", folder, adapters, "--to", "peft")[0] == 0
    file = "tile-3/adapter_model.safetensors"

    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()

    code, _, errors = call("convert", source, tmp_path / "converted")

    assert code == 2 and "exists already" in errors and errors.count("\n") == 1


def test_json_says_what_was_written_where(call, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, errors = call("convert", checkpoint, "adapters", "--to", "peft", "--json")
    assert (code, errors) == (0, "") and output.count("\n") == 1
    source = str(checkpoint.relative_to(tmp_path))
    assert json.loads(output) == {"source": source, "target": "adapters", "layout": "peft"}

    code, output, errors = call("convert", checkpoint, "adapters", "--to", "peft", "--json")
    assert (code, output) == (2, "") and "exists already" in errors


@pytest.mark.parametrize(
    ("to", "layout"), [((), "monkeylib"), (("--to", "released"), "released"), (("--to", "peft"), "peft")]
)
def test_json_names_the_layout_of_a_training_run(call, checkpoint, tmp_path, monkeypatch, to, layout):
    monkeypatch.setattr(export, "is_from_training", lambda _: True)
    calls = []
    monkeypatch.setattr(export, "convert_training", lambda *arguments: calls.append(arguments[2]))
    output = call("convert", checkpoint, tmp_path / "new", *to, "--json")[1]
    assert json.loads(output)["layout"] == layout and calls == [layout]


@pytest.mark.parametrize("place", ["adapters", "adapters/tile-0"])
def test_lora_without_its_model_is_named(call, checkpoint, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    assert call("convert", checkpoint, "adapters", "--to", "peft")[0] == 0

    code, output, errors = call("convert", place, "model")
    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert f"{place} holds LoRA in peft's layout" in errors and "was exported from" in errors
    assert not (tmp_path / "model").exists()


def test_raised_model_has_nothing_to_convert(call, tmp_path):
    """Also one that has other trained weights, which have the name of those of a training run."""
    vlm = tiny_vlms.build("llava_clip")
    vlm.model.save_pretrained(tmp_path / "base")
    vlm.processor.save_pretrained(tmp_path / "base")
    raised = raise_resolution(vlm.model, vlm.processor, grid="1x2", rank=2)
    raised.model.model.multi_modal_projector.requires_grad_(True)
    raised.save(tmp_path / "raised")
    assert (tmp_path / "raised" / "trained.safetensors").exists()

    for options in ((), ("--to", "peft"), ("--checkpoint", "last")):
        code, output, errors = call("convert", tmp_path / "raised", tmp_path / "new", *options)
        assert (code, output) == (2, "") and errors.count("\n") == 1
        assert "is a raised model, whose adapters are in peft's format already" in errors
    assert not (tmp_path / "new").exists()


@pytest.fixture()
def small_files():
    """Let no file grow beyond 20 kB, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("to", ["monkeylib", "released", "peft"])
def test_conversion_that_cannot_be_written_leaves_nothing(call, tmp_path, request, to):
    source = tmp_path / "source"
    released_files.write(source, released_files.golden_settings(), parity.released_weights())
    if to == "released":
        source = tmp_path / "converted"
        assert call("convert", tmp_path / "source", source)[0] == 0

    request.getfixturevalue("small_files")
    code, _, errors = call("convert", source, tmp_path / "new" / "target", "--to", to)
    assert code == 2 and errors.count("\n") == 1
    assert "the new checkpoint could not be written (" in errors
    assert list((tmp_path / "new").iterdir()) == []


def test_second_conversion_into_one_folder_is_refused_at_its_end(call, checkpoint, tmp_path, monkeypatch):
    """Both began when there was no such folder."""
    target = tmp_path / "new" / "target"
    sync = resources.sync

    def sync_behind_the_other(file):
        target.mkdir(exist_ok=True)
        (target / "config.json").write_text("of the other one")
        sync(file)

    monkeypatch.setattr(resources, "sync", sync_behind_the_other)
    code, _, errors = call("convert", checkpoint, target, "--to", "peft")
    assert code == 2 and errors.count("\n") == 1 and "target exists already: name a new folder" in errors
    assert [file.name for file in target.parent.iterdir()] == ["target"]
    assert (target / "config.json").read_text() == "of the other one"


def _convert_slowly(source, target):
    """Convert, and stop where the folder is half-written."""
    write = peft.write_lora

    def write_and_wait(*arguments):
        write(*arguments)
        time.sleep(60)

    peft.write_lora = write_and_wait
    sys.argv = ["monkeylib", "convert", str(source), str(target), "--to", "peft"]
    app.main()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_conversion_that_is_ended_leaves_nothing_half_written(call, checkpoint, tmp_path, number, code):
    """At its destination; what lies beside it after a kill is removed by the next call."""
    folder = tmp_path / "new"
    running = sandbox.Command(partial(_convert_slowly, checkpoint, folder / "target"), tmp_path)
    deadline = time.monotonic() + 60
    while not list(folder.glob(".target.*/tile-0/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send(number)
    outcome = running.wait(60)

    assert outcome.code == code and not outcome.has_traceback, outcome.output
    if number != signal.SIGKILL:
        assert outcome.output.strip() == f"monkeylib: interrupted by {number.name}"
        assert list(folder.iterdir()) == []
    assert not (folder / "target").exists()

    assert call("convert", checkpoint, folder / "target", "--to", "peft")[0] == 0
    assert [path.name for path in folder.iterdir()] == ["target"]
