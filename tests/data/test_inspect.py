"""Inspection of a mixture, and the commands of `monkeylib data`."""

import sys

import pytest
import yaml
from PIL import Image

from monkeylib.cli import app
from monkeylib.data import inspect
from monkeylib.data import mixture as mixtures
from monkeylib.plots.images import contact_sheet
from tests.support import record_files as files


@pytest.fixture()
def mixture(tmp_path):
    """Six rows: a short, a long, a too long, a bad one, one without its image, one of two turns."""
    (tmp_path / "a.png").write_bytes(files.png(30, 20))
    rows = [files.conversation(answer=answer) for answer in ("y", "y" * 40, "y" * 400, "")]
    rows += [files.conversation("<img>b.png</img> $what$? ", "x"), files.conversation(answer="$5")]
    rows[-1]["conversations"] += [{"from": "user", "value": "?"}, {"from": "assistant", "value": "z" * 300}]
    files.write_list(tmp_path / "rows.json", rows)
    entry = {"name": "pets", "format": "conversations", "path": "rows.json"}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"sets": [entry]}))
    return mixtures.load_mixture(tmp_path / "mix.yaml")


def test_lengths_truncations_and_broken_records_are_counted(mixture, processor):
    span = len(processor.image_ids())
    (report,) = inspect.inspect_mixture(mixture, processor, max_length=span + 200)

    # One token for each character, and the end of text.
    prompt = len(" what is it? Answer: ") + 1

    assert sorted(report.lengths)[1:3] == [span + prompt + 1, span + prompt + 40]
    assert (report.inspected, report.bad_records, report.broken_images, report.truncated) == (6, 1, 1, 2)

    problems = "\n".join(inspect.list_problems([report]))
    assert "record 3" in problems and "max_length is" in problems  # does not fit at all
    assert "record 6" not in problems  # loses only its second turn
    assert "record 4" in problems and "record 5" in problems

    # The quantiles are NumPy's.
    assert report.row() | {"median": 0, "95 %": 0} == {
        "dataset": "pets",
        "rows": 6,
        "share": "100.0 %",
        "read": 6,
        "median": 0,
        "95 %": 0,
        "max": span + prompt + 400,
        "cut": 2,
        "bad": 1,
        "broken": 1,
    }


def test_sample_of_records_is_the_same_each_time(mixture, processor):
    first, second = (inspect.inspect_mixture(mixture, processor, 1000, limit=2)[0] for _ in range(2))
    assert first.inspected == 2
    assert first.lengths == second.lengths and first.problems == second.problems


def test_contact_sheet_is_one_image_of_all_records(mixture, tmp_path):
    path = contact_sheet([mixture.sets[0][0], mixture.sets[0][5]], tmp_path / "new" / "sheet.png")
    with Image.open(path) as sheet:
        assert sheet.width > 400 and len(sheet.convert("RGB").getcolors(10**6)) > 10

    with pytest.raises(ValueError, match="let the name end in .png"):
        contact_sheet([mixture.sets[0][0]], tmp_path / "sheet.gif")
    with pytest.raises(ValueError, match="there is no image to show"):
        contact_sheet([], tmp_path / "sheet.png")


@pytest.fixture()
def call(monkeypatch, tmp_path, capsys):
    """Run `monkeylib data ...` and return its exit code, output and errors."""
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path / "out"))

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["monkeylib", "data", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            app.main()
        return end.value.code or 0, *capsys.readouterr()

    return run_command


def test_inspect_command_prints_a_table_and_draws_the_sheet(call, tmp_path):
    code, output, _ = call("inspect", "samples", "--profile", "smoke")
    assert code == 0 and "samples: 27 records per epoch" in output
    assert "reading" in output and "validation" in output
    assert output.splitlines()[-1] == "images: data/cache/sheets/samples.png"
    assert (tmp_path / "out" / "data" / "cache" / "sheets" / "samples.png").is_file()


def test_convert_command_counts_skipped_records(call, tmp_path):
    rows = [{"imgname": "1.png", "query": "?", "label": label} for label in ("x", "")]
    (tmp_path / "train" / "png").mkdir(parents=True)
    (tmp_path / "train" / "png" / "1.png").write_bytes(files.png())
    files.write_list(tmp_path / "train" / "train_human.json", rows)
    files.write_list(tmp_path / "train" / "train_augmented.json", [])
    code, output, _ = call("convert", "chartqa", tmp_path, "--out", tmp_path / "chartqa.json")

    assert code == 0 and "chartqa.json: 1 records, 1 left out (no answer); their images: " in output


def test_datasets_are_listed_and_user_errors_reported(call):
    code, output, _ = call("datasets")
    assert code == 0 and "vqav2: https://visualqa.org/download.html (CC BY 4.0" in output
    assert call("inspect", "nowhere")[0] == 2

    code, _, errors = call("convert", "imagenet", ".", "--out", "x.json")
    assert code == 2 and errors.startswith("monkeylib: there is no public dataset called 'imagenet'")
