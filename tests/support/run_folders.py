"""Folders of small runs that write text files."""

import json

from monkeylib.runs import RunFolder

FINGERPRINT = {"training": {"steps": 4, "lr": 0.1, "betas": (0.9, 0.95)}, "data": "d" * 64}


def open_run(folder, fingerprint=FINGERPRINT, kind="training", **options):
    """Open the folder of a run."""
    return RunFolder.open(folder, kind, fingerprint, **options)


def changed(**training):
    """Return the fingerprint with some fields changed."""
    return FINGERPRINT | {"training": FINGERPRINT["training"] | training}


def write_run(folder, names=("metrics.csv",), finish=True, **options):
    """Make a run that writes files of these names."""
    with open_run(folder, **options) as run:
        run.start()
        for name in names:
            run.own(name).write_text(f"content of {name}")
        if finish:
            run.finish()


def contents(folder):
    """Return the text of every file below a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def read_manifest(folder):
    """Return the content of the manifest."""
    return json.loads((folder / "run.json").read_text())
