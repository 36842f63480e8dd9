"""Every way to train learns, and what it saves answers as it did."""

import pytest
import torch

from monkeylib import profiles
from monkeylib.experiments.variants import variant_profile
from monkeylib.profiles import build, trainable
from monkeylib.training.data import ExampleEncoder, Shard, synthetic_data
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.optim import parameter_groups

SMOKE = profiles.load_profile("smoke")
ADAPTER = {"train": "lora"}
LORA = {"vision": ADAPTER, "resampler": {"train": "full"}, "language_model": ADAPTER}


def mode(name):
    adapters = SMOKE.lora.model_copy(update={"dropout": 0.0, "mode": name})
    return SMOKE.model_copy(update={"lora": adapters})


MODES = {
    **{name: mode(name) for name in ("per_tile", "shared", "none", "full")},
    "paper": mode("per_tile").with_training(components="paper"),
    "packing": mode("per_tile").with_training(packing=True),
    "checkpointing": mode("per_tile").with_training(checkpointing=True),
    # Beside a frozen language model, which has to know how to answer: that of nano-base, with one view.
    "lora": variant_profile(profiles.load_profile("nano"), "one_view").with_training(
        components=LORA, language_model_rank=16
    ),
}


def learn(profile, model):
    """Train on eight samples until the loss is below 0.01; returns the losses."""
    trainable.set_trainable(model, profile)
    processor, data = build.build_processor(profile), synthetic_data(profile)
    module = MonkeyTraining(model, processor, profile, data)
    maker = ExampleEncoder(processor, profile.training.max_length, profile.training.packing)
    records = [data.train[number] for number in range(8)]
    rows = [maker.encode(type(r)(r.id, r.images, r.turns[:1], r.dataset, r.location)) for r in records]
    batch = module.collator(Shard(), packing=maker.packing)(rows, rows, 0)
    adamw = torch.optim.AdamW(parameter_groups(model, 0.0), lr=1e-2)
    losses = []
    while len(losses) < 400 and (not losses or losses[-1] >= 0.01):
        loss = module.loss_and_accuracy(batch)["loss"]
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
    model = build.build_model(profile, build.build_processor(profile))
    losses = learn(profile, model)
    print(name, len(losses), losses[0], losses[-1])
    assert losses[0] > 0.1 and losses[-1] < 0.01
