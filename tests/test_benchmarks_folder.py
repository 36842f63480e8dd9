"""Benchmarks: both ways of each row do the same work, and the page holds what was measured."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys

import pytest
import torch

from monkeylib import profiles, resources, tables
from tests.support import grit_goldens

FOLDER = resources.REPOSITORY / "benchmarks"
TINY = {"width": 64, "layers": 1, "tile_size": 56, "queries": 4}


@pytest.fixture(autouse=True)
def _benchmarks_are_importable(monkeypatch):
    """They import each other as neighbours, as they do when one is run."""
    monkeypatch.syspath_prepend(str(FOLDER))


def load(name: str):
    return importlib.import_module(name)


def is_same(pair) -> bool:
    return pair.same(pair.monkeylib(), pair.other())


# Both ways of a row


@pytest.mark.parametrize("options", [{}, {"images": 3}, {"views": 2}, {"dtype": torch.bfloat16}])
def test_visual_tokens_are_those_of_the_released_way(options):
    pair = load("visual").encode_pair(**TINY, **options)
    assert is_same(pair) and pair.operations > 1e6 and pair.monkeylib().std() > 0.01


def test_comparison_of_visual_tokens_meets_another_lora(monkeypatch):
    """The check of equal results can fail."""
    visual = load("visual")
    encode = visual.encode_images
    monkeypatch.setattr(
        visual, "encode_images", lambda model, pixels, index: encode(model, pixels, index[::-1])
    )
    assert not is_same(visual.encode_pair(**TINY))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_of_the_visual_path_are_those_of_the_released_way(checkpointed):
    pair = load("visual").training_pair(checkpointed, **TINY)
    assert is_same(pair) and pair.monkeylib().abs().max() > 0


def test_loss_and_gradients_of_a_training_step_are_those_of_the_released_way(monkeypatch):
    language = load("language")
    monkeypatch.setattr(language, "PADDED_LENGTH", 400)
    config = profiles.build_config(profiles.load_profile("smoke"))
    config.lora_dropout = 0.0
    pair = language.training_pair(config, rows=3)
    assert is_same(pair) and min(pair.monkeylib()) >= 0 < pair.monkeylib()[0]


def test_loss_of_learned_tokens_is_that_of_all_logits():
    assert is_same(load("language").loss_pair_builder(count=20, vocabulary=50, width=16)())


def test_questions_together_are_answered_as_each_alone():
    language = load("language")
    monkey = language.build_monkey(quick=True, tile_size=28, queries=4)
    pair = language.sharing_pair(monkey, count=3, max_new_tokens=4)
    assert is_same(pair)

    with pytest.raises(ValueError, match="a mix-up wouldn't show"):
        pair.same(["one", "one"], ["one", "one"])
    assert not pair.same(["one", "other"], ["other", "one"])


def test_adapters_beside_a_tower_give_what_peft_gives(monkeypatch):
    tile_adapters = load("tile_adapters")
    monkeypatch.setattr(tile_adapters, "SIDE", 32)
    monkeypatch.setattr(tile_adapters, "TOKENS", 4)
    methods = tile_adapters.build_methods(layers=1, rank=4)
    with torch.no_grad():
        logits = {name: method() for name, method in methods.items()}
    assert torch.allclose(logits["monkeylib"], logits["peft"], atol=1e-4)
    assert not torch.allclose(logits["monkeylib"], logits["base"], atol=1e-4)


# How they are compared


def pair_of(monkeylib, other):
    return load("pairing").Pair(monkeylib, other, lambda first, second: first == second)


def test_ratios_are_within_rounds_and_the_order_changes(monkeypatch):
    """The other way runs first in every second round, since the machine may get slower or faster."""
    pairing, order = load("pairing"), []
    times = {"monkeylib": iter([1.0, 3.0, 2.0]), "other": iter([4.0, 6.0, 8.0])}
    pair = pair_of(lambda: order.append("monkeylib"), lambda: order.append("other"))

    def take(work):
        work()
        return next(times[order[-1]]), None

    monkeypatch.setattr(pairing, "seconds_of", take)
    row = pairing.compare_time("a path", "another way", "large", pair, pairing.Settings(rounds=3), target=4.5)

    assert order[2:8] == ["monkeylib", "other", "other", "monkeylib", "monkeylib", "other"]
    assert (row["monkeylib"], row["other"]) == (2.0, 6.0)
    assert (row["ratio"], row["lowest"], row["highest"], row["met"]) == (4.0, 2.0, 4.0, False)
    assert load("pages").line(row)["verdict"] == "no: 11 % short"


def test_ways_that_differ_are_not_compared():
    pairing = load("pairing")
    with pytest.raises(ValueError, match="both ways should give the same result"):
        pairing.compare_time("a path", "another", "", pair_of(lambda: 1, lambda: 2), pairing.Settings(), None)


def test_seconds_are_processor_time(monkeypatch):
    """Time in which another program ran doesn't count."""
    pairing = load("pairing")
    monkeypatch.setattr(pairing.time, "perf_counter", lambda: pytest.fail("wall-clock time was read"))
    monkeypatch.setattr(pairing.time, "process_time", iter([3.0, 5.0]).__next__)
    assert pairing.seconds_of(lambda: "result") == (2.0, "result")


def test_memory_is_the_peak_of_a_process_of_its_own():
    pairing = load("pairing")
    pair = pair_of(lambda: bytearray(20 << 20).find(b"x"), lambda: bytearray(80 << 20).find(b"x"))
    row = pairing.compare_memory("a path", "another", "", lambda: pair, target=3)
    assert 15 < row["monkeylib"] < 40 < 70 < row["other"] < 100 and row["met"] is (row["ratio"] >= 3)


def test_memory_that_was_freed_is_not_counted():
    """In the environment of the benchmarks, whose allocator keeps what is freed for the sake of time."""
    program = """
import torch
from pairing import peak_megabytes

def grow():
    kept = []
    for megabytes in (40, 44, 48, 52):  # none fits where an earlier one was
        large = torch.ones(megabytes << 18)
        kept.append(torch.ones(1 << 16))  # lies behind it
        del large

print(peak_megabytes(grow))
"""
    output = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **load("pairing").ENVIRONMENT},
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert 50 < float(output) < 80


def test_failure_in_a_process_is_raised_with_its_traceback():
    def fail() -> None:
        raise ValueError("no such size")

    with pytest.raises(RuntimeError, match="ValueError: no such size"):
        load("pairing").in_process(fail)


# The runner and the page


def test_runner_writes_the_rows_of_all_groups_and_says_which_failed(monkeypatch, tmp_path, capsys):
    run, pairing = load("run"), load("pairing")

    def measured(settings):
        assert settings == pairing.Settings(rounds=1, is_quick=True)
        return [pairing.ratio_row("a path", "another", "large", "s", [1.0], [3.0], target=2)]

    def failing(settings):
        raise ValueError("both ways differ")

    monkeypatch.setattr(run, "groups", lambda: {"measured": measured, "failing": failing})
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    monkeypatch.setattr(run.pages, "write_page", lambda: tmp_path / "page.md")
    assert run.main(["--quick"]) == 1

    document = json.loads((tmp_path / "results" / "paths-quick.json").read_text(encoding="utf-8"))
    good, failed = document["rows"]
    assert (good["group"], good["ratio"], good["met"]) == ("measured", 3.0, True)
    assert failed == {"group": "failing", "path": "failing", "failed": "ValueError: both ways differ"}
    assert document["quick"] and document["machine"]["torch"] == torch.__version__
    assert "ratio: 3.00×" in capsys.readouterr().out

    # A group that is measured alone replaces that of the whole run, on the same machine.
    file = tmp_path / "results" / "paths-quick.json"
    file.write_text(
        file.read_text(encoding="utf-8").replace('"ratio": 3.0', '"ratio": 7.0'), encoding="utf-8"
    )
    assert run.main(["--quick", "--only", "measured"]) == 0
    assert json.loads(file.read_text(encoding="utf-8"))["rows"] == document["rows"]

    elsewhere = json.dumps({**document, "machine": {**document["machine"], "cores": 999}})
    file.write_text(elsewhere, encoding="utf-8")
    assert run.main(["--quick", "--only", "measured"]) == 0
    assert file.read_text(encoding="utf-8") == elsewhere

    with pytest.raises(SystemExit, match="there is no group 'other'"):
        run.main(["--only", "other"])


def test_all_groups_are_found_and_are_documented():
    names = set(load("run").groups())
    assert {"visual_tokens", "visual_training", "shared_questions", "loss", "training_step"} <= names
    assert {"tile_adapters", "peers", "start_up", "half_precision"} <= names
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for module in load("run").MODULES:
        assert f"`{module}.py`" in page


def test_page_shows_the_committed_results():
    pages = load("pages")
    page = pages.PAGE.read_text(encoding="utf-8")
    assert pages.fill_page(page) == page, "run benchmarks/pages.py"
    assert pages.FIGURE.is_file() == (pages.read_paths() is not None)


def test_readme_shows_rows_of_the_committed_results():
    pages = load("pages")
    readme = pages.README.read_text(encoding="utf-8")
    assert pages.fill_readme(readme) == readme, "run benchmarks/pages.py"
    assert readme.partition("<!-- speed -->")[2].count("×") == len(pages.README_ROWS)

    # Another result changes the table, and one that is missing is said.
    document = pages.read_paths()
    pages.read = lambda name: {**document, "rows": [{**row, "ratio": 98.7} for row in document["rows"]]}
    try:
        assert pages.fill_readme(readme).count("98.70×") == len(pages.README_ROWS)
        pages.read = lambda name: {**document, "rows": []}
        with pytest.raises(ValueError, match="was not measured"):
            pages.fill_readme(readme)
    finally:
        importlib.reload(pages)


def test_exponents_are_fitted_to_the_larger_sizes():
    growth, exponents = load("growth"), load("exponents")
    measured = [(size, 5 + size**2) for size in (1, 2, 100, 200, 400, 800)]
    assert exponents.exponent(measured) == pytest.approx(2, abs=0.01)

    row = exponents.growth_row("pixels", "Mpx", "JPEG to views, 2x2", [(1.0, 2.0), (2.0, 4.0), (4.0, 8.0)])
    assert row["exponent"] == 1.0
    assert growth.extrapolate(row, 3.0) == pytest.approx(6, rel=0.05)
    assert growth.extrapolate(row, 40.0) == pytest.approx(80, rel=0.01)
    what = {line["what"]: line["value"] for line in growth.arithmetic([row])}
    assert what["paper-896: visual tokens of an image"] == "1,280"
    assert any("100 million" in text for text in what)


def test_labels_of_the_figure_tell_all_rows_apart():
    pages = load("pages")
    rows = [row for row in pages.read_paths()["rows"] if "ratio" in row]
    labels = pages._labels(rows)
    assert len(set(labels)) == len(rows)


def test_every_step_of_the_gpu_script_runs_at_a_tiny_size(tmp_path):
    load("gpu").main(["--tiny", "--device", "cpu", "--out", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = {(row["what"], row["way"]) for row in rows}

    assert ("images encoded", "the released way") in measured
    assert ("tokens after it", "transformers' InternVL") in measured
    for what in ("first token", "training step, adapters and resampler, checkpointed"):
        assert {(what, "monkeylib"), (what, "the released way")} <= measured

    # The loss of the training, step by step.
    curve = [row for row in rows if row["what"] == "training of `smoke`"]
    assert [row["step"] for row in curve if "train/loss" in row] == [0, 1, 2, 3]
    assert all(row["value"] > 0 for row in rows if row not in curve)
    assert all(row["device"] == "CPU" and row["tiny"] for row in rows)


# Captions


def test_page_on_clusters_shows_the_committed_results():
    caption_growth = load("caption_growth")
    page = caption_growth.PAGE.read_text(encoding="utf-8")
    assert caption_growth.fill_page(page) == page, "run benchmarks/caption_growth.py or ray_workers.py"


def test_run_over_many_images_is_bounded_and_its_rest_is_extrapolated():
    """What the committed results have to show."""
    results = tables.read_csv(FOLDER / "results" / "caption_growth.csv")
    rows = {(row["kind"], row["images"]): row for row in results}
    many = rows["measured", 100_000]
    # Results that no index has yet, of which there are at most so many, and the mapped index.
    assert many["late MB"] <= 1.2 * many["early MB"]
    # In processor time: the machine had other programs to run.
    assert many["files"] <= 50 and many["restart CPU s"] < 30
    # Time grows with the images, not faster.
    few = rows["measured", 10_000]
    assert many["CPU s"] <= 1.2 * 10 * few["CPU s"]
    assert {("extrapolated", count) for count in (3_000_000, 100_000_000)} <= set(rows)


# GRIT


def test_page_on_grit_shows_the_committed_results():
    region_captions = load("region_captions")
    page = region_captions.PAGE.read_text(encoding="utf-8")
    results = FOLDER / "results" / "region_captions.csv"
    assert region_captions.fill_page(page, results) == page, "run benchmarks/region_captions.py"
    assert "| 800 | 1333 |" in page


def test_region_captions_are_timed_and_their_memory_is_counted():
    region_captions = load("region_captions")
    row = region_captions.measure(dataclasses.replace(grit_goldens.CONFIG, short_side=64, long_side=96))
    assert row["seconds detection"] >= 0 and row["seconds captions"] >= 0
    assert row["peak MB"] >= row["loaded MB"] > 50 and (row["height"], row["width"]) == (64, 96)


def test_profile_says_what_takes_the_time():
    profiling = load("profiling")
    matrix = torch.ones(1000, 1000)
    matrix @ matrix
    products = profiling.shares_of_time(lambda: [matrix @ matrix for _ in range(10)])
    assert next(iter(products)) == "matrix products"
    python = profiling.shares_of_time(lambda: sorted(range(200_000), key=lambda value: -value))
    assert list(python) == ["Python and the rest"]
    assert sum(products.values()) == pytest.approx(1)


def test_path_that_misses_its_target_is_profiled():
    pairing, pages = load("pairing"), load("pages")
    matrix = torch.ones(300, 300)
    pair = pairing.Pair(lambda: matrix @ matrix, lambda: matrix @ matrix, torch.equal, repeats=5)
    missed = pairing.compare_time("a path", "another", "large", pair, pairing.Settings(1), target=1e6)
    reached = pairing.compare_time("a path", "another", "large", pair, pairing.Settings(1), target=1e-6)

    assert "limits" not in reached and set(missed["limits"]) == {"monkeylib", "other"}
    assert "matrix products" in pages.limits_table([missed, reached])
    assert pages.limits_table([reached]).startswith("No path")
