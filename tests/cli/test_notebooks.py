"""`monkeylib notebooks`."""

from monkeylib.reproduce import series

NAMES = [f"{notebook.name}.ipynb" for notebook in series.SERIES]


def test_series_is_written_and_nothing_is_overwritten(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, _ = call("notebooks", "series")
    assert code == 0 and all(f"series/{name}\n" in output for name in NAMES)
    assert sorted(path.name for path in (tmp_path / "series").iterdir()) == sorted(NAMES)

    (tmp_path / "series" / NAMES[0]).write_text("mine")
    (tmp_path / "series" / NAMES[1]).unlink()
    code, output, _ = call("notebooks", "series")
    assert code == 0 and f"series/{NAMES[1]}\n" in output and f"series/{NAMES[0]}\n" not in output
    assert f"since they were there before: {NAMES[0]}, {NAMES[2]}" in output
    assert (tmp_path / "series" / NAMES[0]).read_text() == "mine"
    assert (tmp_path / "series" / NAMES[1]).stat().st_size > 1000


def test_file_in_place_of_the_folder(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").write_text("mine")
    code, output, errors = call("notebooks")
    assert (code, output) == (2, "") and "notebooks is a file: name a folder" in errors
    assert (tmp_path / "notebooks").read_text() == "mine"
