import hashlib
import json

import matplotlib.pyplot as plt
import pytest

from monkeylib import digests as digests_module
from monkeylib import resources, tables
from monkeylib.plots.style import use_style
from monkeylib.reproduce import figures

COMMITTED = resources.REPOSITORY / "figures"


@pytest.fixture(autouse=True)
def _outputs(monkeypatch, tmp_path):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))


def draw(values):
    use_style()
    fig, ax = plt.subplots(figsize=(2, 1.5))
    ax.plot(values)
    ax.set_title("a line")
    return fig


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    digests = []
    for _ in range(2):
        figures.save(draw([1, 2]), "line", data=[1, 2], profile="nano", source="here")
        files = (tmp_path / "figures" / name for name in ("line.png", "line.pdf", "manifest.json"))
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
    pdf = (tmp_path / "figures" / "line.pdf").read_bytes()
    assert b"CreationDate" not in pdf and b"Matplotlib" not in pdf


def test_the_manifest_ties_each_figure_to_its_data(tmp_path):
    table = tables.write_table([{"a": 1}], "t", "nano")
    figures.save(draw([1, 2]), "second", data=table, profile="nano", source="07_ablations")
    figures.save(draw([1, 3]), "first", data={"values": [1, 3]}, profile="nano", source="08_visualization")
    manifest = json.loads((tmp_path / "figures" / "manifest.json").read_text())
    assert manifest == figures.manifest("nano")
    assert list(manifest) == ["first", "second"]
    second = manifest["second"]
    assert second["data"] == ["data/results/nano/t.csv"] and second["source"] == "07_ablations"
    assert second["files"] == ["second.png", "second.pdf"]
    before = second["sha256"]
    tables.write_table([{"a": 2}], "t", "nano")
    figures.save(draw([1, 2]), "second", data=table, profile="nano", source="07_ablations")
    assert figures.manifest("nano")["second"]["sha256"] != before


def test_figures_of_other_profiles_stay_with_their_run():
    figures.save(draw([1]), "line", data=[1], profile="smoke", source="here")
    assert (resources.runs("smoke") / "figures" / "line.png").exists()
    assert figures.manifest("nano") == {} and not resources.figures("nano").exists()


def test_a_figure_of_missing_data_is_not_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        figures.save(draw([1]), "line", data=tmp_path / "gone.csv", profile="nano", source="here")
    assert not (tmp_path / "figures").exists()


def test_committed_figures_show_the_committed_results():
    manifest = json.loads((COMMITTED / "manifest.json").read_text(encoding="utf-8"))
    named = {name for entry in manifest.values() for name in entry["files"]}
    assert named | {"manifest.json"} == {path.name for path in COMMITTED.iterdir()}
    for name, entry in manifest.items():
        assert entry["profile"] == "nano" and (resources.notebooks() / f"{entry['source']}.ipynb").exists(), (
            name
        )
        # What a figure shows of a run's own files or of memory can't be compared: only results are committed.
        if entry["data"] and all(file.startswith("data/results/") for file in entry["data"]):
            digest = digests_module.data_digest([resources.REPOSITORY / file for file in entry["data"]])
            assert digest == entry["sha256"], f"{name} shows older results"
