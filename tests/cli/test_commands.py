import io
import json
import subprocess
import sys

import pytest
from PIL import Image

from monkeylib import resources
from monkeylib.captions import experts
from monkeylib.captions.annotations import Caption, ExpertOutput
from monkeylib.cli import app
from monkeylib.experiments import parity
from monkeylib.reproduce import series
from tests.support import released_files


@pytest.fixture()
def call(monkeypatch, tmp_path, capsys):
    """Return a function that runs a command and returns exit code, standard output and standard error."""
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["monkeylib", *map(str, arguments)])
        capsys.readouterr()  # what came before isn't of this call
        with pytest.raises(SystemExit) as end:
            app.main()
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture()
def checkpoint(monkey, tmp_path):
    folder = tmp_path / "data" / "models" / "nano-base"
    monkey.model.save_pretrained(folder)
    monkey.processor.save_pretrained(folder)
    return folder


@pytest.fixture()
def image(make_image, tmp_path):
    make_image().save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_answer_prints_the_answer(call, checkpoint, image, monkey):
    expected = monkey.answer(image, "What?", max_new_tokens=3)
    code, output, errors = call("answer", image, "What?", "--model", checkpoint, "--max-new-tokens", 3)

    assert (code, output, errors) == (0, f"{expected}\n", "")

    code, output, _ = call(
        "answer", image, "--prompt", "caption", "--model", checkpoint, "--max-new-tokens", 3
    )
    assert code == 0 and output == f"{monkey.answer(image, prompt='caption', max_new_tokens=3)}\n"


def test_chat_remembers_the_conversation(call, checkpoint, image, monkey, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What?\nWhy?\n"))
    code, output, errors = call("chat", image, "--model", checkpoint, "--max-new-tokens", 3)
    first = monkey.chat(image, "What?", max_new_tokens=3)
    second = monkey.chat(image, "Why?", [("What?", first)], max_new_tokens=3)

    assert (code, errors) == (0, "")
    assert [line.strip() for line in output.split("\n")[:2]] == [first, second]


def test_answer_uses_the_trained_model_or_notes_that_the_base_answers(
    call, checkpoint, image, monkeypatch, tmp_path
):
    monkeypatch.setattr(resources, "REPOSITORY", tmp_path)
    question = ("answer", image, "What?", "--max-new-tokens", 1)
    code, _, errors = call(*question)

    assert (
        code == 0 and "no model has been trained yet" in errors and "data/models/nano-base answers" in errors
    )
    trained = resources.runs("nano") / "monkey" / "model"
    trained.parent.mkdir(parents=True)
    checkpoint.rename(trained)
    code, _, errors = call(*question)

    assert (code, errors) == (0, "")


def test_grid_other_than_the_checkpoints_raises(call, checkpoint, image):
    code, output, errors = call("answer", image, "What?", "--model", checkpoint, "--grid", "3x3")

    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert "made for the grid 2x2" in errors and "got an image of 3x3 tiles" in errors


USER_ERRORS = {
    ("answer", "gone.png", "What?"): "gone.png",
    ("answer", resources.REPOSITORY / "Makefile", "What?"): "cannot be read as an image",
    ("answer", "IMAGE", ""): "needs a question",
    ("answer", "IMAGE", "What?", "--prompt", "verse"): "no prompt called 'verse'",
    ("answer", "IMAGE", "What?", "--model", "gone"): "no checkpoint at gone",
    ("answer", "IMAGE", "What?", "--grid", "3"): "written as ROWSxCOLUMNS, such as 2x3, got '3'",
    ("train", "--profile", "paper-896"): "convert that checkpoint with `monkeylib convert`",
    ("evaluate", "--benchmarks", "gone"): "no benchmark called 'gone'",
    ("evaluate", "--model", "gone"): "no checkpoint at gone",
    ("score", "gone"): "no predictions in gone",
    ("score", "gone", "--metrics", "beauty"): "no metric called 'beauty'",
    ("convert", "gone", "x"): "no checkpoint at gone",
    ("convert", "gone", "x", "--to", "monkeylib"): "no released checkpoint at gone",
    ("convert", "gone", "x", "--grid", "2x2"): "--grid is for reading the released layout",
    ("reproduce", "--profile", "gone"): "no profile called 'gone'",
    ("reproduce", "--only", "99"): "No notebook's name begins with '99'",
    ("reproduce", "--profile", "smoke", "--update-notebooks"): "those of profile nano and seed 0",
    ("train", "--profile", "gone"): "no profile called 'gone'",
    ("caption", "IMAGE", "--out", "x", "--experts", "gone"): "no expert called 'gone'",
    ("caption", "IMAGE", "--out", "x", "--matcher", "gone"): "no matcher called 'gone'",
    ("caption", "IMAGE", "--out", "x", "--composer", "gone"): "no composer called 'gone'",
    ("caption", "IMAGE", "--out", "x", "--engine", "ray", "--workers", "many"): "--workers takes numbers",
    ("caption", "IMAGE", "--out", "x", "--time-limit", "0"): "more than 0 seconds, got 0",
    ("assets", "fetch", "gone"): "no asset called 'gone'",
}


@pytest.mark.parametrize(
    "arguments", USER_ERRORS, ids=[" ".join(map(str, arguments[:3])) for arguments in USER_ERRORS]
)
def test_user_error_is_reported_in_one_sentence(call, image, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, errors = call(*(image if argument == "IMAGE" else argument for argument in arguments))

    assert code == 2 and output == ""
    assert errors.startswith("monkeylib: ") and errors.count("\n") == 1
    assert USER_ERRORS[arguments] in errors
    assert not (tmp_path / "out").exists() and not (tmp_path / "x").exists(), "nothing half-written"


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["monkeylib", "--debug", "answer", "gone.png", "What?"])
    with pytest.raises(FileNotFoundError):
        app.main()


def test_missing_package_is_reported_with_what_installs_it(call, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("monkeylib.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    code, _, errors = call("train", "--profile", "smoke")

    assert code == 2 and "pip install -e '.[all]'" in errors


@pytest.fixture()
def evaluated(call, checkpoint, tmp_path):
    """A folder of predictions, and what was said while it was made."""
    call_of = ("evaluate", "--benchmarks", "nano-general,nano-fine", "--model", checkpoint, "--limit", 3)
    code, output, errors = call(*call_of, "--out", tmp_path / "first")

    assert code == 0, errors

    return tmp_path / "first", output, call_of


def test_evaluate_writes_predictions_scores_and_galleries(call, evaluated, monkeypatch):
    folder, output, call_of = evaluated

    assert sorted(file.name for file in folder.iterdir()) == [
        "errors", "nano-fine.jsonl", "nano-general.jsonl", "run.json", "scores.csv",
    ]  # fmt: skip
    lines = (folder / "nano-general.jsonl").read_text().splitlines()

    assert len(lines) == 3 and json.loads(lines[0])["question"]
    assert (folder / "scores.csv").read_text().startswith("model,split,group,metric,value,low,high,n\n")
    assert "nano-base" in output and "nano-fine.html" in output
    assert (folder / "errors" / "nano-fine.html").read_text().count("<figure>") > 0

    from monkeylib.evaluation import prefix_sharing

    monkeypatch.setattr(prefix_sharing.PrefixSharingMonkey, "__call__", None)

    assert call(*call_of, "--out", folder)[0] == 0, "a second call asks nothing"


def test_fresh_replaces_predictions_of_another_model(call, evaluated):
    folder, _, call_of = evaluated
    file = folder / "nano-fine.jsonl"
    file.write_text(file.read_text().replace('"model": "', '"model": "other'))
    before = file.read_bytes()
    code, _, errors = call(*call_of, "--out", folder)

    assert code == 2 and "--fresh" in errors and file.read_bytes() == before
    assert call(*call_of, "--out", folder, "--fresh")[0] == 0 and b"other" not in file.read_bytes()


def test_score_compares_two_folders(call, evaluated, tmp_path):
    folder, output, _ = evaluated
    scores = (folder / "scores.csv").read_bytes()
    (folder / "scores.csv").unlink()
    code, again, errors = call("score", folder)

    assert (code, errors) == (0, "") and (folder / "scores.csv").read_bytes() == scores
    assert again in output, "the same table"

    other = tmp_path / "second"
    other.mkdir()
    for file in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        (other / file.name).write_text(
            "".join(json.dumps(row | {"prediction": row["answers"][0]}) + "\n" for row in rows)
        )
    code, output, errors = call("score", other, folder)

    assert code == 0, errors
    assert "second - nano-base, paired" in output and "+" in output

    (other / "mine.jsonl").write_bytes((other / "nano-fine.jsonl").read_bytes())
    code, output, errors = call("score", other, "--metrics", "anls, exact_match")

    assert code == 0 and "mine" in output and output.count("100.0") >= 6, errors


class Colour(experts.Expert):
    """Says what colour an image has."""

    name, version, licence = "colour", "1", "CC0-1.0"

    def prepare(self):
        """Nothing to load."""

    def annotate(self, images):
        captions = [f"an image of colour {image.getpixel((0, 0))}" for image in images]
        return [ExpertOutput(captions=(Caption(text=text, expert=self.name),)) for text in captions]


def test_caption_describes_readable_images_and_reports_the_others(call, monkeypatch, tmp_path):
    monkeypatch.setitem(experts.EXPERTS.entries, "colour", experts.ExpertEntry(Colour))
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png")
    code, output, errors = call("caption", tmp_path / "a.png", "--out", tmp_path / "d", "--experts", "colour")

    assert (code, errors) == (0, "") and output.startswith("a.png: ")

    code, output, errors = call(
        "caption", tmp_path / "a.png", tmp_path / "b.png", "--out", tmp_path / "d", "--experts", "colour"
    )
    assert code == 2 and output.startswith("a.png: ") and "b.png" in errors and errors.count("\n") == 1


def test_caption_takes_folders_original_captions_and_writes_a_report(call, monkeypatch, tmp_path):
    monkeypatch.setitem(experts.EXPERTS.entries, "colour", experts.ExpertEntry(Colour))
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/a.png"):
        Image.new("RGB", (8, 8), (1, 2, len(name))).save(folder / name)
    (tmp_path / "c.json").write_text('{"a.png": "Mine."}')
    options = ["--out", tmp_path / "d", "--experts", "colour", "--captions", tmp_path / "c.json"]
    code, output, errors = call("caption", folder, *options, "--shard-size", 1, "--low-memory")

    assert (code, errors) == (0, "")
    assert output.startswith("a.png: An image of colour (1, 2, 5). Mine.\nmore/a.png: An image")
    assert output.endswith(f"report: {tmp_path / 'd' / 'report.html'}\n")
    assert len(list((tmp_path / "d").glob("shards/*.parquet"))) == 2
    assert call("caption", folder, *options, "--report", 0)[1].count("report") == 0


def test_convert_round_trip_and_lora_export(call, tmp_path):
    source = released_files.write(
        tmp_path / "source", released_files.golden_settings(), parity.released_weights()
    )
    code, output, errors = call("convert", source, tmp_path / "ours")

    assert (code, errors) == (0, "") and output.startswith("wrote ")
    assert call("convert", tmp_path / "ours", tmp_path / "back")[0] == 0

    before, after = (released_files.read(folder) for folder in (source, tmp_path / "back"))

    assert all(released_files.same(before[name], after[name]) for name in before)

    for folder, adapters in ((source, tmp_path / "a"), (tmp_path / "ours", tmp_path / "b")):
        assert call("convert", folder, adapters, "--to", "peft")[0] == 0
    file = "tile-3/adapter_model.safetensors"

    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()

    code, _, errors = call("convert", source, tmp_path / "ours")

    assert code == 2 and "exists already" in errors and errors.count("\n") == 1


def test_train_writes_the_default_checkpoint_of_answer(call, monkeypatch):
    from monkeylib.training import finetune

    trained = []

    def run(profile, folder, *_):
        trained.append((profile.name, folder))
        return folder / "model"

    monkeypatch.setattr(finetune, "run", run)
    code, output, _ = call("train", "--profile", "smoke")

    assert code == 0 and output == "trained model: data/runs/smoke/monkey/model\n"
    assert trained == [("smoke", resources.runs("smoke") / "monkey")]


def test_failing_notebook_exits_with_code_1(call, monkeypatch):
    def fail(*arguments, **options):
        raise series.NotebookFailed("Notebook 05_finetuning stopped in cell [3] with ValueError: no")

    monkeypatch.setattr(series, "run_series", fail)
    code, output, errors = call("reproduce", "--profile", "smoke")

    assert (code, output) == (1, "")
    assert errors == "monkeylib: Notebook 05_finetuning stopped in cell [3] with ValueError: no\n"


def test_assets_are_listed_and_fetched(call):
    code, output, _ = call("assets", "list")

    assert code == 0 and "licence" in output

    code, output, _ = call("assets", "fetch", "scikit-image-images")

    assert code == 0 and output.startswith("scikit-image-images: ")


def test_installed_command_starts_without_heavy_libraries():
    command = [sys.executable, "-X", "importtime", "-m", "monkeylib.cli", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("answer", "evaluate", "score", "caption", "convert", "train", "reproduce", "assets"):
        assert name in process.stdout
    assert "torch" not in process.stderr
