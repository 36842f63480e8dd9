"""pyproject.toml is the one list of dependencies: the lock, the imports and other ways to install agree."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from monkeylib import resources
from monkeylib.reproduce import notebooks

ROOT = resources.REPOSITORY
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PROJECT["optional-dependencies"].items()
    if name != "all"
}
LOCKED_EXTRAS = (
    "synthetic",
    "notebooks",
    "train",
    "pretrained",
    "data",
    "captions",
    "chat",
    "serve",
    "demo",
    "dev",
)

# Used, but not by an import: by transformers, by Lightning, by name, or for the data files inside.
USED_WITHOUT_IMPORT = {
    "accelerate",
    "gguf",
    "ipykernel",
    "jupyterlab",
    "nbval",
    "pytest-xdist",
    "ruff",
    "scikit-image",
    "tensorboard",
}
# In requirements-harness.lock: harnesses load this library, not the other way round; nor do scorers.
EVALUATION_HARNESSES = {"lmms-eval", "vlmeval", "anls", "anls-star", "pycocoevalcap"}
# In requirements-browser.lock.
BROWSER = {"playwright"}


def names(requirements: list[Requirement]) -> set[str]:
    """Return the names of requirements; an extra that includes another one names monkeylib itself."""
    return {canonicalize_name(requirement.name) for requirement in requirements} - {"monkeylib"}


def locked_versions() -> dict[str, str]:
    """Return name -> version of requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def requirements_to_lock() -> list[Requirement]:
    """Return the requirements of pyproject.toml that the lock has to pin."""
    requirements = list(CORE)
    for extra in LOCKED_EXTRAS:
        requirements += [requirement for requirement in EXTRAS[extra] if requirement.name != "monkeylib"]
    return requirements


# The lock


def test_lock_pins_every_dependency_within_its_range():
    pins = locked_versions()
    for requirement in requirements_to_lock():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} isn't locked: run `make lock`"
        assert requirement.specifier.contains(pins[name]), (
            f"{name} {pins[name]} is outside {requirement.specifier}"
        )


def test_lock_holds_all_transitive_dependencies_and_nothing_else():
    needed = {"setuptools"}
    pending = requirements_to_lock()
    visited = set()

    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if (name, *sorted(extras)) in visited:
            continue
        visited.add((name, *sorted(extras)))
        needed.add(name)

        for line in importlib.metadata.requires(name) or []:
            child = Requirement(line)
            applies = child.marker is None or any(
                child.marker.evaluate({"extra": extra}) for extra in {"", *extras}
            )
            if applies:
                pending.append(child)

    pins = set(locked_versions())
    gpu_libraries = {name for name in needed if name.startswith(("nvidia-", "cuda-", "triton"))}

    assert sorted(needed - pins - gpu_libraries) == [], "not locked: run `make lock`"
    assert sorted(pins - needed) == [], "locked and not needed: run `make lock`"


def test_this_environment_is_the_locked_one():
    pins = locked_versions()
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in pins}

    assert installed == pins


def test_what_the_series_does_not_need_is_not_locked():
    assert not {"torchvision", "ray"} & locked_versions().keys()
    assert locked_versions()["torch"] == "2.13.0"


def test_makefile_locks_the_same_extras():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert f"LOCKED_EXTRAS := {','.join(LOCKED_EXTRAS)}\n" in makefile


def test_everything_is_of_all_extras():
    (everything,) = [Requirement(line) for line in PROJECT["optional-dependencies"]["all"]]

    assert everything.name == "monkeylib"
    assert everything.extras == set(EXTRAS)


# Other ways to install the lock


def read_yaml(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def stated_versions() -> list[str]:
    """Return the versions of Python that the classifiers name."""
    prefix = "Programming Language :: Python :: "
    return [line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(prefix)]


def test_environment_yml_installs_the_lock():
    *conda, pip = read_yaml("environment.yml")["dependencies"]

    major, minor = stated_versions()[-1].split(".")
    assert conda == [f"python{PROJECT['requires-python']},<{major}.{int(minor) + 1}", "pip"]
    assert pip == {
        "pip": ["--requirement requirements.lock", "--editable . --config-settings=editable_mode=compat"]
    }


def test_binder_installs_the_lock():
    lines = (ROOT / "binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["-r ../requirements.lock", "-e ."]
    version = (ROOT / "binder" / "runtime.txt").read_text(encoding="utf-8").strip()
    assert version.removeprefix("python-") in stated_versions()


def test_containers_install_as_on_a_desk():
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert (
        "RUN make install" in dockerfile and f"FROM python:{stated_versions()[1]}-slim AS base" in dockerfile
    )

    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["postCreateCommand"] == "make install"
    assert container["build"]["target"] == "base"

    # What git ignores is large, and differs from one machine to the next.
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    by_git = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    folders = {name.strip("/") for name in by_git if name.startswith("/data/")}
    assert len(folders) > 4 and folders | {".venv", "*.egg-info"} <= set(ignored)


def test_workflow_runs_what_continuous_integration_runs():
    (job,) = read_yaml(".github/workflows/tests.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert job["strategy"]["matrix"]["python"] == stated_versions()
    assert stated_versions()[0] == PROJECT["requires-python"].removeprefix(">=")


def test_continuous_integration_tests_in_a_browser_where_it_can(tmp_path):
    """The script runs with a `make` that says what it would make, and here cannot install a driver."""
    script = tmp_path / ".ci" / "run"
    script.parent.mkdir()
    script.write_bytes((ROOT / ".ci" / "run").read_bytes())
    programs = tmp_path / "programs"
    programs.mkdir()
    make = programs / "make"

    for is_offline in (False, True):
        make.write_text('#!/bin/sh\necho "make $*"\n' + "case $1 in .browser*) exit 2;; esac\n" * is_offline)
        make.chmod(0o755)
        environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        completed = subprocess.run(
            ["bash", script], env=environment, capture_output=True, text=True, check=True
        )
        commands = completed.stdout.splitlines()
        assert commands[0] == "make test NOTEBOOKS=1"
        assert ("make test-browser QUICK=1" in commands) == (not is_offline)
        assert ("NOT TESTED IN A BROWSER" in completed.stderr) == is_offline


def test_quick_browser_tests_have_a_demo_and_a_notebook():
    command = ["make", "--dry-run", "--old-file=.browser-venv/.installed", "test-browser", "QUICK=1"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (pattern,) = re.findall(r'-k "(.+?)"', printed)
    for word in pattern.split(" or "):
        assert any(
            word in path.stem or word in path.read_text(encoding="utf-8")
            for path in (ROOT / "tests" / "browser").glob("test_*.py")
        ), word


# The imports


def sources(*folders: str) -> Iterator[str]:
    """Yield the code of modules and notebooks in the folders."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.read_text(encoding="utf-8")
        for path in sorted((ROOT / folder).glob("*.ipynb")):
            yield notebooks.python(notebooks.read(path))


def imported_modules(code: str) -> set[str]:
    """Return the top-level names that code imports, except for the standard library and this repository."""
    modules = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.split(".")[0])

    return modules - set(sys.stdlib_module_names) - {"monkeylib", "recipes", "benchmarks", "tests"}


@pytest.fixture(scope="module")
def imported_distributions() -> set[str]:
    """Return the distributions of the imported modules; a module that isn't installed stands for itself."""
    distributions = importlib.metadata.packages_distributions()
    folders = ("monkeylib", "recipes", "notebooks", "tests")
    modules = {module for code in sources(*folders) for module in imported_modules(code)}
    return {canonicalize_name(distributions.get(module, [module])[0]) for module in modules}


def test_everything_imported_is_declared(imported_distributions):
    declared = names(CORE).union(*(names(requirements) for requirements in EXTRAS.values()))

    assert sorted(imported_distributions - declared - EVALUATION_HARNESSES - BROWSER) == []


def test_everything_declared_is_used(imported_distributions):
    declared = names(CORE).union(*(names(EXTRAS[extra]) for extra in LOCKED_EXTRAS))

    assert sorted(declared - imported_distributions - USED_WITHOUT_IMPORT) == []


# The Makefile


@pytest.fixture()
def clone(tmp_path):
    """Copy the Makefile into an empty folder, with a Python that only logs how it is called."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'echo "$*" >> calls\n'
        '[ -z "$PYTHONDONTWRITEBYTECODE" ] || echo "compiles anew" >> calls\n'
        'case "$2" in *monkeylib*) exit 0;; esac\n'
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
        run = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        return run, (tmp_path / "calls").read_text()

    make.folder = tmp_path
    return make


def test_make_installs_once(clone):
    run, calls = clone("install")

    assert run.returncode == 0, run.stderr
    assert "-m venv .venv" in calls and "-r requirements.lock" in calls and "--editable ." in calls

    run, calls = clone("install")

    assert run.returncode == 0 and calls == "", "a second call installs nothing"


def test_modules_are_compiled_once_also_where_python_is_told_to_write_none(clone, monkeypatch):
    """Or each start compiles all of PyTorch again, for seconds."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    _, calls = clone("install")
    assert "-c import monkeylib.monkey" in calls
    assert "compiles anew" not in calls + clone("test")[1]


def test_interrupted_installation_is_resumed(clone):
    (clone.folder / "no-network").touch()
    run, _ = clone("test")

    assert run.returncode != 0

    (clone.folder / "no-network").unlink()
    run, calls = clone("install")

    assert run.returncode == 0 and "-r requirements.lock" in calls


def test_changed_lock_is_installed(clone):
    clone("install")
    lock = clone.folder / "requirements.lock"
    later = os.stat(lock).st_mtime + 10_000
    os.utime(lock, (later, later))
    _, calls = clone("install")

    assert "-r requirements.lock" in calls


def test_make_help_lists_the_targets():
    run = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("install", "reproduce", "test", "lab", "nano-base", "lint", "lock", "clean"):
        assert f"make {target} " in run.stdout


def test_continuous_integration_runs_every_test():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)

    # The files that the first leaves out are those that the second runs.
    left_out, run = (
        re.findall(pattern, _dry_run(target))
        for target, pattern in (("test", r"--ignore (\S+)"), ("test-notebooks", r"(?<!ignore )\b(tests/\S+)"))
    )
    assert left_out == run and run
    assert "pytest" in _dry_run("test", "NOTEBOOKS=1") and "--ignore" not in _dry_run("test", "NOTEBOOKS=1")
    assert all((ROOT / file).exists() for file in run)


def _dry_run(*arguments):
    """Return the commands of a target of the Makefile."""
    command = ["make", "--dry-run", *arguments]
    # Where a `make` runs the tests, what it was given is no argument of this one.
    given = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "NOTEBOOKS"}
    environment = {name: value for name, value in os.environ.items() if name not in given}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return run.stdout


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]

    assert paper["title"].startswith("Monkey: Image Resolution and Text Label")
    assert (
        paper["identifiers"][0]["value"] == "arXiv:2311.06607" and paper["conference"]["name"] == "CVPR 2024"
    )
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
