"""`monkeylib caption`, and its help, which names what the registries hold without importing them."""

import base64
import json
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from monkeylib.captions import experts, exports, registry
from monkeylib.captions.annotations import Caption, ExpertOutput
from monkeylib.captions.composers import chat_model
from monkeylib.captions.record_files import RECORDS, read_records
from monkeylib.cli import caption
from monkeylib.data.mixture import load_mixture
from monkeylib.training.curves import read_curves
from tests.support import chat_server


def help_of(option: object) -> str:
    return get_args(option)[1].help or ""


def test_help_names_the_expert_sets():
    assert f"({', '.join(registry.expert_sets())})" in help_of(caption.Experts)


def test_help_names_the_composers():
    text = help_of(caption.ComposerName)
    assert all(name in text for name in registry.COMPOSERS.entries)


@pytest.fixture()
def call(call):
    """Return a function as the one of all commands, whose standard error lacks the first line of a run."""

    def run(*arguments):
        code, output, errors = call(*arguments)
        lines = [line for line in errors.splitlines(True) if not line.startswith("caption on ")]
        return code, output, "".join(lines)

    return run


class Colour(experts.Expert):
    """Says what colour an image has."""

    name, version, licence = "colour", "1", "CC0-1.0"

    def prepare(self):
        """Nothing to load."""

    def annotate(self, images):
        captions = [f"an image of colour {image.getpixel((0, 0))}" for image in images]
        return [ExpertOutput(captions=(Caption(text=text, expert=self.name),)) for text in captions]


def test_folder_below_home_is_one_folder(call, monkeypatch, tmp_path):
    monkeypatch.setitem(experts.EXPERTS.entries, "colour", experts.ExpertEntry(Colour))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "home" / "a.png")
    code, output, errors = call("caption", "~/a.png", "--out=~/captions", "--experts", "colour")

    assert code == 0 and output.startswith("a.png: "), errors
    assert (tmp_path / "home" / "captions" / "records.jsonl").exists()
    assert not (tmp_path / "~").exists()


def test_caption_describes_readable_images_and_reports_the_others(call, monkeypatch, tmp_path):
    monkeypatch.setitem(experts.EXPERTS.entries, "colour", experts.ExpertEntry(Colour))
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png")
    code, output, errors = call("caption", tmp_path / "a.png", "--out", tmp_path / "d", "--experts", "colour")

    assert (code, errors) == (0, "") and output.startswith("a.png: ")

    code, output, errors = call(
        "caption", tmp_path / "a.png", tmp_path / "b.png", "--out", tmp_path / "d", "--experts", "colour"
    )
    assert code == caption.FAILED_IMAGES and output.startswith("a.png: ")
    # An image more is another setting of the run, which is said.
    remark, failure = errors.splitlines()
    assert "settings changed since the run was started: images.count 1 -> 2" in remark
    assert failure.startswith("monkeylib: finished, but 1 of 2 images failed for good (--retry-failed")
    assert "b.png: MissingImageError: there is no image at b.png" in failure

    # Fewer of them are refused, and --fresh replaces the records.
    arguments = ("caption", tmp_path / "a.png", "--out", tmp_path / "d", "--experts", "colour")
    code, _, errors = call(*arguments)
    assert code == 2 and "b.png is missing" in errors and errors.count("\n") == 1
    assert call(*arguments, "--fresh")[0] == 0


@pytest.fixture()
def folder(monkeypatch, tmp_path):
    """A folder of three images, and experts for them by the names of their classes."""
    for expert in (Colour, Counting, Silent):
        monkeypatch.setitem(experts.EXPERTS.entries, expert.name, experts.ExpertEntry(expert))
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 2, 3)).save(folder / f"{number}.png")
    return folder


class Counting(Colour):
    """Counts cats."""

    name = "counting"

    def annotate(self, images):
        captions = [f"{image.getpixel((0, 0))[0]} black cats" for image in images]
        return [ExpertOutput(captions=(Caption(text=text, expert=self.name),)) for text in captions]


class Silent(Colour):
    """Has nothing to say about images without red."""

    name = "silent"

    def annotate(self, images):
        outputs = super().annotate(images)
        return [
            output if image.getpixel((0, 0))[0] else ExpertOutput()
            for image, output in zip(images, outputs, strict=True)
        ]


def test_caption_says_how_many_images_have_no_description(call, folder, tmp_path):
    code, output, errors = call("caption", folder, "--out", tmp_path / "d", "--experts", "silent")

    assert (code, errors) == (0, "")
    sentence = "3 images: 2 described, 1 without a description, 0 failed."
    lines = output.splitlines()
    assert lines[2] == sentence and lines[3].startswith("without a description, since nothing ")
    (undescribed,) = [r.name for r in read_records(tmp_path / "d" / RECORDS) if not r.detailed_caption]
    assert lines[3].endswith(undescribed)
    assert sentence in (tmp_path / "d" / "report.html").read_text()


def test_json_is_one_line_about_the_run(call, folder, tmp_path):
    out = tmp_path / "d"
    arguments = ("caption", folder, "--out", out, "--experts", "silent", "--export-checks", "any", "--json")
    code, output, errors = call(*arguments, "--dry-run")
    assert (code, errors) == (0, "") and output.count("\n") == 1 and not out.exists()
    assert json.loads(output)["images"] == 3 and "all checked" in json.loads(output)["estimate"][0]

    code, output, errors = call(*arguments, "--export", "messages")
    assert (code, errors) == (0, "") and output.count("\n") == 1
    fields = json.loads(output)
    counts = {name: fields[name] for name in ("records", "described", "undescribed", "failed", "pending")}
    assert counts == {"records": 3, "described": 2, "undescribed": 1, "failed": 0, "pending": 0}
    assert [(stage["stage"], stage["computed"]) for stage in fields["stages"]][0] == ("silent", 3)
    assert fields["cost"] == 0 and fields["report"] == str(out / "report.html")
    assert len(list(read_records(Path(fields["records_file"])))) == 3

    export = fields["export"]
    assert (export["format"], export["exported"]) == ("messages", 2)
    assert export["left_out"] == {"without a caption": 1}
    assert len(load_mixture(export["mixture"])) == 2

    # Images that failed change the exit code, and are counted all the same.
    (folder / "broken.png").write_text("no image")
    code, output, errors = call(*arguments, "--report", 0)
    fields = json.loads(output)
    assert code == caption.FAILED_IMAGES and "finished, but 1 of 4 images failed" in errors
    assert (fields["records"], fields["failed"], fields["report"], fields["export"]) == (4, 1, None, None)


def test_caption_says_what_it_leaves_out(call, folder, tmp_path):
    for name in ("notes.txt", "noending", ".hidden"):
        (folder / name).touch()
    code, _, errors = call("caption", folder, "--out", tmp_path / "d", "--experts", "colour", "--report", 0)

    assert code == 0
    assert errors == "monkeylib: left out: 3 files (1 .txt, 1 hidden, 1 without an ending)\n"


def test_caption_again_does_nothing(call, folder, tmp_path):
    arguments = ("caption", folder, "--out", tmp_path / "d", "--experts", "colour", "--report", 0)
    first = call(*arguments)
    again = call(*arguments)

    assert again[0] == 0 and again[1] == first[1] + "All of this was there already: nothing was done.\n"


def test_broken_image_is_a_settled_failure(call, folder, tmp_path):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:45])
    arguments = ("caption", folder, "--out", tmp_path / "d", "--experts", "colour", "--report", 0)

    for _ in range(2):
        code, output, errors = call(*arguments)
        assert code == caption.FAILED_IMAGES and "2 described, 0 without a description, 1 failed." in output
        assert "1 of 3 images failed for good" in errors and errors.count("\n") == 1
    assert "nothing was done" in output

    code, output, _ = call(*arguments, "--retry-failed")
    assert code == caption.FAILED_IMAGES and "nothing was done" not in output


def test_stage_that_fails_on_everything_ends_the_run_in_one_sentence(call, folder, tmp_path, monkeypatch):
    def annotate(self, images):
        raise RuntimeError("sees nothing")

    monkeypatch.setattr(Colour, "annotate", annotate)
    arguments = ("caption", folder, "--out", tmp_path / "d", "--experts", "colour", "--max-failures")
    code, output, errors = call(*arguments, 2)

    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert "stage colour failed on 2 of 2 images" in errors and "--max-failures 0" in errors

    assert call(*arguments, 0)[0] == caption.FAILED_IMAGES


def test_folder_of_somebody_else_is_refused(call, folder, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("mine")
    code, _, errors = call("caption", folder, "--out", tmp_path / "d", "--experts", "colour")

    assert code == 2 and "holds files that no run of monkeylib wrote" in errors and errors.count("\n") == 1
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["thesis.txt"]


# --- a chat model ------------------------------------------------------------------------------------


@pytest.fixture()
def server(monkeypatch):
    pytest.importorskip("openai")
    with chat_server.serving(monkeypatch, "a key that nobody may see") as served:
        yield served


@pytest.fixture()
def chat_arguments(folder, tmp_path):
    return ("caption", folder, "--out", tmp_path / "d", "--experts", "counting", "--composer", "chat")


def test_missing_key_or_server_is_said_before_the_first_image(
    call, server, chat_arguments, tmp_path, monkeypatch
):
    monkeypatch.setattr(Counting, "annotate", lambda *_: pytest.fail("an image was read"))

    monkeypatch.setenv(chat_model.BASE_URL, "http://127.0.0.1:9/v1")
    code, output, errors = call(*chat_arguments)
    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert "stage chat cannot run, so nothing was begun: The endpoint http://127.0.0.1:9/v1" in errors

    monkeypatch.delenv(chat_model.KEY)
    code, output, errors = call(*chat_arguments)
    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert "nothing was begun: The environment variable OPENAI_API_KEY isn't set" in errors

    assert not (tmp_path / "d").exists()


def test_dry_run_checks_and_estimates_all_images_and_writes_nothing(
    call, server, chat_arguments, tmp_path, monkeypatch
):
    before = sorted(tmp_path.rglob("*"))
    code, output, errors = call(*chat_arguments, "--dry-run")
    assert code == 0, errors
    assert "all checked" in output and "requests to a-model" in output and "at most" in output
    assert sorted(tmp_path.rglob("*")) == before and not server.requests

    # After a run, its times and its prompts are known.
    call(*chat_arguments)
    sent = len(server.requests)
    code, output, errors = call(*chat_arguments, "--dry-run")
    assert "s an image in the last run" in output and "as those of" in output
    assert len(server.requests) == sent

    monkeypatch.delenv(chat_model.KEY)
    code, _, errors = call(*chat_arguments, "--dry-run")
    assert code == 2 and "OPENAI_API_KEY isn't set" in errors


def test_answers_that_are_missing_leave_the_run_pending(call, server, chat_arguments):
    server.script = ["empty", {"content": None, "refusal": "I can't help with that."}]
    code, output, errors = call(*chat_arguments)

    assert code == caption.PENDING and errors.count("\n") == 1
    assert "1 described, 0 without a description, 2 failed, of which 2 are tried again" in output
    assert "not finished, run it again to go on: 2 images are still to be done" in errors
    assert len(server.requests) == 3

    assert call(*chat_arguments)[0] == 0 and len(server.requests) == 5


def test_refusals_are_settled_and_not_paid_for_again(call, server, chat_arguments):
    server.otherwise = {"content": "I'm sorry, but I can't assist with that request."}
    code, _, errors = call(*chat_arguments)
    assert (
        code == caption.FAILED_IMAGES and "it refuses: can't assist" in errors and len(server.requests) == 6
    )

    assert call(*chat_arguments)[0] == caption.FAILED_IMAGES and len(server.requests) == 6

    server.otherwise = "answer"
    assert call(*chat_arguments, "--retry-failed")[0] == 0 and len(server.requests) == 9


@pytest.mark.parametrize("models", [401, 404])
def test_no_secret_reaches_the_terminal_or_a_file(
    call, server, chat_arguments, tmp_path, monkeypatch, models
):
    address = f"http://name:PASSWORD123@127.0.0.1:{server.server_port}/v1?token=TOKEN456"
    monkeypatch.setenv(chat_model.BASE_URL, address)
    # The endpoint repeats header and address in its errors.
    server.models, server.otherwise = models, (401, {}, "echo")
    code, output, errors = call(*chat_arguments, "--max-failures", 0)

    assert code == (2 if models == 401 else caption.PENDING) and "cannot accept" in errors
    files = "".join(path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file())
    basic = base64.b64encode(b"name:PASSWORD123").decode()
    for secret in ("PASSWORD123", "TOKEN456", "a key that nobody may see", basic):
        assert secret not in output + errors + files


def test_caption_takes_folders_original_captions_and_writes_a_report(call, monkeypatch, tmp_path):
    monkeypatch.setitem(experts.EXPERTS.entries, "colour", experts.ExpertEntry(Colour))
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/a.png"):
        Image.new("RGB", (8, 8), (1, 2, len(name))).save(folder / name)
    (tmp_path / "c.json").write_text('{"a.png": "Mine."}')
    options = ["--out", tmp_path / "d", "--experts", "colour", "--captions", tmp_path / "c.json"]
    code, output, errors = call("caption", folder, *options, "--shard-size", 1, "--low-memory")

    assert (code, errors) == (0, "monkeylib: original captions: 1 of 2 images have one\n")
    assert output.startswith("a.png: An image of colour (1, 2, 5). Mine.\nmore/a.png: An image")
    assert output.endswith(f"report: {tmp_path / 'd' / 'report.html'}\n")
    assert len(list((tmp_path / "d").glob("shards/*.parquet"))) == 2
    assert call("caption", folder, *options, "--report", 0)[1].count("report") == 0


@pytest.mark.parametrize("export", exports.FORMATS)
def test_two_commands_from_a_folder_to_a_trained_model(call, folder, tmp_path, export):
    arguments = ("caption", folder, "--out", tmp_path / "d", "--experts", "counting", "--report", 0)
    code, _, errors = call(*arguments, "--export", export)
    assert code == 0, errors

    mixture = tmp_path / "d" / "exports" / export / "mixture.yaml"
    options = ("--profile", "smoke", "--steps", 1, "--micro-batch-size", 1, "--out", tmp_path / "run")
    code, _, errors = call("train", "--data", mixture, *options)
    assert code == 0, errors

    # A step was taken on the captions, and the model saved behind it.
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    (loss,) = [row["loss"] for row in read_curves(tmp_path / "run" / "metrics.csv") if row["part"] == "train"]
    assert 0 < loss < 20


def test_folder_becomes_a_training_set_with_one_option(call, folder, tmp_path):
    arguments = ("caption", folder, "--out", tmp_path / "d", "--experts", "silent", "--report", 0)
    # Its captions have colours like coordinates, which fail a check.
    arguments = (*arguments, "--export-checks", "any")
    code, output, errors = call(*arguments, "--export", "messages")

    assert code == 0, errors
    assert "2 captions, left out: 1 without a caption" in output
    mixture = tmp_path / "d" / "exports" / "messages" / "mixture.yaml"
    assert f"monkeylib train --data {mixture}" in output.replace("~", str(tmp_path))
    assert len(load_mixture(str(mixture))) == 2

    # Another format of what is there already; nobody confirms what one expert says.
    assert call(*arguments, "--export", "webdataset")[0] == 0
    code, _, errors = call(*arguments, "--export", "llava", "--min-confirmed", 0.5)
    assert code == 2 and "2 with less than 50% of the statements confirmed" in errors

    (tmp_path / "reviews.jsonl").write_text("")
    code, _, errors = call(*arguments, "--reviews", tmp_path / "reviews.jsonl")
    assert code == 2 and "name a format with --export" in errors
