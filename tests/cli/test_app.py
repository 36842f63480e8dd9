"""The command line as a whole: errors in one sentence, and a quick start."""

import errno
import os
import re
import subprocess
import sys

import pytest
import torch
import typer

import monkeylib
from monkeylib import resources
from monkeylib.cli import app
from monkeylib.data import mixture
from monkeylib.model import generation

USER_ERRORS = {
    ("answer", "gone.png", "What?"): "gone.png",
    ("answer", resources.REPOSITORY / "Makefile", "What?"): "cannot be read as an image",
    ("answer", "IMAGE", ""): "there is no question",
    ("answer", "IMAGE", "What?", "--prompt", "verse"): "no prompt called 'verse'",
    ("answer", "IMAGE", "What?", "--model", "gone"): "no checkpoint at gone",
    ("answer", "IMAGE", "What?", "--model", "nobody/no-model"): "no model hub gave a model of that name",
    ("answer", "IMAGE", "What?", "--grid", "3"): "written as ROWSxCOLUMNS, such as 2x3, or as auto",
    ("chat", "IMAGE", "--grid", "auto:0"): "such as auto:6, got 'auto:0'",
    ("convert", resources.models() / "nano-base", "x", "--to", "monkeylib", "--grid", "auto"): "has one grid",
    ("train", "--profile", "paper-896"): "convert that checkpoint with `monkeylib convert`",
    ("evaluate", "--benchmarks", "gone"): "no benchmark called 'gone'",
    ("evaluate", "--model", "gone"): "no checkpoint at gone",
    ("score", "gone"): "there are no predictions at gone",
    ("score", "gone", "--metrics", "beauty"): "no metric called 'beauty'",
    ("convert", "gone", "x"): "no checkpoint at gone",
    ("convert", "gone", "x", "--to", "monkeylib"): "no released checkpoint at gone",
    ("convert", "gone", "x", "--grid", "2x2"): "--grid is for reading the released layout",
    ("reproduce", "--profile", "gone"): "no profile called 'gone'",
    ("reproduce", "--only", "99"): "No notebook's name begins with '99'",
    ("reproduce", "--profile", "smoke", "--publish"): "those of profile nano and seed 0",
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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 4 TB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ..."),
    ],
)
def test_lack_of_memory_is_reported_in_one_sentence(error, call, checkpoint, image, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(generation, "generate", fail)
    code, output, errors = call("answer", image, "What?", "--model", checkpoint)
    assert (code, output) == (2, "") and errors.count("\n") == 1
    assert "there is not enough memory (" in errors and "take less at once" in errors


def test_other_errors_of_torch_are_not_hidden(checkpoint, image, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("a fault of the library")

    monkeypatch.setattr(generation, "generate", fail)
    monkeypatch.setattr(sys, "argv", ["monkeylib", "answer", str(image), "What?", "--model", str(checkpoint)])
    with pytest.raises(RuntimeError, match="a fault of the library"):
        app.main()


def test_missing_package_is_reported_with_what_installs_it(call, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("monkeylib.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    code, _, errors = call("train", "--profile", "smoke")

    assert code == 2 and re.search(r"with `\S*pip install --editable \".*\[train\]\"`", errors)


def test_package_runs_as_the_command():
    command = [sys.executable, "-m", "monkeylib", "--version"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout == f"monkeylib {monkeylib.__version__}\n"


def test_installed_command_starts_without_heavy_libraries():
    command = [sys.executable, "-X", "importtime", "-m", "monkeylib", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("answer", "evaluate", "score", "caption", "convert", "train", "reproduce", "assets"):
        assert name in process.stdout
    assert "torch" not in process.stderr


def test_answer_starts_without_what_it_does_not_need():
    """The process of an answer: most of its time goes into imports."""
    unneeded = [
        "lightning", "pandas", "matplotlib", "seaborn", "sklearn", "peft", "onnxruntime", "datasets",
        "monkeylib.training", "monkeylib.evaluation", "monkeylib.captions", "monkeylib.experiments",
        "transformers.models.clip.configuration_clip", "transformers.models.bert.configuration_bert",
    ]  # fmt: skip
    program = (
        "import gc, sys\n"
        "from monkeylib.cli import app\n"
        "sys.argv = ['monkeylib', 'answer', 'data/samples/sign.png', 'What?', '--max-new-tokens', '1']\n"
        "app.app(standalone_mode=False)\n"
        "is_quick = gc.isenabled() and gc.get_freeze_count() > 0\n"
        f"print([name for name in {unneeded} if name in sys.modules], is_quick)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=resources.REPOSITORY, capture_output=True, text=True
    )
    assert process.stdout.splitlines()[-1:] == ["[] True"], process.stderr


@pytest.mark.parametrize("target", ["full", "closed"])
def test_output_that_cannot_be_written_is_no_traceback(target):
    if target == "full":
        writing = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, writing = os.pipe()
        os.close(reading)

    command = [sys.executable, "-c", "from monkeylib.cli.app import main; main()", "assets", "list"]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)

    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
    if target == "full":
        assert result.returncode == 2 and "No space left on device" in result.stderr
    else:
        assert result.returncode == 1 and result.stderr == ""


def test_help_lists_the_commands_in_a_newcomers_order(call):
    _, output, _ = call("--help")
    listed = [name for name in re.findall(r"^\W*([a-z]+)  ", output, re.MULTILINE) if name in app.ORDER]
    assert listed == [name for name in app.ORDER if name in listed] and len(listed) > 15
    assert set(typer.main.get_command(app.app).commands) <= set(app.ORDER)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.EROFS, "Read-only file system", "nb"),
            "nb can't be written to (Read-only file system)",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "t.csv"),
            "t.csv can't be opened (Permission denied)",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "t.csv"), "t.csv can't be written to (No space"),
    ],
)
def test_places_that_cannot_be_written_or_read_are_one_sentence(error, sentence, call, monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mixture, "load_mixture", fail)
    code, _, errors = call("data", "inspect", "t.csv", "--profile", "smoke")
    assert code == 2 and errors.startswith(f"monkeylib: {sentence}") and errors.count("\n") == 1
    assert "name another" in errors
