"""Benchmarks: both methods do the same work, and their tables hold what was measured."""

import csv
import dataclasses
import importlib.util
import sys
from functools import partial

import pytest
import torch

from monkeylib import profiles, resources
from monkeylib.data.synthetic.tokenizer import build_tokenizer
from monkeylib.model import MonkeyForConditionalGeneration
from tests.support import grit_goldens

FILE = resources.REPOSITORY / "benchmarks" / "training_step.py"
spec = importlib.util.spec_from_file_location("training_step", FILE)
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)


def test_both_methods_have_the_same_loss_and_gradients():
    config = profiles.build_config(profiles.load_profile("smoke"))
    config.lora_dropout = 0.0
    torch.manual_seed(0)
    model = MonkeyForConditionalGeneration(config).train()
    model.freeze_for_finetuning()

    losses, gradients = {}, {}
    for method, length in (("monkeylib", None), ("released", 400)):
        loss = benchmark.compute_loss(method, model, benchmark.make_batch(config, 3, length))
        loss.backward()
        losses[method] = loss.item()
        gradients[method] = [weight.grad for weight in model.parameters() if weight.requires_grad]
        model.zero_grad()

    assert losses["monkeylib"] == pytest.approx(losses["released"], rel=1e-5)
    assert max(gradient.abs().max() for gradient in gradients["monkeylib"]) > 1e-3
    for gradient, released in zip(gradients["monkeylib"], gradients["released"], strict=True):
        assert torch.allclose(gradient, released, rtol=1e-3, atol=1e-6)


def test_table_holds_ratios_within_rounds(tmp_path, monkeypatch, capsys):
    """The other method runs first in every second round, since the machine may get slower or faster."""
    runs = {"monkeylib": [1.0, 3.0, 2.0], "released": [4.0, 6.0, 8.0]}
    order = []

    class MeasuredProcess:
        def __init__(self, command, **_):
            method = command[command.index("--worker") + 1]
            order.append(method)
            peak = {"monkeylib": 300.0, "released": 700.0}[method]
            self.stdout = f'{{"seconds": {runs[method].pop(0)}, "peak": {peak}, "loaded": 200.0}}\n'

    (tmp_path / "README.md").write_text("<!-- table:training_step -->\n<!-- /table -->\n")
    monkeypatch.setattr(benchmark.subprocess, "run", MeasuredProcess)
    monkeypatch.setattr(benchmark, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["training_step.py", "--sizes", "nano", "--rounds", "3"])
    benchmark.main()

    assert order == ["monkeylib", "released", "released", "monkeylib", "monkeylib", "released"]

    (row,) = csv.DictReader((tmp_path / "results" / "training_step.csv").read_text().splitlines())

    assert (row["seconds monkeylib"], row["seconds released"]) == ("2.0", "6.0")
    assert (row["seconds ratio"], row["seconds spread"]) == ("4.0", "2.00–4.00")
    assert (row["peak ratio"], row["step ratio"]) == ("2.33", "5.0")
    assert row["processor"] and row["torch"] == torch.__version__ and float(row["load"]) >= 0
    assert "seconds ratio: 4.000" in capsys.readouterr().out

    page = (tmp_path / "README.md").read_text()

    assert "| nano | 2 | 3 | 2.000 | 6.000 | 4.000 | 2.00–4.00 | 300.0 | 700.0 | 2.330 | 5.000 |" in page


def test_seconds_are_processor_time(monkeypatch):
    """Time in which another program ran does not count."""
    monkeypatch.setattr(
        benchmark, "SIZES", {"nano": lambda: profiles.build_config(profiles.load_profile("smoke"))}
    )
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: pytest.fail("wall-clock time was read"))
    measured = benchmark.run_steps("monkeylib", "nano", 1, 2)

    assert 0 < measured["seconds"] < 60 and measured["peak"] >= measured["loaded"] > 50


def test_page_shows_the_committed_results():
    page = (FILE.parent / "README.md").read_text(encoding="utf-8")
    results = FILE.parent / "results" / "training_step.csv"
    assert benchmark.fill_page(page, results) == page, "run benchmarks/training_step.py"
    assert ("| nano |" in page) == results.is_file()


def load_benchmark(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "training_step", benchmark)  # its neighbour, when it is run
    spec = importlib.util.spec_from_file_location(name, FILE.with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture()
def prefix_sharing(monkeypatch):
    module = load_benchmark("prefix_sharing", monkeypatch)
    smoke = partial(profiles.build_config, profiles.load_profile("smoke"), build_tokenizer())
    monkeypatch.setattr(module, "SIZES", {"smoke": smoke})
    return module


def test_prefix_sharing_gives_the_answers_of_single_questions(prefix_sharing, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(prefix_sharing, "FOLDER", tmp_path)
    options = {"--rounds": 2, "--tokens": 5, "--questions": 4, "--sizes": "smoke"}
    words = [str(word) for option in options.items() for word in option]
    monkeypatch.setattr("sys.argv", ["prefix_sharing.py", *words])
    prefix_sharing.main()
    (row,) = csv.DictReader((tmp_path / "results" / "prefix_sharing.csv").read_text().splitlines())

    assert (row["questions"], row["rounds"], row["new tokens"]) == ("4", "2", "5")
    assert float(row["lowest ratio"]) <= float(row["ratio"]) <= float(row["highest ratio"])
    assert int(row["different answers"]) > 1, "a mix-up would show"
    assert float(row["seconds alone"]) > 0 and row["torch"] == torch.__version__
    assert "ratio: " in capsys.readouterr().out


def test_benchmark_with_different_or_constant_answers_raises(prefix_sharing, monkeypatch):
    monkeypatch.setattr(prefix_sharing, "answer", lambda way, *_: [way])
    with pytest.raises(ValueError, match="aren't the same both ways"):
        prefix_sharing.compare("smoke", 2, 1, 3)

    monkeypatch.setattr(prefix_sharing, "answer", lambda *_: ["same", "same"])
    with pytest.raises(ValueError, match="a mix-up wouldn't show"):
        prefix_sharing.compare("smoke", 2, 1, 3)


def test_adapters_beside_a_tower_give_what_peft_gives(monkeypatch):
    tile_adapters = load_benchmark("tile_adapters", monkeypatch)
    monkeypatch.setattr(tile_adapters, "SIDE", 32)
    monkeypatch.setattr(tile_adapters, "TOKENS", 4)
    row = tile_adapters.compare(rank=4, rounds=1, layers=1)
    assert all(row[f"seconds {method}"] > 0 for method in ("base", "monkeylib", "peft"))
    assert {"added percent monkeylib", "added percent peft", "torch"} < row.keys()


def test_page_on_grit_shows_the_committed_results(monkeypatch):
    region_captions = load_benchmark("region_captions", monkeypatch)
    page = region_captions.PAGE.read_text(encoding="utf-8")
    results = FILE.parent / "results" / "region_captions.csv"
    assert region_captions.fill_page(page, results) == page, "run benchmarks/region_captions.py"
    assert "| 800 | 1333 |" in page


def test_region_captions_are_timed_and_their_memory_is_counted(monkeypatch):
    region_captions = load_benchmark("region_captions", monkeypatch)
    row = region_captions.measure(dataclasses.replace(grit_goldens.CONFIG, short_side=64, long_side=96))
    assert row["seconds detection"] >= 0 and row["seconds captions"] >= 0
    assert row["peak MB"] >= row["loaded MB"] > 50 and (row["height"], row["width"]) == (64, 96)
