"""Stand-ins of SLURM's commands: they show what a script in `cluster` would start, without a cluster."""

import os
import subprocess
from pathlib import Path

# A job runs at once, in one process on one node; what it would start is noted.
_COMMANDS = {
    "sbatch": 'while [[ $1 == --* ]]; do shift; done; exec bash "$@"',
    "srun": 'while [[ $1 == --* ]]; do shift; done; case "$1" in bash) ;; *) "$@";; esac',
    "scontrol": "echo node1",
    "sleep": ":",
}
_NOTE = 'printf "%s\\0" "$@" > "$STARTED.$$"'


def submit(line: str, folder: Path) -> list[list[str]]:
    """Run a line of a shell that submits a job, and return the arguments of each call of monkeylib in it.

    Args:
        line: as `BASE=path sbatch cluster/one_node.sbatch`.
        folder: where it runs; `cluster` and `.venv/bin` are written below it.

    Raises:
        CalledProcessError: the line or its script failed.
    """
    programs = folder / "slurm"
    scripts = {programs / name: body for name, body in _COMMANDS.items()}
    scripts[folder / ".venv/bin/monkeylib"] = _NOTE
    for path, body in scripts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    started = folder / "started"
    environment = os.environ | {
        "PATH": f"{programs}:/usr/bin:/bin",
        "STARTED": str(started),
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_JOB_NUM_NODES": "4",
    }
    subprocess.run(["bash", "-c", line], cwd=folder, env=environment, check=True, capture_output=True)

    calls = []
    for file in sorted(folder.glob("started.*")):
        calls.append(file.read_text(encoding="utf-8").split("\0")[:-1])
        file.unlink()
    return calls
