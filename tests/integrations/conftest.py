"""Monkey, and the interfaces of the harnesses: recorded, and installed where they are."""

import importlib
import sys

import pytest

from tests.support import harness_interfaces, raised_models, random_monkey, transformers_tests


def pytest_configure(config):
    for marker in transformers_tests.markers():
        config.addinivalue_line("markers", f"{marker}: of transformers' own tests")


@pytest.fixture(scope="module")
def monkey():
    monkey = random_monkey.make_monkey()
    monkey.model.eval()
    return monkey


@pytest.fixture()
def checkpoint(monkey, tmp_path):
    monkey.model.save_pretrained(tmp_path / "m")
    monkey.processor.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture(scope="session")
def raised_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raised")
    return raised_models.save_raised(folder / "raised", raised_models.save_base(folder / "base"))


def fresh(monkeypatch, name):
    """Import an integration again, with the harness or its recorded interface."""
    monkeypatch.delitem(sys.modules, f"monkeylib.integrations.{name}", raising=False)
    module = importlib.import_module(f"monkeylib.integrations.{name}")
    monkeypatch.delitem(sys.modules, f"monkeylib.integrations.{name}")
    return module


@pytest.fixture(params=["recorded", "installed"])
def lmms(request, monkeypatch):
    if request.param == "installed":
        pytest.importorskip("lmms_eval.api.model", exc_type=ImportError)
        pytest.importorskip("lmms_eval.models.registry_v2", exc_type=ImportError)
    else:
        harness_interfaces.install(monkeypatch)

    return fresh(monkeypatch, "lmms_eval")


@pytest.fixture(params=["recorded", "installed"])
def kit(request, monkeypatch):
    if request.param == "installed":
        pytest.importorskip("vlmeval.vlm.base", exc_type=ImportError)
    else:
        harness_interfaces.install(monkeypatch)
    return fresh(monkeypatch, "vlmevalkit")
