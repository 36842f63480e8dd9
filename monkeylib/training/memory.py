"""Memory of a training step, counted on fake tensors before it runs.

`count_step` runs the real step of the real code (forward, backward, clipping, AdamW) under PyTorch's
`FakeTensorMode`, in which tensors have shapes and no values, and counts the bytes of the tensors that live at
the same time. It needs neither the memory nor the device. `measure_step` counts the same in a step on real
tensors, and a training run does so for its own second step (`callbacks.MemoryUse`).

Not counted: the context of a device (0.5 to 1 GB on a GPU), what its allocator rounds up or leaves unused,
and workspaces of kernels and of the communication library. Leave a tenth of a device for them.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monkeylib import resources, sizing
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration
from monkeylib.model.vision import ACCELERATOR_CHUNK_BYTES
from monkeylib.profiles import Profile, build_config, trainable
from monkeylib.training import strategies
from monkeylib.training.module import MonkeyTraining

# What a run measured, in its folder.
FILE = "memory.json"

# Bytes of a quantised weight: half a byte and a float32 scale for each 64 of them (NF4 of bitsandbytes), or
# one byte.
QUANTIZED_BYTES = {4: 0.5 + 4 / 64, 8: 1.0}

MicroBatch = Mapping[str, Any]

# Asked for a tensor's device, PyTorch calls an operation, too: two of three in a step.
_DEVICE = torch.ops.prim.device.default


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step on each device.

    Fields:
        weights, gradients, optimizer: the device's share of the model's states.
        communication: DDP's buckets, or what FSDP gathers in addition to the device's share.
        peak: the fullest moment of the step. With a single micro-batch it is less than the sum of all, since
            gradients appear while activations go.
    """

    weights: int
    gradients: int
    optimizer: int
    communication: int
    peak: int


def count_step(
    profile: Profile,
    micro_batches: Sequence[MicroBatch],
    config: MonkeyConfig | None = None,
    devices: int = 1,
    on_gpu: bool = True,
) -> StepMemory:
    """Count the memory of an optimiser step on fake tensors.

    Kernels are those of a CPU, which keep dropout masks in more bytes than a GPU's. With several devices and
    with quantised weights the count is that of one device and of plain weights, with the states divided or
    shrunk by arithmetic: see `_over_devices` and `_quantized`.

    Args:
        profile: what trains, precision, checkpointing and strategy.
        micro_batches: the micro-batches of the step on one device, see `random_micro_batch`.
        config: the model's configuration, if not the profile's.
        devices: number of devices.
        on_gpu: the ViT takes as many views at once as on a GPU; a CPU takes fewer.
    """
    bits = profile.training.language_model_bits
    plain_profile = profile.with_training(language_model_bits=None)
    with torch.device("meta"):
        module = _build_module(plain_profile, config)
    model = module.model

    model.vision.chunk_bytes = ACCELERATOR_CHUNK_BYTES if on_gpu else None

    with FakeStepMode(), AllocationTracker() as tracker:
        _allocate(model)
        peak = _step_peak(module, micro_batches, tracker, keep_gradients=devices > 1)

    # AdamW keeps two moments of each trained weight, in the precision of the weight.
    trainable = _bytes(weight for weight in model.parameters() if weight.requires_grad)
    memory = StepMemory(
        weights=_bytes([*model.parameters(), *model.buffers()]),
        gradients=trainable,
        optimizer=2 * trainable,
        communication=0,
        peak=peak,
    )

    if bits is not None:
        memory = _quantized(memory, model, bits)
    if devices > 1:
        memory = _over_devices(memory, model, profile.training.strategy, devices)
    return memory


def measure_step(
    profile: Profile, micro_batches: Sequence[MicroBatch], config: MonkeyConfig | None = None
) -> int:
    """Take the same step on real tensors, on a CPU and with random weights; return its peak in bytes."""
    torch.manual_seed(0)
    with AllocationTracker() as tracker:
        module = _build_module(profile, config)
        return _step_peak(module, micro_batches, tracker)


def random_micro_batch(
    profile: Profile,
    examples: int = 1,
    text_tokens: int = 128,
    num_labels: int = 32,
    config: MonkeyConfig | None = None,
) -> dict[str, Any]:
    """Return a micro-batch of random examples, each of one image and as many tokens as the others.

    Args:
        profile: image sizes.
        examples: examples of the micro-batch.
        text_tokens: tokens of each example without its image.
        num_labels: those of them that carry a label.
        config: the model's configuration, if not the profile's.
    """
    config = config or build_config(profile)
    visual_tokens = sizing.count_visual_tokens(config)
    # `<img>` and `</img>` stand around the visual tokens.
    input_ids = torch.randint(
        4, min(200, config.text_config.vocab_size), (examples, visual_tokens + 2 + text_tokens)
    )
    input_ids[:, 1 : 1 + visual_tokens] = config.image_token_id

    labels = torch.full_like(input_ids, IGNORE_INDEX)
    # The last tokens carry the labels, as an answer does.
    labels[:, -num_labels:] = input_ids[:, -num_labels:]
    grid = sizing.default_grid(config)
    views = examples * sum(sizing.count_views(config))
    return {
        "input_ids": input_ids,
        "labels": labels,
        "turns": torch.where(labels == IGNORE_INDEX, -1, 0),
        # No values: `_with_values` fills them in when the step runs.
        "pixel_values": torch.empty(views, 3, config.tile_size, config.tile_size, device="meta"),
        "grids": torch.tensor([list(grid)] * examples),
        "num_items_in_batch": examples * num_labels,
        "tokens": input_ids.numel(),
    }


def without_values(batch: MicroBatch) -> dict[str, Any]:
    """Return a micro-batch in which images have their shape alone; ids and labels keep their values."""
    return {name: _on_meta(value) for name, value in batch.items()}


def read_memory(folder: str | Path) -> dict[str, int | float | None]:
    """Return what a run measured, as a row of a table: bytes in MB, and the estimate's share of them.

    Estimate and share are None where the estimate had failed.

    Raises:
        FileNotFoundError: nothing was measured there: a run of one step, or of several processes on CPUs.
    """
    folder = resources.to_path(folder)
    result = json.loads((folder / FILE).read_bytes())
    # Bytes -> MB
    measured = result["measured"] / 1e6
    row: dict[str, int | float | None] = {
        "step": result["step"],
        "measured, MB": round(measured, 2),
        "estimated, MB": None,
        "ratio": None,
    }

    if "estimated" in result:
        estimated = result["estimated"] / 1e6
        row |= {"estimated, MB": round(estimated, 2), "ratio": round(estimated / measured, 3)}
    return row


# --- the step


def _build_module(profile: Profile, config: MonkeyConfig | None) -> MonkeyTraining:
    model = MonkeyForConditionalGeneration(config or build_config(profile))
    trainable.set_trainable(model, profile)
    if profile.training.precision == "bf16-true":
        model.to(torch.bfloat16)  # as Lightning does
    return MonkeyTraining(model, processor=None, profile=profile, data=None)


def _step_peak(
    module: MonkeyTraining,
    micro_batches: Sequence[MicroBatch],
    tracker: AllocationTracker,
    keep_gradients: bool = False,
) -> int:
    """Take the second optimiser step of a run, and return the most bytes that lived in it.

    Args:
        module: model and optimiser.
        micro_batches: the micro-batches of the step.
        tracker: counts; it has been entered.
        keep_gradients: all gradients exist from the start, as from the second micro-batch of a step on.
    """
    training = module.profile.training
    optimizer = module.configure_optimizers()["optimizer"]
    trainable = [weight for weight in module.parameters() if weight.requires_grad]

    # AdamW's moments are made in the first step, whatever its gradients are.
    _set_gradients(trainable)
    optimizer.step()
    optimizer.zero_grad()
    if keep_gradients:
        _set_gradients(trainable)

    # Only now begins the step that is counted.
    tracker.peak = tracker.current
    for micro_batch in micro_batches:
        batch = {name: _with_values(value) for name, value in micro_batch.items()}
        tracker.add_all(batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bf16-mixed"):
            loss = module.loss_and_accuracy(batch)["loss"] / len(micro_batches)
        loss.backward()

    nn.utils.clip_grad_norm_(trainable, training.gradient_clip)
    optimizer.step()
    optimizer.zero_grad()
    return tracker.peak


def _set_gradients(weights: Iterable[nn.Parameter]) -> None:
    for weight in weights:
        weight.grad = torch.zeros_like(weight)


def _on_meta(value: Any) -> Any:
    is_image = isinstance(value, Tensor) and value.is_floating_point()
    return torch.empty_like(value, device="meta") if is_image else value


def _with_values(value: Any) -> Any:
    """Return random values in place of a tensor on the meta device."""
    is_meta = isinstance(value, Tensor) and value.is_meta
    return torch.rand(value.shape, dtype=value.dtype) if is_meta else value


def _allocate(model: nn.Module) -> None:
    """Put fake tensors on the CPU in place of a model's tensors on the meta device; tied ones stay tied."""
    allocated: dict[int, Tensor] = {}

    def allocate(tensor: Tensor) -> Tensor:
        if id(tensor) not in allocated:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            is_parameter = isinstance(tensor, nn.Parameter)
            allocated[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return allocated[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = allocate(tensor)


# --- quantised weights and several devices


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors, each counted once."""
    unique = {id(tensor): tensor for tensor in tensors}
    return sum(tensor.numel() * tensor.element_size() for tensor in unique.values())


def _quantized(memory: StepMemory, model: MonkeyForConditionalGeneration, bits: int) -> StepMemory:
    """Shrink the linear maps in the language model's layers to 4 or 8 bits.

    Each is unpacked while it is used, so that the largest of them takes its full size once more. Token
    embeddings, output projection and LoRA stay as they are.
    """
    linear_maps = [
        weight
        for name, weight in model.language_model.named_parameters()
        if ".layers." in name and weight.ndim == 2 and not weight.requires_grad
    ]
    values = sum(weight.numel() for weight in linear_maps)
    saved = _bytes(linear_maps) - int(values * QUANTIZED_BYTES[bits])

    unpacked = max(_bytes([weight]) for weight in linear_maps)
    return replace(memory, weights=memory.weights - saved, peak=memory.peak - saved + unpacked)


def _over_devices(
    memory: StepMemory, model: MonkeyForConditionalGeneration, strategy: str, devices: int
) -> StepMemory:
    """Divide the states of a step over devices; activations are those of each device's own micro-batch.

    DDP holds all states on every device, and its buckets as much again as the gradients. FSDP divides them,
    and holds in full, in addition to its share: what lies outside of the blocks, the block in work and the
    next one, and the gradients of these without the next. All gradients exist from the start, as from the
    second micro-batch of a step on.
    """
    # DDP gathers gradients in buckets of the same size.
    if strategy != "fsdp":
        communication = memory.gradients
        return replace(memory, communication=communication, peak=memory.peak + communication)

    activations = memory.peak - memory.weights - memory.gradients - memory.optimizer
    share = replace(
        memory,
        weights=memory.weights // devices,
        gradients=memory.gradients // devices,
        optimizer=memory.optimizer // devices,
        communication=_gathered_bytes(model),
    )

    states = share.weights + share.gradients + share.optimizer
    return replace(share, peak=states + share.communication + activations)


def _gathered_bytes(model: MonkeyForConditionalGeneration) -> int:
    """Return the bytes of weights and gradients that FSDP holds in full."""
    blocks = [list(block.parameters()) for block in strategies.sharded_blocks(model)]
    in_blocks = {id(weight) for block in blocks for weight in block}
    outside = [weight for weight in model.parameters() if id(weight) not in in_blocks]
    # The block in work and the next one, which FSDP prefetches: both as large as the largest.
    largest = max(blocks, key=_bytes)
    gradients = [weight for weight in [*outside, *largest] if weight.requires_grad]
    return _bytes(outside) + 2 * _bytes(largest) + _bytes(gradients)


# --- counting


class AllocationTracker(TorchDispatchMode):
    """Count the bytes of tensors that PyTorch's operations allocate while this is entered, for as long as
    they live.

    Tensors that share their memory count once. What a kernel uses inside and gives back does not count.

    Fields:
        current: bytes that live now.
        peak: the most that did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation and count what it has allocated."""
        result = func(*args, **(kwargs or {}))
        if func is _DEVICE:
            return result

        self.add_all(result)
        return result

    def add_all(self, tensors: Any) -> None:
        """Count all tensors in a nested structure of lists and dictionaries."""
        for leaf in tree_leaves(tensors):
            if isinstance(leaf, Tensor):
                self.add(leaf)

    def add(self, tensor: Tensor) -> None:
        """Count a tensor, if it isn't counted yet; one on the meta device takes no memory."""
        if tensor.device.type == "meta":
            return

        # Views share a storage, and a tensor that is saved for the backward pass keeps it alive.
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive[key] = weakref.ref(storage, partial(self._remove, key, size))
            self.current += size
            self.peak = max(self.peak, self.current)

    def _remove(self, key: int, size: int, _: weakref.ref) -> None:
        del self._alive[key]
        self.current -= size


class FakeStepMode(FakeTensorMode):
    """Fake tensors for a training step: floating-point tensors have shapes alone, integers and booleans keep
    their values.

    A step looks at values of ids, labels and grids: where the visual tokens go, which positions have a label,
    which tile has which LoRA. All of these are small.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on integers for real, and any other one on fake tensors."""
        kwargs = kwargs or {}
        if func is _DEVICE:
            return super().dispatch(func, types, args, kwargs)

        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        any_fake = any(isinstance(tensor, FakeTensor) for tensor in inputs)

        if inputs and not any_fake and not _has_floats(inputs):
            result = func(*args, **kwargs)
            if not _has_floats(tree_leaves(result)):
                return result

        # The shape of what a boolean mask selects depends on the mask: turn it into indices.
        if any_fake and func is torch.ops.aten.index.Tensor:
            values, indices = args
            args = (values, _mask_to_indices(indices))

        result = super().dispatch(func, types, args, kwargs)
        if not inputs and isinstance(result, FakeTensor) and not result.is_floating_point():
            return func(*args, **kwargs)  # a new tensor of integers, as of `torch.arange`
        return result


def _has_floats(values: Iterable[Any]) -> bool:
    return any(isinstance(value, Tensor) and value.is_floating_point() for value in values)


def _mask_to_indices(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    expanded: list[Tensor | None] = []
    for index in indices:
        is_mask = isinstance(index, Tensor) and index.dtype == torch.bool
        if is_mask and not isinstance(index, FakeTensor):
            expanded += index.nonzero().unbind(1)
        else:
            expanded.append(index)

    return expanded
