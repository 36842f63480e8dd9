"""A wheel brings all that the library reads, and works in an empty folder."""

import os
import subprocess
import sys
import zipfile

import pytest

from monkeylib import resources
from monkeylib.reproduce.series import SERIES

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"

# In one process: importing torch takes longest.
USE = """
import sys
from monkeylib import inference, resources, tables
from monkeylib.cli import app
from monkeylib.data.mixture import load_mixture
from monkeylib.experiments import grid, parity, statement_accuracy
from monkeylib.experiments.cell import Cell
from monkeylib.profiles import build, load_profile

def run(*arguments):
    sys.argv = ["monkeylib", *arguments]
    try:
        app.main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)

assert resources.is_installed()
run("answer", str(resources.samples() / "receipt.png"), "how much is the juice?", "--model", "nano-monkey")
run("models")
run("assets", "list")
run("notebooks")

profile = load_profile("nano")
assert build.base_folder(profile).is_dir()
assert load_mixture("samples")[0].images
assert tables.read_table("evaluation", "nano") and tables.table_path("evaluation", "nano").is_file()
assert grid.read_final_scores(profile, Cell("per_tile", "ordinary", 0))
assert statement_accuracy.read_statements()
assert parity.golden_images() and parity.golden_facts("train_step")
tables.write_table([{"a": 1}], "mine", "nano")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel without a network, and without a trace in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    settings = folder / "build.cfg"
    settings.write_text(f"[build]\nbuild_base = {folder / 'build'}\n")

    environment = os.environ | {"DIST_EXTRA_CONFIG": str(settings)}
    command = [sys.executable, "-c", BUILD, str(folder)]
    subprocess.run(command, cwd=resources.REPOSITORY, env=environment, capture_output=True, check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_code_and_the_shipped_files_once(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"monkeylib", next(name for name in tops if name.endswith(".dist-info"))}
    assert len(set(names)) == len(names) and "monkeylib/py.typed" in names

    listing = ["git", "ls-files", "monkeylib", "data", "notebooks"]
    run = subprocess.run(listing, cwd=resources.REPOSITORY, capture_output=True, text=True, check=True)
    committed = set(run.stdout.split())
    assert {name for name in committed if name.startswith("monkeylib/")} <= set(names)
    shipped = {name.removeprefix("monkeylib/shipped/") for name in names if "/shipped/" in name}
    assert {name for name in shipped if name.startswith(("data/", "notebooks/"))} <= committed
    assert wheel.stat().st_size < 50e6

    # What notebooks read lies in the package, or is shipped with it.
    for notebook in SERIES:
        for name in notebook.inputs:
            place = name if name.startswith("monkeylib/") else f"monkeylib/shipped/{name}"
            assert any(file == place or file.startswith(f"{place}/") for file in names), name


def test_wheel_works_in_an_empty_folder(wheel, tmp_path):
    site, folder = tmp_path / "site-packages", tmp_path / "empty"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    folder.mkdir()
    before = sorted(site.rglob("*"))

    environment = {name: value for name, value in os.environ.items() if not name.startswith("MONKEYLIB_")}
    environment |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", USE]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("1.75\n") and "scikit-image-images" in run.stdout
    assert sorted(site.rglob("*")) == before, "nothing is written into site-packages"
    assert {path.name for path in folder.iterdir()} == {"notebooks", "data"}
    assert (folder / "data/results/nano/mine.csv").is_file()
    assert len(list((folder / "notebooks").glob("*.ipynb"))) > 9
