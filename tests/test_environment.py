"""pyproject.toml is the one list of dependencies: lock, environment.yml and imports agree with it."""

import ast
import importlib.metadata
import os
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from monkeylib import resources
from monkeylib.reproduce import notebooks

ROOT = resources.REPOSITORY
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PROJECT["optional-dependencies"].items()
    if name != "all"
}
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
LOCKED_EXTRAS = ("notebooks", "train", "pretrained", "data", "captions", "chat", "dev")
TOOLS = {
    "accelerate",
    "gguf",
    "ipykernel",
    "jupyterlab",
    "nbval",
    "pytest-xdist",
    "ruff",
    "tensorboard",
}  # used, but not by an import


def names(requirements):
    return {canonicalize_name(requirement.name) for requirement in requirements}


def locked():
    """Name -> version, from requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def wanted():
    """What the lock has to hold of pyproject.toml."""
    return CORE + [requirement for extra in LOCKED_EXTRAS for requirement in EXTRAS[extra]]


def test_the_lock_pins_every_dependency_within_its_range():
    pins = locked()
    for requirement in wanted():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} isn't locked: run `make lock`"
        assert requirement.specifier.contains(pins[name]), (
            f"{name} {pins[name]} is outside {requirement.specifier}"
        )


def test_the_lock_is_whole_and_holds_nothing_else():
    needed, waiting = {"setuptools"}, list(wanted())
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if (name, *sorted(extras)) in seen:
            continue
        seen.add((name, *sorted(extras)))
        needed.add(name)
        for line in importlib.metadata.requires(name) or []:
            child = Requirement(line)
            if child.marker is None or any(
                child.marker.evaluate({"extra": extra}) for extra in {"", *extras}
            ):
                waiting.append(child)
    pins = set(locked())
    graphics = {
        name for name in needed if name.startswith(("nvidia-", "cuda-", "triton"))
    }  # torch brings its own
    assert sorted(needed - pins - graphics) == [], "not locked: run `make lock`"
    assert sorted(pins - needed) == [], "locked and not needed: run `make lock`"


def test_this_environment_is_the_locked_one():
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in locked()}
    assert installed == locked()


def test_what_the_series_does_not_need_is_not_locked():
    assert not {"torchvision", "ray", "gradio"} & locked().keys()
    assert locked()["torch"] == "2.13.0"


def test_conda_colab_and_clusters_install_the_same_list():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": ["--editable .[all]"]}
    (everything,) = [Requirement(line) for line in PROJECT["optional-dependencies"]["all"]]
    assert everything.name == "monkeylib" and everything.extras == set(EXTRAS)


def third_party(code):
    """Top-level names that code imports, but for the standard library and the house."""
    own = set(sys.stdlib_module_names) | {"monkeylib", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - own


def codes(*folders):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.read_text(encoding="utf-8")
        for path in sorted((ROOT / folder).glob("*.ipynb")):
            yield notebooks.python(notebooks.read(path))


def distributions(modules):
    """Distributions that give the modules; a module that isn't installed stands for itself."""
    known = importlib.metadata.packages_distributions()
    return {canonicalize_name(known.get(module, [module])[0]) for module in modules}


def test_everything_imported_is_declared():
    declared = names(CORE) | {name for requirements in EXTRAS.values() for name in names(requirements)}
    used = {module for code in codes("monkeylib", "notebooks", "tests") for module in third_party(code)}
    # What papermill, ipykernel and pytest bring, and can't do without.
    brought = {"nbclient", "ipython", "matplotlib-inline", "packaging"}
    harnesses = {"lmms-eval", "vlmeval"}  # they load this library, not the other way round
    assert sorted(distributions(used) - declared - brought - harnesses) == []


def test_everything_declared_is_imported():
    used = {module for code in codes("monkeylib", "notebooks", "tests") for module in third_party(code)}
    installed = set(names(CORE)) | {name for extra in LOCKED_EXTRAS for name in names(EXTRAS[extra])}
    assert sorted(installed - distributions(used) - TOOLS) == []


@pytest.fixture()
def clone(tmp_path):
    """The Makefile in a folder of its own, with a Python that only notes how it is called."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'echo "$*" >> calls\n'
        '[ "$1" = -c ] && exec python3 "$@"\n'
        '[ "$2" = venv ] && mkdir -p "$3/bin" && cp python "$3/bin/python"\n'
        '[ -e no-network ] && [ "$2" = pip ] && exit 1\n'
        "exit 0\n"
    )
    python.chmod(0o755)

    def make(target):
        (tmp_path / "calls").write_text("")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = ["make", "PYTHON=./python", target]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        return done, (tmp_path / "calls").read_text()

    make.folder = tmp_path
    return make


def test_make_installs_once(clone):
    done, calls = clone("install")
    assert done.returncode == 0, done.stderr
    assert "-m venv .venv" in calls and "-r requirements.lock" in calls and "--editable ." in calls
    done, calls = clone("install")
    assert done.returncode == 0 and calls == "", "a second call installs nothing"


def test_an_interrupted_installation_is_taken_up_again(clone):
    (clone.folder / "no-network").touch()
    done, _ = clone("test")
    assert done.returncode != 0
    (clone.folder / "no-network").unlink()
    done, calls = clone("install")
    assert done.returncode == 0 and "-r requirements.lock" in calls


def test_a_changed_lock_is_installed(clone):
    clone("install")
    lock = clone.folder / "requirements.lock"
    later = os.stat(lock).st_mtime + 10_000
    os.utime(lock, (later, later))
    _, calls = clone("install")
    assert "-r requirements.lock" in calls


def test_make_lists_its_targets():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("install", "reproduce", "test", "lab", "nano-base", "lint", "lock", "clean"):
        assert f"make {target} " in done.stdout


def test_continuous_integration_calls_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").rstrip().endswith("make test")


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert paper["title"].startswith("Monkey: Image Resolution and Text Label")
    assert (
        paper["identifiers"][0]["value"] == "arXiv:2311.06607" and paper["conference"]["name"] == "CVPR 2024"
    )
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
