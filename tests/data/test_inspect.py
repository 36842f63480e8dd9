"""Inspection of a mixture, and the commands of `monkeylib data`."""

import pytest
import yaml
from PIL import Image

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


def test_datasets_of_text_alone_are_told(tmp_path, processor):
    (tmp_path / "a.png").write_bytes(files.png(30, 20))
    question = {"question": "what?", "answer": "x"}
    files.write_list(tmp_path / "texts.json", [question] * 3)
    files.write_list(tmp_path / "images.json", [question] * 3 + [question | {"image": "a.png"}])
    sets = [{"name": name, "path": f"{name}.json"} for name in ("texts", "images")]
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"sets": sets}))

    mixture = mixtures.load_mixture(tmp_path / "mix.yaml")
    sentence = "none of its 3 records has an image: they are trained on text alone"
    assert mixture.without_images() == [f"dataset texts: {sentence}"]

    remarks = [report.remarks() for report in inspect.inspect_mixture(mixture, processor, 1000)]
    assert f"texts: {sentence}" in remarks[0]
    assert not any("text alone" in remark for remark in remarks[1])
    report, _ = inspect.inspect_mixture(mixture, processor, 1000, limit=2)
    sentence = "none of 2 records that were read has an image: they are trained on text alone"
    assert f"texts: {sentence}" in report.remarks()
