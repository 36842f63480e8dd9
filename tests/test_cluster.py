"""The scripts are shell without errors, and call the command line as it is."""

import re
import shutil
import subprocess

import pytest
from typer.main import get_command

from monkeylib import cli, paths, planner, profiles
from monkeylib.recipes import Recipe

FOLDER = paths.REPOSITORY / "cluster"
SCRIPTS = sorted([*FOLDER.glob("*.sbatch"), *FOLDER.glob("*.sh")])
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
TRAINING = [path for path in SCRIPTS if "monkeylib train" in path.read_text(encoding="utf-8")]
trains = pytest.mark.parametrize("script", TRAINING, ids=lambda path: path.name)


def text(path):
    return path.read_text(encoding="utf-8").replace("\\\n", " ")


def calls(page):
    """(command, its long options) of each call of monkeylib in a text."""
    for line in text(page).splitlines():
        if found := re.search(r"monkeylib (train|convert|caption)\b(.*)", line):
            yield found[1], re.findall(r"(?<=\s)--[a-z-]+", found[2])


@each
def test_the_shell_accepts_it(script):
    subprocess.run(["bash", "-n", script], check=True)


@each
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing(script):
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", [*SCRIPTS, FOLDER / "README.md"], ids=lambda path: path.name)
def test_every_option_exists(page):
    commands, found = get_command(cli.app).commands, list(calls(page))
    assert found
    for name, options in found:
        known = {flag for parameter in commands[name].params for flag in parameter.opts}
        assert set(options) <= known


@trains
def test_the_profile_exists(script):
    named = re.search(r"--profile (?:\"\$\{PROFILE:-)?([\w.-]+)", text(script))
    assert profiles.load(named[1]).name == named[1]


@pytest.mark.parametrize(
    "script", [path for path in TRAINING if path.suffix == ".sbatch"], ids=lambda p: p.name
)
def test_a_process_for_each_gpu_is_told_before_the_end(script):
    header = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text(script), re.MULTILINE))
    devices = re.search(r"--devices (\d+)", text(script))[1]
    assert header["ntasks-per-node"] == header["gpus-per-node"] == devices
    assert header["signal"].startswith("USR1@") and "requeue" in header
    assert header["open-mode"] == "append"


def test_the_caption_script_goes_on_after_its_time_and_asks_ray_for_whole_cpus_that_are_there():
    from monkeylib.captions.engines import RayEngine
    from monkeylib.captions.experts import load, load_matcher
    from monkeylib.captions.pipeline import Pipeline

    page = text(FOLDER / "captions_ray.sbatch")
    header = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", page, re.MULTILINE))
    assert "requeue" in header and header["open-mode"] == "append" and header["ntasks-per-node"] == "1"
    nodes, cpus, gpus = (int(header[name]) for name in ("nodes", "cpus-per-task", "gpus-per-node"))
    workers, share = (
        re.search(rf"--{name} \"?(?:\$\{{\w+:-)?(\d+)", page)[1] for name in ("workers", "cpus")
    )
    stages = Pipeline(load("paper"), load_matcher("auto", "paper")).stages(FOLDER)
    engine = RayEngine(default_workers=int(workers), cpus=float(share))
    planned = engine.plan(stages, {"CPU": nodes * cpus, "GPU": nodes * gpus})
    assert len(planned) == len(stages) and all(count == int(workers) for count, _ in planned)


RECIPES = {
    "one_node.sbatch": Recipe(
        precision="bf16-mixed", checkpointing=True, strategy="fsdp", devices=8, rows=2, passes=64
    ),
    "many_nodes.sbatch": Recipe(
        precision="bf16-mixed", checkpointing=True, strategy="fsdp", devices=32, rows=2, passes=16
    ),
    "single_gpu_qlora.sh": Recipe(
        precision="bf16-true", checkpointing=True, language_model="adapter", language_model_bits=4, passes=128
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_page_states_the_planned_memory(name):
    stated = re.search(rf"^\| `{re.escape(name)}` .*\| (\d+) GB", text(FOLDER / "README.md"), re.MULTILINE)
    peak = planner.plan(profiles.build_config(profiles.load("paper-896")), RECIPES[name]).peak
    assert int(stated[1]) == round(peak / 1e9)
