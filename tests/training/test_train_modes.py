"""Every training mode can learn a few examples by heart."""

import pytest
import torch

from monkeylib import profiles
from monkeylib.experiments.variants import variant_profile
from monkeylib.profiles import build, trainable
from monkeylib.training.batches import ExampleEncoder
from monkeylib.training.data_parallel import Shard
from monkeylib.training.module import MonkeyTraining
from monkeylib.training.optim import parameter_groups
from monkeylib.training.synthetic_records import synthetic_data

SMOKE = profiles.load_profile("smoke")
LORA_COMPONENTS = {
    "vision": {"train": "lora"},
    "resampler": {"train": "full"},
    "language_model": {"train": "lora"},
}


def with_lora_mode(name):
    lora = SMOKE.lora.model_copy(update={"dropout": 0.0, "mode": name})
    return SMOKE.model_copy(update={"lora": lora})


MODES = {
    **{name: with_lora_mode(name) for name in ("per_tile", "shared", "none", "full")},
    "paper": with_lora_mode("per_tile").with_training(components="paper"),
    "packing": with_lora_mode("per_tile").with_training(packing=True),
    "checkpointing": with_lora_mode("per_tile").with_training(checkpointing=True),
    # LoRA beside a frozen language model, which must know how to answer: that of nano-base, with one view.
    "lora": variant_profile(profiles.load_profile("nano"), "one_view").with_training(
        components=LORA_COMPONENTS, language_model_rank=16
    ),
}


def train_on_eight_samples(profile, model):
    """Train until the loss is below 0.01, at most 400 steps; return the losses."""
    trainable.set_trainable(model, profile)
    processor, data = build.build_processor(profile), synthetic_data(profile)
    module = MonkeyTraining(model, processor, profile, data)

    # The first question of each record.
    encoder = ExampleEncoder(processor, profile.training.max_length, profile.training.packing)
    records = [data.train[number] for number in range(8)]
    examples = [encoder.encode(record.first_turns(1)) for record in records]
    batch = module.collator(Shard(), packing=encoder.packing)(examples, examples, 0)

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
    losses = train_on_eight_samples(profile, model)
    assert losses[0] > 0.1
    assert losses[-1] < 0.01
