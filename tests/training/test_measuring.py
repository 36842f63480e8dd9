import pytest
import torch

from monkeylib import measuring, profiles
from monkeylib.recipes import Recipe


def test_live_bytes_are_those_of_storages_that_live():
    with measuring.LiveBytes() as live:
        first = torch.zeros(1000)
        second = first.view(10, 100)[:5]  # the same memory
        assert live.current == 4000
        third = first.double()
        assert live.current == 12_000
        del third
        assert live.current == 4000
        del first
        assert live.current == 4000  # a view holds it
        del second
        assert live.current == 0 and live.peak == 12_000


def test_what_autograd_keeps_lives_until_the_backward_pass():
    weight = torch.ones(100, requires_grad=True)
    with measuring.LiveBytes() as live:
        loss = weight.exp().sum()
        assert live.current == 400 + 4
        loss.backward()
        assert live.current == 4 + 400  # the loss and the gradient
        assert live.peak >= 4 + 4 + 400 + 400


def test_a_step_measures_the_same_each_time():
    config = profiles.build_config(profiles.load("smoke"))
    recipe = Recipe(rows=2, text_tokens=20, answer_tokens=5, on_gpu=False)
    assert measuring.step(config, recipe) == measuring.step(config, recipe) > 0


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(on_gpu=False, strategy="ddp", devices=2),
        Recipe(on_gpu=False, language_model="lora", language_model_bits=4),
    ],
)
def test_only_one_cpu_is_measured(recipe):
    config = profiles.build_config(profiles.load("smoke"))
    for measure in (measuring.step, measuring.process_growth):
        with pytest.raises(ValueError, match="on one CPU"):
            measure(config, recipe)


def test_a_process_is_measured_where_the_kernel_says_what_it_holds(monkeypatch):
    monkeypatch.setattr(measuring.sys, "platform", "darwin")
    config = profiles.build_config(profiles.load("smoke"))
    with pytest.raises(OSError, match="on Linux, not on darwin"):
        measuring.process_growth(config, Recipe(on_gpu=False))
