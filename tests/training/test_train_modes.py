"""Every way to train learns, and what it saves answers as it did."""

import pytest
import torch

from monkeylib import profiles
from monkeylib.experiments.variants import variant_profile
from monkeylib.profiles import build
from monkeylib.training import finetune
from monkeylib.training.data import RowMaker, Share
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.optim import parameter_groups

SMOKE = profiles.load("smoke")
ADAPTER = {"train": "lora"}
LORA = {"vision": ADAPTER, "resampler": {"train": "full"}, "language_model": ADAPTER}


def mode(name):
    adapters = SMOKE.lora.model_copy(update={"dropout": 0.0, "mode": name})
    return SMOKE.model_copy(update={"lora": adapters})


MODES = {
    **{name: mode(name) for name in ("per_tile", "shared", "none", "full")},
    "paper": mode("per_tile").retrained(parts="paper"),
    "packed": mode("per_tile").retrained(packed=True),
    "checkpointing": mode("per_tile").retrained(checkpointing=True),
    # Beside a frozen language model, which has to know how to answer: that of nano-base, with one view.
    "lora": variant_profile(profiles.load("nano"), "one_view").retrained(parts=LORA, language_model_rank=16),
}


def learn(profile, model):
    """Train on eight samples until the loss is below 0.01; returns the losses."""
    build.choose_what_trains(model, profile)
    processor, data = finetune.build_processor(profile), finetune.worlds(profile)
    module = MonkeyTraining(model, processor, profile, data)
    maker = RowMaker(processor, profile.training.max_length, profile.training.packed)
    records = [data.train[number] for number in range(8)]
    rows = [maker.encode(type(r)(r.id, r.images, r.turns[:1], r.dataset, r.location)) for r in records]
    batch = module._collate(maker, Share())(rows, rows, 0)
    adamw = torch.optim.AdamW(parameter_groups(model, 0.0), lr=1e-2)
    losses = []
    while len(losses) < 400 and (not losses or losses[-1] >= 0.01):
        loss = module._step(batch)["loss"]
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", MODES)
def test_eight_samples_are_learned_by_heart(name):
    profile = MODES[name]
    torch.manual_seed(0)
    model = finetune.build_model(profile, finetune.build_processor(profile))
    losses = learn(profile, model)
    print(name, len(losses), losses[0], losses[-1])
    assert losses[0] > 0.1 and losses[-1] < 0.01
