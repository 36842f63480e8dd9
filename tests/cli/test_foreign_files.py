"""No command changes or removes a file that the library has not written, whatever folder it is given."""

import pytest

from monkeylib.captions import experts
from monkeylib.captions.annotations import Caption, ExpertOutput
from tests.support import record_files as files

# Names that the commands write themselves, and others.
NAMES = (
    "notes.txt",
    ".git/config",
    "metrics.csv",
    "answers.jsonl",
    "model/config.json",
    "model/model.safetensors",
    "checkpoints/step-000001.ckpt",
    "tensorboard/events.out.tfevents.1",
    "run.json",
    "scores.csv",
    "nano-fine.jsonl",
    "errors/nano-fine.html",
    "captions.jsonl",
    "report.html",
    "shards/000000.jsonl",
    "config.json",
    "chartqa.json",
    "notes.jsonl",
    "sheet.png",
)


@pytest.fixture(
    params=[NAMES, [name for name in NAMES if name != "run.json"], ["notes.txt", "notes.jsonl", "sheet.png"]],
    ids=len,
)
def foreign(request, tmp_path):
    """Return a folder of files that belong to somebody else."""
    folder = tmp_path / "mine"
    for name in request.param:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"my {name}")
    return folder


@pytest.fixture()
def chartqa(tmp_path):
    """Return a small download of ChartQA."""
    folder = tmp_path / "chartqa"
    (folder / "train" / "png").mkdir(parents=True)
    (folder / "train" / "png" / "1.png").write_bytes(files.png())
    files.write_list(
        folder / "train" / "train_human.json", [{"imgname": "1.png", "query": "?", "label": "x"}]
    )
    files.write_list(folder / "train" / "train_augmented.json", [])
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What a refusal says.
REFUSALS = (
    "holds files that no run of monkeylib wrote",
    "is damaged or not the record of a run",
    "exists already: name a new",
    "evaluate into another folder",
    "won't be replaced: move it away",
    "no predictions",
    "is not JSON",
)

TRAIN = ["train", "--profile", "smoke", "--steps", "1", "--out", "{folder}"]
EVALUATE = [
    "evaluate",
    "--benchmarks",
    "nano-fine",
    "--model",
    "{model}",
    "--limit",
    "1",
    "--out",
    "{folder}",
]
CAPTION = ["caption", "{image}", "--out", "{folder}", "--experts", "colour"]

COMMANDS = {
    "train": TRAIN,
    "train --fresh": [*TRAIN, "--fresh"],
    "evaluate": EVALUATE,
    "evaluate --fresh": [*EVALUATE, "--fresh"],
    "score": ["score", "{folder}"],
    "caption": CAPTION,
    "convert": ["convert", "{model}", "{folder}", "--to", "peft"],
    "data convert": ["data", "convert", "chartqa", "{chartqa}", "--out", "{folder}/notes.txt"],
    "data convert of records": ["data", "convert", "samples", "--out", "{folder}/notes.jsonl"],
    "data inspect": ["data", "inspect", "samples", "--profile", "smoke", "--sheet", "{folder}/sheet.png"],
}


class Colour(experts.Expert):
    """Says what colour an image has."""

    name, version, licence = "colour", "1", "CC0-1.0"

    def prepare(self):
        """Nothing to load."""

    def annotate(self, images):
        return [ExpertOutput(captions=(Caption(text="an image", expert=self.name),)) for _ in images]


@pytest.mark.parametrize("command", COMMANDS)
def test_foreign_files_stay_as_they_are(call, checkpoint, image, chartqa, foreign, command, monkeypatch):
    monkeypatch.setitem(experts.EXPERTS.entries, "colour", experts.ExpertEntry(Colour))
    places = {"folder": foreign, "model": checkpoint, "image": image, "chartqa": chartqa}
    before = contents(foreign)

    code, _, error = call(*(part.format(**places) for part in COMMANDS[command]))
    assert code == 2 and len(error.strip().splitlines()) == 1
    assert any(part in error for part in REFUSALS), error
    assert contents(foreign) == before


@pytest.mark.parametrize("command", ["train", "evaluate", "caption"])
def test_files_put_into_a_run_stay(call, checkpoint, image, chartqa, tmp_path, command, monkeypatch):
    """At every depth, whatever they are called, when the run is made anew."""
    monkeypatch.setitem(experts.EXPERTS.entries, "colour", experts.ExpertEntry(Colour))
    folder = tmp_path / "run"
    places = {"folder": folder, "model": checkpoint, "image": image, "chartqa": chartqa}
    arguments = [part.format(**places) for part in COMMANDS[command]]
    assert call(*arguments)[0] == 0

    foreign = {}
    for directory in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        for name in ("notes.txt", "more.json", "more.jsonl", ".hidden", "step-7.ckpt"):
            foreign[directory / name] = b"mine"
            (directory / name).write_bytes(b"mine")

    code, _, error = call(*arguments, "--fresh")
    assert code == 0, error
    assert foreign.items() <= contents(folder).items()


@pytest.mark.parametrize("command", COMMANDS)
def test_command_works_where_nothing_is_in_its_way(
    call, checkpoint, image, chartqa, command, tmp_path, monkeypatch
):
    """Otherwise it would be refused for another reason."""
    monkeypatch.setitem(experts.EXPERTS.entries, "colour", experts.ExpertEntry(Colour))
    places = {"folder": tmp_path / "new", "model": checkpoint, "image": image, "chartqa": chartqa}
    if command == "score":
        assert call(*(part.format(**places) for part in EVALUATE))[0] == 0

    code, _, error = call(*(part.format(**places) for part in COMMANDS[command]))
    assert code == 0, error


def test_every_command_that_writes_is_tested():
    from monkeylib.cli import app

    # `notebooks` has tests of its own: it writes beside other files, and over none.
    writes_nothing_there = {
        "ablations",
        "answer",
        "chat",
        "demo",
        "doctor",
        "notebooks",
        "reproduce",
        "serve",
    }
    writes_nothing_there |= {"experts", "models", "profiles", "prompts"}
    names = {command.callback.__name__ for command in app.app.registered_commands}
    assert names - writes_nothing_there == {name.split()[0] for name in COMMANDS} - {"data"}
