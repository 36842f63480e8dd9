"""`monkeylib caption`, and its help, which names what the registries hold without importing them."""

from typing import get_args

from PIL import Image

from monkeylib.captions import experts, registry
from monkeylib.captions.annotations import Caption, ExpertOutput
from monkeylib.cli import caption


def help_of(option: object) -> str:
    return get_args(option)[1].help or ""


def test_help_names_the_expert_sets():
    assert f"({', '.join(registry.expert_sets())})" in help_of(caption.Experts)


def test_help_names_the_composers():
    text = help_of(caption.ComposerName)
    assert all(name in text for name in registry.COMPOSERS.entries)


class Colour(experts.Expert):
    """Says what colour an image has."""

    name, version, licence = "colour", "1", "CC0-1.0"

    def prepare(self):
        """Nothing to load."""

    def annotate(self, images):
        captions = [f"an image of colour {image.getpixel((0, 0))}" for image in images]
        return [ExpertOutput(captions=(Caption(text=text, expert=self.name),)) for text in captions]


def test_caption_describes_readable_images_and_reports_the_others(call, monkeypatch, tmp_path):
    monkeypatch.setitem(experts.EXPERTS.entries, "colour", experts.ExpertEntry(Colour))
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png")
    code, output, errors = call("caption", tmp_path / "a.png", "--out", tmp_path / "d", "--experts", "colour")

    assert (code, errors) == (0, "") and output.startswith("a.png: ")

    code, output, errors = call(
        "caption", tmp_path / "a.png", tmp_path / "b.png", "--out", tmp_path / "d", "--experts", "colour"
    )
    assert code == 2 and output.startswith("a.png: ") and "b.png" in errors and errors.count("\n") == 1


def test_caption_takes_folders_original_captions_and_writes_a_report(call, monkeypatch, tmp_path):
    monkeypatch.setitem(experts.EXPERTS.entries, "colour", experts.ExpertEntry(Colour))
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/a.png"):
        Image.new("RGB", (8, 8), (1, 2, len(name))).save(folder / name)
    (tmp_path / "c.json").write_text('{"a.png": "Mine."}')
    options = ["--out", tmp_path / "d", "--experts", "colour", "--captions", tmp_path / "c.json"]
    code, output, errors = call("caption", folder, *options, "--shard-size", 1, "--low-memory")

    assert (code, errors) == (0, "")
    assert output.startswith("a.png: An image of colour (1, 2, 5). Mine.\nmore/a.png: An image")
    assert output.endswith(f"report: {tmp_path / 'd' / 'report.html'}\n")
    assert len(list((tmp_path / "d").glob("shards/*.parquet"))) == 2
    assert call("caption", folder, *options, "--report", 0)[1].count("report") == 0
