"""The scripts are shell without errors, and call the command line as it is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from monkeylib import profiles, resources
from monkeylib.cli import app
from monkeylib.training import memory

FOLDER = resources.REPOSITORY / "cluster"
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
    commands, found = get_command(app.app).commands, list(calls(page))
    assert found
    for name, options in found:
        known = {flag for parameter in commands[name].params for flag in parameter.opts}
        assert set(options) <= known


@trains
def test_the_profile_exists(script):
    named = re.search(r"--profile (?:\"\$\{PROFILE:-)?([\w.-]+)", text(script))
    assert profiles.load_profile(named[1]).name == named[1]


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
    from monkeylib.captions.experts import load_experts, load_matcher
    from monkeylib.captions.pipeline import Pipeline
    from monkeylib.captions.ray_engine import RayEngine

    page = text(FOLDER / "captions_ray.sbatch")
    header = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", page, re.MULTILINE))
    assert "requeue" in header and header["open-mode"] == "append" and header["ntasks-per-node"] == "1"
    nodes, cpus, gpus = (int(header[name]) for name in ("nodes", "cpus-per-task", "gpus-per-node"))
    workers, share = (
        re.search(rf"--{name} \"?(?:\$\{{\w+:-)?(\d+)", page)[1] for name in ("workers", "cpus")
    )
    stages = Pipeline(load_experts("paper"), load_matcher("auto", "paper")).stages(FOLDER)
    engine = RayEngine(default_workers=int(workers), cpus=float(share))
    planned = engine.plan(stages, {"CPU": nodes * cpus, "GPU": nodes * gpus})
    assert len(planned) == len(stages) and all(count == int(workers) for count, _ in planned)


STUBS = {
    "scontrol": "seq -f node%g 20000",  # more than a pipe holds: nobody may stop reading early
    "sleep": ":",
    "srun": """echo "$port $ray_folder $RAY_AUTH_MODE $RAY_AUTH_TOKEN" >> "$SEEN"
        case "$1" in bash) for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done;; esac""",
}


def _submitted(folder, job):
    """What a job's two steps see (port, folder, mode, token), and how it calls Ray."""
    folder.mkdir()
    stubs = {**STUBS, ".venv/bin/ray": 'echo "$@" >> "$CALLS"'}
    for name, body in stubs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    given = {"SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": "node[1-2]", "IMAGES": "in", "OUT": "out"}
    files = {name: str(folder / name.lower()) for name in ("SEEN", "CALLS")}
    environment = {"PATH": f"{folder}:/usr/bin:/bin", **given, **files}
    script = shutil.copy(FOLDER / "captions_ray.sbatch", folder)
    subprocess.run(["bash", "-c", f"source {script}; wait"], cwd=folder, env=environment, check=True)
    seen, calls = (Path(file).read_text(encoding="utf-8").splitlines() for file in files.values())
    return [line.split() for line in seen], calls


def test_two_caption_jobs_on_a_node_do_not_meet(tmp_path):
    jobs = [_submitted(tmp_path / str(job), job) for job in (41, 42)]
    for seen, calls in jobs:
        (port, ray_folder, mode, token), *others = seen
        assert len(others) == 1 and others[0] == [port, ray_folder, mode, token], "both steps share one Ray"
        assert mode == "token" and re.fullmatch("[0-9a-f]{64}", token)
        (head,) = [call for call in calls if "--head" in call]
        (other,) = [call for call in calls if "--head" not in call]
        assert f"--port={port} " in head and "--ray-client-server-port=0 --include-dashboard=false" in head
        assert f"--address=node1:{port} " in other
        assert all(
            f"--max-worker-port=0 --temp-dir={ray_folder} --block" in " ".join(c.split()) for c in calls
        )
    first, second = (seen[0] for seen, _ in jobs)
    assert first[0] != second[0] and first[1] != second[1] and first[3] != second[3]


FSDP = {"strategy": "fsdp", "micro_batch_size": 2}
SCRIPTS_MEMORY = {  # script -> profile, training settings, examples at once and devices
    "one_node.sbatch": ("paper-896", FSDP, 2, 8),
    "single_gpu_qlora.sh": ("paper-896-qlora", {}, 1, 1),
}


@pytest.mark.parametrize("name", SCRIPTS_MEMORY)
def test_readme_states_the_estimated_memory(name):
    profile_name, settings, examples, devices = SCRIPTS_MEMORY[name]
    profile = profiles.load_profile(profile_name).with_training(**settings)
    batches = [memory.random_micro_batch(profile, examples)]
    estimate = memory.count_step(profile, batches, devices=devices)

    readme = text(FOLDER / "README.md")
    stated = re.search(rf"^\| `{re.escape(name)}` .*\| (\d+) GB", readme, re.MULTILINE)
    assert int(stated[1]) == round(estimate.peak / 1e9)
