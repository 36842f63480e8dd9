import importlib.util
import json
import shutil

import matplotlib.pyplot as plt
import pytest

from monkeylib import resources, tables
from monkeylib.digests import data_digest, file_digest
from monkeylib.images import open_image
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


def test_same_figure_gives_the_same_bytes(tmp_path):
    folder = tmp_path / "figures"
    digests = []
    for _ in range(2):
        figures.save(draw([1, 2]), "line", data=[1, 2], profile="nano", source="here")
        digests.append([file_digest(folder / name) for name in ("line.png", "line.pdf", "manifest.json")])

    assert digests[0] == digests[1]

    pdf = (folder / "line.pdf").read_bytes()
    assert b"CreationDate" not in pdf
    assert b"Matplotlib" not in pdf


def test_file_that_is_no_figure_is_not_replaced(tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "line.pdf").write_text("mine")
    with pytest.raises(FileExistsError, match="line.pdf is in the way and is no figure of monkeylib"):
        figures.save(draw([1, 2]), "line", data=[1, 2], profile="nano", source="here")
    assert [path.name for path in folder.iterdir()] == ["line.pdf"]

    (folder / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(ValueError, match="manifest.json is damaged or no list of figures"):
        figures.save(draw([1, 2]), "other", data=[1, 2], profile="nano", source="here")
    assert (folder / "manifest.json").read_text() == '{"name": "my web app"}'


def test_figure_whose_drawing_was_killed_is_drawn_again(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("matplotlib.figure.Figure.savefig", stop)
        with pytest.raises(KeyboardInterrupt):
            figures.save(draw([1, 2]), "line", data=[1, 2], profile="nano", source="here")
    figures.save(draw([1, 2]), "line", data=[1, 2], profile="nano", source="here")
    assert (tmp_path / "figures" / "line.png").exists()


def test_manifest_ties_each_figure_to_its_data(tmp_path):
    table = tables.write_table([{"a": 1}], "t", "nano")
    figures.save(draw([1, 2]), "second", data=table, profile="nano", source="07_ablations")
    figures.save(draw([1, 3]), "first", data={"values": [1, 3]}, profile="nano", source="08_visualization")

    manifest = json.loads((tmp_path / "figures" / "manifest.json").read_text())
    assert manifest == figures.manifest("nano")
    assert list(manifest) == ["first", "second"]

    entry = manifest["second"]
    assert entry["data"] == ["data/results/nano/t.csv"]
    assert entry["source"] == "07_ablations"
    assert entry["files"] == ["second.png", "second.pdf"]

    # Other data, another digest.
    tables.write_table([{"a": 2}], "t", "nano")
    figures.save(draw([1, 2]), "second", data=table, profile="nano", source="07_ablations")
    assert figures.manifest("nano")["second"]["sha256"] != entry["sha256"]


def test_figures_of_other_profiles_stay_with_their_run():
    figures.save(draw([1]), "line", data=[1], profile="smoke", source="here")

    assert (resources.runs("smoke") / "figures" / "line.png").exists()
    assert figures.manifest("nano") == {}
    assert not resources.figures("nano").exists()


def test_figure_of_missing_data_is_not_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        figures.save(draw([1]), "line", data=tmp_path / "missing.csv", profile="nano", source="here")
    assert not (tmp_path / "figures").exists()


def test_figure_has_number_caption_and_digests(tmp_path):
    text = figures.save(draw([1, 2]), "evaluation", data=[1], profile="nano", source="06_evaluation")
    entry = figures.manifest("nano")["evaluation"]

    assert (entry["number"], entry["caption"], entry["alt"]) == (text.number, text.caption, text.alt)
    assert text.number == "6.2"
    assert text._repr_markdown_() == f"**Figure 6.2.** {text.caption}"

    with open_image(tmp_path / "figures" / "evaluation.png") as image:
        assert entry["size"] == list(image.size)
    assert entry["dpi"] >= 200 and entry["size"][0] > 2 * 150  # of two inches, less its margins
    assert entry["overlaps"] == []

    files = [tmp_path / "figures" / name for name in entry["files"]]
    assert entry["files_sha256"] == [file_digest(file) for file in files]
    assert figures.save(draw([1, 2]), "mine", data=[1], profile="nano", source="here") is None


def test_figure_names_the_code_of_its_drawing(monkeypatch):
    before = figures._code_digest()
    digests = figures.code_digests
    monkeypatch.setattr(
        figures, "code_digests", lambda source: {**digests(source), "monkeylib/plots/style.py": "other"}
    )
    assert figures._code_digest() != before

    # Code that draws nothing doesn't count.
    monkeypatch.setattr(
        figures, "code_digests", lambda source: {**digests(source), "monkeylib/tiling.py": "other"}
    )
    assert figures._code_digest() == before


def test_overlapping_labels_are_noted():
    fig = draw([1, 2])
    fig.axes[0].text(0.2, 1.5, "first")
    fig.axes[0].text(0.22, 1.5, "second")
    figures.save(fig, "line", data=[1, 2], profile="nano", source="here")
    assert figures.manifest("nano")["line"]["overlaps"] == [["first", "second"]]


def test_large_figure_gets_a_palette(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "_LARGEST", 1_000)
    figures.save(draw([1, 2]), "line", data=[1, 2], profile="nano", source="here")
    assert (tmp_path / "figures" / "line.png").read_bytes()[25] == 3  # the type of a palette
    assert figures.manifest("nano")["line"]["size"][0] > 300


# The figures of the repository


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def swapped_files(folder):
    """Return the files that are not those which the manifest was written for."""
    return [
        name
        for entry in manifest_of(folder).values()
        for name, digest in zip(entry["files"], entry["files_sha256"], strict=True)
        if file_digest(folder / name) != digest
    ]


def test_committed_figures_show_the_committed_results():
    manifest = manifest_of(COMMITTED)

    files = {name for entry in manifest.values() for name in entry["files"]}
    assert files | {"manifest.json"} == {path.name for path in COMMITTED.iterdir()}

    for name, entry in manifest.items():
        assert entry["profile"] == "nano", name
        source = entry["source"]
        notebook = (resources.notebooks() / f"{source}.ipynb").exists()
        assert notebook or importlib.util.find_spec(source), name

        # Data in memory and files of a run can't be compared: only results are committed.
        if entry["data"] and all(file.startswith("data/results/") for file in entry["data"]):
            digest = data_digest([resources.REPOSITORY / file for file in entry["data"]])
            assert digest == entry["sha256"], f"{name} shows older results"


def test_committed_figures_are_those_that_were_drawn(tmp_path):
    assert swapped_files(COMMITTED) == []

    # Two files of the right names, but the one in the other's place.
    shutil.copytree(COMMITTED, tmp_path, dirs_exist_ok=True)
    shutil.copy(COMMITTED / "sizes.png", tmp_path / "evaluation.png")
    assert swapped_files(tmp_path) == ["evaluation.png"]


def test_committed_figures_have_texts_and_labels_apart():
    texts = figures.figure_texts()
    numbers = [text.number for text in texts.values()]
    assert len(set(numbers)) == len(numbers)

    for name, entry in manifest_of(COMMITTED).items():
        text = texts[name]
        assert text.caption.endswith(".") and len(text.alt) > 30, name
        # Figures that were drawn before there were these fields get them when they are drawn anew.
        assert entry.get("dpi", 200) >= 200, name
        assert entry.get("overlaps", []) == [], name
