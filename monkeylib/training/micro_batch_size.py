"""The micro-batch that a device has memory for, where a profile names none.

A step is counted on fake tensors (`training.memory`), which takes seconds, so what is small beyond doubt
is not counted.
"""

from __future__ import annotations

import math

import torch

from monkeylib.model.cpu import system_memory
from monkeylib.profiles import Profile
from monkeylib.profiles.schema import VisionConfig
from monkeylib.training import memory

# The rest is for the context of a device and for what its allocator leaves unused.
USABLE_SHARE = 0.9


def choose_micro_batch(
    profile: Profile, devices_per_node: int, nodes: int, available: int | None, total: int | None = None
) -> tuple[int | None, str]:
    """Return the micro-batch of a profile, and a sentence if it was chosen here.

    A profile that names one keeps it, unless it certainly does not fit. So does one whose whole batch fits.

    Args:
        profile: the profile.
        devices_per_node, nodes: what trains together.
        available: bytes of memory for each device, None where that is unknown (`available_memory`).
        total: bytes of memory that each device has, used ones included (`total_memory`); `available` by
            default.

    Raises:
        ValueError: not even one example at once fits, or what the profile names is more than the device has.
    """
    training, devices = profile.training, devices_per_node * nodes
    if available is None:
        return training.micro_batch_size, ""

    # Where devices get different numbers of examples, these are not divided further.
    if training.micro_batch_size is not None or training.batch_size % devices:
        size = training.micro_batch_size or math.ceil(training.batch_size / devices)
        _require_memory(profile, size, devices, available if total is None else total)
        return training.micro_batch_size, ""

    examples = training.batch_size // devices
    usable = int(USABLE_SHARE * available)
    if generous_bytes(profile, examples) <= usable:
        return None, ""

    # Memory grows with each example by the same amount.
    one = _count(profile, 1, devices)
    if one > usable:
        raise ValueError(
            f"one example at once needs {_gb(one)}, and {_gb(usable)} of {_gb(available)} can be used: train "
            "with bf16-true precision or checkpointing, on more devices with --strategy fsdp, or a smaller "
            "profile"
        )
    if examples == 1:
        return None, ""

    each = _count(profile, 2, devices) - one
    if one + (examples - 1) * each <= usable:
        return None, ""

    divisors = [size for size in range(1, examples + 1) if examples % size == 0]
    size = max(size for size in divisors if one + (size - 1) * each <= usable)
    total = one + (examples - 1) * each
    return size, (
        f"micro-batches of {size}: {examples} examples at once would need {_gb(total)}, and {_gb(usable)} of "
        f"{_gb(available)} can be used"
    )


def _require_memory(profile: Profile, size: int, devices: int, total: int) -> None:
    """Check that a device has the memory for a micro-batch, all but what certainly does not matter.

    Raises:
        ValueError: it has not.
    """
    if generous_bytes(profile, size) <= USABLE_SHARE * total:
        return
    needed = _count(profile, size, devices)
    if needed > total:
        raise ValueError(
            f"micro-batches of {size} need {_gb(needed)}, and a device has {_gb(total)}: give a smaller "
            "--micro-batch-size that divides the batch, or leave it out to have it chosen"
        )


def total_memory(devices_per_node: int) -> int | None:
    """Return the bytes of memory that each device has, used ones included; None where that is unknown."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1]
    total = system_memory("MemTotal")
    return None if total is None else total // devices_per_node


def available_memory(devices_per_node: int, nodes: int) -> int | None:
    """Return the bytes of memory for each device, None where the system does not tell.

    A single process takes what is free. Several take their share of all memory, since each of them has to
    come to the same result.
    """
    is_alone = devices_per_node * nodes == 1
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return free if is_alone else total

    memory_bytes = system_memory("MemAvailable" if is_alone else "MemTotal")
    return None if memory_bytes is None else memory_bytes // devices_per_node


def generous_bytes(profile: Profile, examples: int) -> int:
    """Return bytes that a step certainly does not need, by arithmetic alone.

    Each block is given 60 values for each token and feature, and 6 for each pair of tokens and head; weights
    are held four times, with gradients and two moments.
    """
    vision, text = profile.vision, profile.language_model.config
    if isinstance(vision, VisionConfig):
        heads, patch = vision.heads, vision.patch_size
    else:
        heads, patch = vision.config["num_attention_heads"], vision.config["patch_size"]

    views = profile.visual_tokens // profile.tokens_per_view
    patches = (profile.tile_size // patch) ** 2 + 1
    tokens = profile.training.max_length
    width, layers, vocabulary = text["hidden_size"], text["num_hidden_layers"], text["vocab_size"]

    vision_values = views * patches * vision.layers * (60 * vision.width + 6 * heads * patches)
    text_values = tokens * layers * (60 * width + 6 * text["num_attention_heads"] * tokens)
    logits = 4 * tokens * vocabulary
    weights = 16 * vision.layers * vision.width**2 + 20 * layers * width**2 + 3 * vocabulary * width
    return 4 * (examples * (vision_values + text_values + logits) + 4 * weights)


def _count(profile: Profile, examples: int, devices: int) -> int:
    """Return the peak of a step of examples that are as long as they may be."""
    # The random ids of a fake batch must not change what is drawn later.
    with torch.random.fork_rng(devices=[]):
        text_tokens = max(64, profile.training.max_length - profile.visual_tokens - 2)
        batch = memory.random_micro_batch(profile, examples, text_tokens=text_tokens)
    return memory.count_step(profile, [batch], devices=devices, on_gpu=torch.cuda.is_available()).peak


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
