"""Scripts in cluster/: valid shell, and options, profiles and memory that fit the library."""

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from typer.main import get_command

from monkeylib import profiles, resources, signals
from monkeylib.cli import app

FOLDER = resources.REPOSITORY / "cluster"
SCRIPTS = sorted([*FOLDER.glob("*.sbatch"), *FOLDER.glob("*.sh")])
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
TRAINING = [path for path in SCRIPTS if "monkeylib train" in path.read_text(encoding="utf-8")]
each_training_script = pytest.mark.parametrize("script", TRAINING, ids=lambda path: path.name)


def text(path):
    return path.read_text(encoding="utf-8").replace("\\\n", " ")


def calls(page):
    """Yield the command and the long options of each call of monkeylib in a text."""
    for line in text(page).splitlines():
        match = re.search(r"monkeylib (train|convert|caption)\b(.*)", line)
        if match:
            yield match[1], re.findall(r"(?<=\s)--[a-z-]+", match[2])


@each_script
def test_script_is_valid_shell(script):
    subprocess.run(["bash", "-n", script], check=True)


@each_script
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_passes(script):
    process = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize("page", [*SCRIPTS, FOLDER / "README.md"], ids=lambda path: path.name)
def test_every_option_exists(page):
    commands = get_command(app.app).commands
    page_calls = list(calls(page))
    assert page_calls
    for name, options in page_calls:
        existing = {flag for parameter in commands[name].params for flag in parameter.opts}
        assert set(options) <= existing


@each_training_script
def test_profile_exists(script):
    name = re.search(r"--profile (?:\"\$\{PROFILE:-)?([\w.-]+)", text(script))[1]
    assert profiles.load_profile(name).name == name


@pytest.mark.parametrize(
    "script", [path for path in TRAINING if path.suffix == ".sbatch"], ids=lambda p: p.name
)
def test_each_gpu_has_a_process_that_is_signalled_before_the_time_limit(script):
    header = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text(script), re.MULTILINE))
    devices = re.search(r"--devices (\d+)", text(script))[1]
    assert header["ntasks-per-node"] == header["gpus-per-node"] == devices
    assert header["signal"].startswith("USR1@")
    assert "requeue" in header
    assert header["open-mode"] == "append"


@pytest.mark.parametrize("script", FOLDER.glob("*.sbatch"), ids=lambda path: path.name)
def test_processes_that_work_together_end_when_one_fails(script):
    steps = re.findall(r"^srun (.*)$", text(script), re.MULTILINE)
    assert steps
    assert [step for step in steps if not {"--kill-on-bad-exit=1", "--ntasks=1"} & set(step.split())] == []


def test_readme_states_the_exit_code_of_a_saved_run():
    assert f"\n| {signals.EXIT_SAVED} | " in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_caption_job_is_requeued_at_its_signal(tmp_path):
    stubs = {
        "scontrol": 'echo "$@" >> "$CALLS"',
        "sleep": ":",
        "srun": ": > $STARTED; while [ ! -s $CALLS ]; do :; done; exit 3",
    }
    script = (FOLDER / "captions_ray.sbatch").read_text(encoding="utf-8")
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    # What comes before the last step is not of interest here.
    (tmp_path / "job.sh").write_text("set -euo pipefail\nhead= port=\n" + script[script.index("trap ") :])

    variables = {"SLURM_JOB_ID": "42", "IMAGES": "in", "OUT": "out", "CALLS": str(tmp_path / "calls")}
    variables["STARTED"] = str(tmp_path / "started")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **variables}
    job = subprocess.Popen(["bash", tmp_path / "job.sh"], env=environment, cwd=tmp_path)

    # Once the command runs, the line before it has set what the signal does.
    while job.poll() is None and not (tmp_path / "started").exists():
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)

    # The signal does not end the job: the command does, with its own exit code.
    assert job.wait(timeout=60) == 3
    assert set((tmp_path / "calls").read_text().splitlines()) == {"requeue 42"}


def test_caption_script_is_requeued_and_fits_its_nodes():
    from monkeylib.captions.experts import load_experts, load_matcher
    from monkeylib.captions.pipeline import Pipeline
    from monkeylib.captions.ray_engine import RayEngine

    page = text(FOLDER / "captions_ray.sbatch")
    header = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", page, re.MULTILINE))

    assert "requeue" in header
    assert header["open-mode"] == "append"
    assert header["ntasks-per-node"] == "1"
    assert header["signal"].startswith("B:USR1@")

    nodes, cpus, gpus = (int(header[name]) for name in ("nodes", "cpus-per-task", "gpus-per-node"))
    cpus_per_worker = re.search(r"--cpus (\d+)", page)[1]

    stages = Pipeline(load_experts("paper"), load_matcher("auto", "paper")).stages(FOLDER)
    engine = RayEngine(cpus=float(cpus_per_worker))
    planned = engine.plan(stages, {"CPU": nodes * cpus, "GPU": nodes * gpus})

    assert len(planned) == len(stages)
    booked = sum(pool.first * pool.gpus for pool in planned)
    assert 0.9 * nodes * gpus <= booked <= nodes * gpus


STUBS = {
    "scontrol": "seq -f node%g 20000",  # more than a pipe holds: nobody may stop reading early
    "sleep": ":",
    "srun": """echo "$port $ray_folder $RAY_AUTH_MODE $RAY_AUTH_TOKEN" >> "$STEPS"
        while [[ $1 == --* ]]; do shift; done
        case "$1" in bash) for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done;; esac""",
}


def _run_job(folder, job):
    """Run the script with stubs of SLURM and Ray.

    Returns:
        What each of the job's steps sees (port, folder, mode, token), and the calls of Ray.
    """
    folder.mkdir()
    stubs = {**STUBS, ".venv/bin/ray": 'echo "$@" >> "$CALLS"'}
    for name, body in stubs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    variables = {"SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": "node[1-2]", "IMAGES": "in", "OUT": "out"}
    files = {name: str(folder / name.lower()) for name in ("STEPS", "CALLS")}
    environment = {"PATH": f"{folder}:/usr/bin:/bin", **variables, **files}
    script = shutil.copy(FOLDER / "captions_ray.sbatch", folder)
    subprocess.run(
        ["bash", "-c", f"trap wait EXIT; source {script}"], cwd=folder, env=environment, check=True
    )

    steps, calls = (Path(file).read_text(encoding="utf-8").splitlines() for file in files.values())
    return [line.split() for line in steps], calls


def test_two_caption_jobs_on_a_node_use_separate_rays(tmp_path):
    jobs = [_run_job(tmp_path / str(job), job) for job in (41, 42)]
    for steps, calls in jobs:
        # Both steps of a job share one Ray.
        first_step, second_step = steps
        assert first_step == second_step
        port, ray_folder, mode, token = first_step
        assert mode == "token"
        assert re.fullmatch("[0-9a-f]{64}", token)

        (head,) = [call for call in calls if "--head" in call]
        (worker,) = [call for call in calls if "--head" not in call]
        assert f"--port={port} " in head
        assert "--ray-client-server-port=0 --include-dashboard=false" in head
        assert f"--address=node1:{port} " in worker
        for call in calls:
            assert f"--max-worker-port=0 --temp-dir={ray_folder} --block" in " ".join(call.split())

    # Port, folder and token differ between jobs.
    first, second = (steps[0] for steps, _ in jobs)

    for field in (0, 1, 3):
        assert first[field] != second[field]
