"""What a run measures of its own memory, beside what was planned."""

import json

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from monkeylib import profiles
from monkeylib.data.records import BadRecord
from monkeylib.training import finetune, memory
from monkeylib.training.memory import FILE, recipe_of
from monkeylib.training.module import Data


def measured(profile, folder):
    return json.loads((finetune.run(profile, folder).parent / FILE).read_text())


@pytest.mark.parametrize(
    "changes",
    [{}, {"per_device": 2}, {"checkpointing": True}, {"parts": "paper", "per_device": 1}],
    ids=["one pass", "two passes", "checkpointing", "paper's parts in four passes"],
)
def test_a_nano_run_takes_what_was_planned(changes, tmp_path):
    profile = profiles.load("nano").retrained(steps=2, batch_size=4, warmup=1, **changes)
    found = measured(profile, tmp_path / "run")
    assert found["step"] == 2
    assert found["planned"] == pytest.approx(found["measured"], rel=0.1)
    row = memory.read(tmp_path / "run")
    assert row["measured, MB"] == pytest.approx(found["measured"] / 1e6, rel=1e-3)
    assert row["ratio"] == pytest.approx(found["planned"] / found["measured"], rel=1e-3)
    assert _get_current_dispatch_mode() is None


def test_packed_rows_are_measured_and_not_planned(tmp_path):
    profile = profiles.load("smoke").retrained(steps=2, warmup=1, packed=True)
    found = measured(profile, tmp_path / "run")
    assert found["measured"] > 0 and found["planned"] is None
    assert memory.read(tmp_path / "run").keys() == {"step", "measured, MB"}


def test_a_run_that_fails_while_it_is_measured_counts_no_longer(tmp_path):
    profile = profiles.load("smoke").retrained(steps=3, warmup=1)
    worlds = finetune.worlds(profile)

    class Broken:
        def __getitem__(self, number):
            if number >= worlds.offset + 2 * profile.training.batch_size:
                raise BadRecord("a record that can't be read")
            return worlds.train[number]

    with pytest.raises(BadRecord):
        finetune.run(profile, tmp_path / "run", data=Data(Broken(), None, "broken", offset=worlds.offset))
    assert _get_current_dispatch_mode() is None
    assert not (tmp_path / "run" / FILE).exists()


def test_the_recipe_of_a_pass_is_the_profile_s():
    profile = profiles.load("nano").retrained(precision="bf16-mixed", strategy="fsdp", parts="paper")
    labels = torch.full((2, 400), -100)
    labels[0, -7:] = 5
    batch = {"labels": labels, "pixel_values": torch.zeros(10, 3, 96, 96)}
    recipe = recipe_of(profile, batch, 4, 8, True)
    assert (recipe.strategy, recipe.devices, recipe.rows, recipe.passes) == ("fsdp", 4, 2, 8)
    assert (recipe.text_tokens, recipe.answer_tokens) == (400 - 322, 4)
    assert recipe.resampler_output and recipe.precision == "bf16-mixed" and recipe.on_gpu
    batch["pixel_values"] = torch.zeros(9, 3, 96, 96)
    assert recipe_of(profile, batch, 4, 8, True) is None
