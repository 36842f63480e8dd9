"""What `monkeylib doctor` finds on a machine where something is missing."""

import json
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from monkeylib import assets, doctor, resources


def by_name(diagnoses):
    return {diagnosis.name: diagnosis for diagnosis in diagnoses}


def test_everything_is_there_in_the_environment_of_the_tests():
    diagnoses = doctor.diagnose()
    assert {diagnosis.area for diagnosis in diagnoses} == {
        "machine",
        "packages",
        "folders",
        "models",
        "assets",
    }
    detail = by_name(diagnoses)
    for name in ("core", "synthetic", "train", "data", "captions", "notebooks", "nano-monkey", "nano-base"):
        assert detail[name].status == "ok", detail[name]
    assert all(diagnosis.remedy for diagnosis in diagnoses if diagnosis.status == "missing")


def test_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    installed = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "peft" and installed(name))
    train = by_name(doctor.diagnose())["train"]
    assert train.status == "missing" and train.detail.endswith("without peft")
    folder = resources.display_path(resources.REPOSITORY)
    assert train.remedy == f'{resources.program("pip")} install --editable "{folder}[train]"'

    monkeypatch.setattr(resources, "REPOSITORY", resources.SHIPPED)
    version = metadata.version("monkeylib")
    assert (
        doctor.install_command("train") == f'{resources.program("pip")} install "monkeylib[train]=={version}"'
    )


@pytest.mark.parametrize(
    ("record", "origin"),
    [
        ({"url": "file:///wheels/monkeylib-1.whl", "archive_info": {}}, " @ file:///wheels/monkeylib-1.whl"),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}},
            " @ git+https://host/x.git@12ab",
        ),
        (None, f"=={metadata.version('monkeylib')}"),
    ],
)
def test_extra_is_installed_from_where_the_package_came(record, origin, monkeypatch):
    """As pip records it: an index has no record."""
    monkeypatch.setattr(resources, "REPOSITORY", resources.SHIPPED)
    text = None if record is None else json.dumps(record)
    read = metadata.PathDistribution.read_text

    def read_text(distribution, name):
        return text if name == "direct_url.json" else read(distribution, name)

    monkeypatch.setattr(metadata.PathDistribution, "read_text", read_text)
    assert doctor.install_command("demo").endswith(f'install "monkeylib[demo]{origin}"')


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("lightning.pytorch", "train"),
        ("skimage.data", "synthetic"),
        ("IPython", "notebooks"),
        ("openai", "chat"),
        ("nobodys", None),
    ],
)
def test_extra_that_brings_a_module(module, extra):
    assert doctor.find_extra(module) == extra


def test_package_of_another_version_is_missing():
    diagnosis = doctor._find_missing("core", "everything", [Requirement("numpy>=999")], "pip install numpy")
    assert diagnosis.status == "missing" and "numpy>=999" in diagnosis.detail


def test_extra_of_an_extra_is_followed():
    requirements = [
        Requirement(text)
        for text in (
            "torch",
            "matplotlib; extra == 'synthetic'",
            "monkeylib[synthetic]; extra == 'notebooks'",
            "papermill; extra == 'notebooks'",
        )
    ]

    def names(extra):
        return [requirement.name for requirement in doctor._of_extra(requirements, extra)]

    assert names("") == ["torch"]
    assert names("synthetic") == ["matplotlib"]
    assert names("notebooks") == ["matplotlib", "papermill"]


def test_folder_that_may_not_be_written(monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    outputs = by_name(doctor.diagnose())["outputs"]
    assert outputs.status == "missing" and "MONKEYLIB_OUTPUTS" in outputs.remedy


def test_seed_that_is_none_is_said(monkeypatch):
    monkeypatch.setenv(resources.SEED, "seven")
    seed = by_name(doctor.diagnose())["seed"]
    assert seed.status == "missing" and "got 'seven'" in seed.detail


def test_package_without_models_and_assets(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "REPOSITORY", tmp_path)
    monkeypatch.setattr(assets, "MANIFEST", tmp_path / "data" / "assets.toml")
    detail = by_name(doctor.diagnose())
    assert detail["nano-monkey"].status == detail["list"].status == "missing"
    assert "clone or install monkeylib anew" in detail["nano-monkey"].remedy


@pytest.mark.parametrize(("speed", "status"), [(0.02, "note"), (2.0, "ok")])
def test_slow_bfloat16_is_said(monkeypatch, speed, status):
    monkeypatch.setattr("monkeylib.model.cpu.relative_speed", lambda dtype: speed)
    assert by_name(doctor.diagnose())["CPU's precision"].status == status
