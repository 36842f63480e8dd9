"""Parameter groups of the optimiser, and the schedule of the learning rate."""

import pytest
import torch

from monkeylib.training import optim


def test_lora_has_its_own_rate_and_only_matrices_decay(tiny):
    model = tiny()
    model.freeze_for_finetuning()
    groups = optim.parameter_groups(model, 0.1, {"vision.": 3e-3})
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    grouped = set()
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            grouped.add(name)
            assert group.get("lr") == (3e-3 if "_lora" in name else None)

            decays = parameter.ndim >= 2 and not name.endswith(("query", "positions"))
            assert group["weight_decay"] == (0.1 if decays else 0.0)
    assert grouped == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_learning_rate_warms_up_and_decays_to_its_floor():
    adamw = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = optim.cosine_with_warmup(adamw, warmup=4, steps=20)
    rates = []
    for _ in range(21):
        rates.append(adamw.param_groups[0]["lr"])
        adamw.step()
        schedule.step()

    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[20] == pytest.approx(0.04)
    assert rates[12] == pytest.approx(2 * (0.02 + 0.98 / 2)), "half-way down the cosine"
