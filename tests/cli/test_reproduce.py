"""`monkeylib reproduce`."""

from monkeylib.reproduce import series


def test_failing_notebook_exits_with_code_1(call, monkeypatch):
    def fail(*arguments, **options):
        raise series.NotebookFailed("Notebook 05_finetuning stopped in cell [3] with ValueError: no")

    monkeypatch.setattr(series, "run_series", fail)
    code, output, errors = call("reproduce", "--profile", "smoke")

    assert (code, output) == (1, "")
    assert errors == "monkeylib: Notebook 05_finetuning stopped in cell [3] with ValueError: no\n"
