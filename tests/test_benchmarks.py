"""Both ways of the benchmark do the same work, and its table says where it was made."""

import csv
import importlib.util

import pytest
import torch

from monkeylib import paths, profiles
from monkeylib.model import MonkeyForConditionalGeneration

FILE = paths.REPOSITORY / "benchmarks" / "training_step.py"
spec = importlib.util.spec_from_file_location("training_step", FILE)
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)


def test_both_ways_have_the_same_loss_and_gradients():
    config = profiles.build_config(profiles.load("smoke"))
    config.adapter_dropout = 0.0
    torch.manual_seed(0)
    model = MonkeyForConditionalGeneration(config).train()
    model.freeze_for_finetuning()
    found = []
    for way, length in (("ours", None), ("released", 400)):
        loss = benchmark.loss_of(way, model, benchmark.batch(config, 3, length))
        loss.backward()
        found.append((loss.item(), [weight.grad for weight in model.parameters() if weight.requires_grad]))
        model.zero_grad()
    (ours, gradients), (released, others) = found
    assert ours == pytest.approx(released, rel=1e-5)
    assert max(gradient.abs().max() for gradient in gradients) > 1e-3
    for gradient, other in zip(gradients, others, strict=True):
        assert torch.allclose(gradient, other, rtol=1e-3, atol=1e-6)


def test_the_table_holds_ratios_of_what_it_measured(tmp_path, monkeypatch, capsys):
    runs = {"ours": (1.0, 300.0, 200.0), "released": (4.0, 700.0, 200.0)}

    class Done:
        def __init__(self, call, **_):
            seconds, peak, loaded = runs[call[call.index("--worker") + 1]]
            self.stdout = f'{{"seconds": {seconds}, "peak": {peak}, "loaded": {loaded}}}\n'

    monkeypatch.setattr(benchmark.subprocess, "run", Done)
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["training_step.py", "--sizes", "nano", "--repeats", "2"])
    benchmark.main()
    (row,) = csv.DictReader((tmp_path / "training_step.csv").read_text().splitlines())
    assert (row["seconds ratio"], row["peak ratio"]) == ("4.0", "2.33")
    assert row["peak of the step alone, ratio"] == "5.0"
    assert row["processor"] and row["torch"] == torch.__version__
    assert "seconds ratio: 4.0" in capsys.readouterr().out
