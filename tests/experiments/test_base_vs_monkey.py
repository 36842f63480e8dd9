"""Variants, evaluation and ablation in their smallest form, and comparisons of what models answered."""

import json

import numpy as np
import pytest

from monkeylib import profiles, resources, tables
from monkeylib.data import synthetic
from monkeylib.evaluation.examples import Prediction, read_predictions
from monkeylib.experiments import base_vs_monkey, qualitative, variants
from monkeylib.experiments.variants import VARIANTS, variant
from monkeylib.training import finetune

SMOKE = profiles.load("smoke")
FEW = {"fine": 2, "large": 1, "general": 2, "caption": 2}
SIZE = {"image_width", "image_height"}  # said explicitly, and the same as before
CHANGES = {
    "one_view": {"views", "lora.mode"} | SIZE,
    "interpolated": {"views", "lora.mode", "tile_size"} | SIZE,
    "progressive": {"views", "lora.mode", "tile_size", "training.view_sides"} | SIZE,
    "multiscale": {"views", "lora.mode", "tile_size", "training.view_sides", "training.view_order"} | SIZE,
    "tiles_only": {"views"} | SIZE,
    "released_global": {"global_from"} | SIZE,
    "no_adapters": {"lora.mode"} | SIZE,
    "shared": {"lora.mode"} | SIZE,
    "per_tile": set(),
}


@pytest.fixture()
def outputs(monkeypatch, tmp_path):
    monkeypatch.setenv("MONKEYLIB_OUTPUTS", str(tmp_path))
    return tmp_path


def small():
    """The smoke profile with the fewest steps and questions."""
    recipe = SMOKE.training.model_copy(update={"steps": 1})
    fewer = SMOKE.evaluation.model_copy(update={"counts": FEW})
    least = SMOKE.ablation.model_copy(update={"counts": FEW, "steps": 1})
    return SMOKE.model_copy(update={"training": recipe, "evaluation": fewer, "ablation": least})


# --- variants ------------------------------------------------------------------------------------


def flat(profile):
    """Fields of a profile by dotted name."""
    found = {}
    for name, value in profile.model_dump().items():
        found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


@pytest.mark.parametrize("profile", ["smoke", "nano"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_only_in_what_it_says(profile, name):
    base = profiles.load(profile)
    changed = variant(base, name)
    before, after = flat(base), flat(changed)
    assert {key for key in before if before[key] != after[key]} == CHANGES[name] | (
        {"training.steps"} if base.training.steps != base.ablation.steps else set()
    )
    assert changed.image_size == base.image_size
    assert changed.training.steps == base.ablation.steps
    assert variant(base, name, steps=7).training.steps == 7


def test_variants_see_what_their_titles_say():
    nano = profiles.load("nano")
    seen = {name: variant(nano, name) for name in VARIANTS}
    assert set(CHANGES) == set(VARIANTS)
    tokens = {name: profile.visual_tokens // nano.queries for name, profile in seen.items()}
    views = {"one_view": 1, "interpolated": 1, "progressive": 1, "multiscale": 1, "tiles_only": 4}
    views |= {"released_global": 5, "no_adapters": 5, "shared": 5, "per_tile": 5}
    assert tokens == views
    modes = {name: profile.lora.mode for name, profile in seen.items()}
    assert modes["per_tile"] == modes["tiles_only"] == "per_tile" and modes["shared"] == "shared"
    assert {modes[name] for name in ("one_view", "interpolated", "no_adapters")} == {"none"}
    assert modes["progressive"] == modes["multiscale"] == "full"
    assert {seen[name].training.view_sides for name in ("progressive", "multiscale")} == {(96, 144, 192)}
    assert seen["interpolated"].tile_size == nano.image_size[0] > nano.tile_size == seen["one_view"].tile_size


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_on_the_same_images(name):
    """The same conversations too, except where a single small view cannot show the print."""
    own, reference = variant(SMOKE, name), variant(SMOKE, "per_tile")
    made = [finetune.worlds(profile).train for profile in (own, reference)]
    pairs = [(made[0][number], made[1][number]) for number in range(8)]
    assert all(a.images[0].tobytes() == b.images[0].tobytes() for a, b in pairs)
    same = [a.turns == b.turns for a, b in pairs]
    assert all(same) if name != "one_view" else not all(same)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="no variant called 'lora': choose one of one_view, interpolated"):
        variant(SMOKE, "lora")


# --- evaluation and ablation ---------------------------------------------------------------------


def test_the_evaluation_runs_and_asks_nothing_twice(outputs, monkeypatch):
    profile = small()
    table = base_vs_monkey.run(profile)  # which trains what notebook 05 would have trained
    rows = tables.read_csv(table)
    assert {(row["model"], row["split"]) for row in rows} == {
        (model, f"nano-{split}") for model in ("base", "monkey") for split in FEW
    }
    counted = {row["split"]: row["n"] for row in rows if row["group"] == "all"}
    assert counted == {f"nano-{split}": count for split, count in FEW.items()}
    before = table.read_bytes()
    monkeypatch.setattr("monkeylib.inference.MonkeyForConditionalGeneration.generate", None)
    assert base_vs_monkey.run(profile).read_bytes() == before
    again = base_vs_monkey.answer(profile)
    assert again.keys() == {(model, f"nano-{split}") for model in ("base", "monkey") for split in FEW}
    assert {(split, *done[1:]) for (_, split), done in again.items()} == {
        (f"nano-{split}", 0, count) for split, count in FEW.items()
    }


def test_predictions_carry_what_scores_and_images_need(outputs):
    profile = small()
    finetune.run(profile, resources.runs("smoke") / "monkey")
    base_vs_monkey.run(profile)
    (first, second) = read_predictions(base_vs_monkey.evaluation_files(profile)["monkey", "nano-fine"])
    assert first.meta["print"] == "fine" and first.meta["height"] < 18
    assert set(first.meta) == {"family", "kind", "print", "height", "evidence"}
    assert len(second.meta["evidence"]) == 4


def test_the_ablation_runs_and_trains_nothing_twice(outputs, monkeypatch):
    profile = small()
    names = ("one_view", "interpolated", "shared", "per_tile")
    rows = tables.read_csv(variants.run(profile, names))
    assert [row["model"] for row in rows if row["split"] == "nano-caption"] == list(names)
    files = base_vs_monkey.ablation_files(profile)
    assert all(files[name, f"nano-{split}"].exists() for name in names for split in FEW)
    monkeypatch.setattr(finetune, "build_model", lambda *_: pytest.fail("a variant was trained twice"))
    assert tables.read_csv(variants.run(profile, names)) == rows


def test_a_profile_that_starts_at_random_gets_the_same_base_each_time(outputs):
    folder = base_vs_monkey.base(SMOKE)
    before = (folder / "model.safetensors").read_bytes()
    assert json.loads((folder / "config.json").read_text())["views"] == "global"
    (folder / "config.json").unlink()
    assert (base_vs_monkey.base(SMOKE) / "model.safetensors").read_bytes() == before
    assert base_vs_monkey.base(profiles.load("nano")) == resources.models() / "nano-base"


# --- comparisons ---------------------------------------------------------------------------------


def prediction(number, right, label="yes", image=None, split="fine"):
    return Prediction(
        id=f"{split}-{number}",
        image=image or f"nano-test-{number}",
        question="what is it?",
        answers=[label],
        prompt="vqa",
        prediction=label if right else "wrong",
        model="",
        meta={"family": "document" if number % 2 else "scene_text", "evidence": [1.0, 2.0, 30.0, 40.0]},
    )


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(row.to_line() for row in rows))
    return path


@pytest.fixture()
def files(tmp_path):
    """Two models on twenty questions: ours is right on the first fifteen, the other on the first five."""
    rights = {"ours": 15, "theirs": 5}
    return {
        (model, "nano-fine"): write(tmp_path / model, [prediction(n, n < count) for n in range(20)])
        for model, count in rights.items()
    }


def test_differences_are_taken_question_by_question(files):
    (row,) = base_vs_monkey.differences(files, "ours", ["theirs"])
    assert (row["model"], row["against"], row["split"]) == ("ours", "theirs", "nano-fine")
    assert row["metric"] == "exact_match" and row["n"] == 20
    assert row["difference"] == 0.5 and 0.2 < row["low"] < 0.5 < row["high"] < 0.8
    (back,) = base_vs_monkey.differences(files, "theirs", ["ours"])
    assert back["difference"] == -0.5 and back["high"] < 0


APART, LEVEL = "the interval leaves out 0", "0 lies within: no difference shown"


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0.5, 0.2, 0.8), f"50.0 points above base (+20.0 to +80.0; {APART})."),
        ((-0.1, -0.2, -0.05), f"10.0 points below base (-20.0 to -5.0; {APART})."),
        ((0.1, -0.1, 0.3), f"10.0 points above base (-10.0 to +30.0; {LEVEL})."),
        ((0.0, 0.0, 0.0), f"level with base (+0.0 to +0.0; {LEVEL})."),
    ],
)
def test_a_sentence_says_what_the_interval_allows(numbers, said):
    row = dict(zip(("difference", "low", "high"), numbers, strict=True))
    row |= {"model": "monkey", "against": "base", "split": "nano-caption", "metric": "cider_d"}
    found = base_vs_monkey.sentence(row, {"monkey": "Monkey"})
    assert found == f"Nano, captions, CIDEr-D: Monkey is {said}"
    assert (base_vs_monkey.verdict(row) == base_vs_monkey.NOT_SHOWN) == ("no difference shown" in said)


def test_verdicts_stand_by_variant_and_split():
    rows = [
        {"model": "m", "against": other, "split": split, "low": low, "high": high}
        for other, split, low, high in (
            ("shared", "nano-fine", 0.01, 0.2),
            ("shared", "nano-large", -0.2, -0.01),
            ("none", "nano-fine", 0.0, 0.1),
        )
    ]
    assert base_vs_monkey.verdicts(rows, {"shared": "one adapter"}) == [
        {"against": "one adapter", "Nano, fine print": "better", "Nano, large print": "worse"},
        {"against": "none", "Nano, fine print": "no difference shown"},
    ]


def test_main_rows_and_groups():
    row = {"model": "m", "split": "nano-fine", "group": "all", "metric": "exact_match", "value": 0.5}
    row |= {"low": 0.4, "high": 0.625, "n": 7}
    other = row | {"metric": "anls", "value": 0.9}
    part = row | {"group": "document", "value": 0.25}
    assert base_vs_monkey.main_rows([row, other, part]) == [row]
    assert base_vs_monkey.main_rows([row, other, part], group=None) == [row, part]
    second = row | {"model": "other", "value": 1.0}
    assert base_vs_monkey.by_group([row, second, other, part]) == [
        {"split": "nano-fine", "group": "all", "n": 7, "m": "50.0 (40.0–62.5)", "other": "100.0 (40.0–62.5)"},
        {"split": "nano-fine", "group": "document", "n": 7, "m": "25.0 (40.0–62.5)"},
    ]


def test_models_are_called_by_the_pixels_that_they_see():
    assert base_vs_monkey.model_names(profiles.load("nano")) == {
        "base": "base at 96 px",
        "monkey": "Monkey at 192 px",
    }


# --- cases ---------------------------------------------------------------------------------------


def test_cases_join_models_and_part_by_outcome(files):
    found = qualitative.read({model: file for (model, _), file in files.items()})
    assert [case.asked.id for case in found] == [f"fine-{n}" for n in range(20)]
    kinds = qualitative.outcomes(found, "ours", "theirs")
    counts = {kind: len(some) for kind, some in kinds.items()}
    assert counts == {"only ours": 10, "only theirs": 0, "both": 5, "neither": 5}
    assert kinds["both"][0].right == {"ours": True, "theirs": True}
    assert kinds["neither"][0].given == {"ours": "wrong", "theirs": "wrong"}


def test_a_case_draws_its_image_again_and_knows_its_evidence(files):
    case = qualitative.read({"ours": files["ours", "nano-fine"]})[3]
    assert np.array_equal(np.asarray(case.image), np.asarray(synthetic.make_sample(3, "test").image))
    assert case.evidence == (1.0, 2.0, 30.0, 40.0)


def test_cases_of_other_questions_are_not_joined(files, tmp_path):
    fewer = write(tmp_path / "fewer", [prediction(n, True) for n in range(19)])
    with pytest.raises(
        ValueError, match="predictions of fewer in .* answer other questions than those of ours"
    ):
        qualitative.read({"ours": files["ours", "nano-fine"], "fewer": fewer})


def test_cases_of_different_images_keep_their_order(tmp_path):
    rows = [prediction(n, True, image=f"nano-test-{n // 2}") for n in range(8)]
    found = qualitative.read({"m": write(tmp_path / "p", rows)})
    assert [case.asked.id for case in qualitative.of_different_images(found, 3)] == [
        "fine-0",
        "fine-2",
        "fine-4",
    ]
    assert len(qualitative.of_different_images(found, 9)) == 4
