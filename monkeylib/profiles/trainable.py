"""Trainable components of a profile's model: which train, at which learning rates, and how the trained
weights are saved and loaded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from monkeylib import resources
from monkeylib.checkpoints import weight_files
from monkeylib.checkpoints.saved import load_saved_processor
from monkeylib.checkpoints.weight_files import WeightFiles, file_inside
from monkeylib.digests import weights_digest
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyProcessor
from monkeylib.profiles.build import build_config, build_model
from monkeylib.profiles.schema import (
    ComponentTraining,
    Profile,
    ResamplerTraining,
    TrainableComponents,
)
from monkeylib.settings_files import Settings, read_json, validate

if TYPE_CHECKING:
    from peft import PeftModel

# A checkpoint of trained weights alone holds them, and the profile from which the rest is built.
TRAINED_WEIGHTS, PROFILE_FILE = "trained.safetensors", "profile.json"

# Under which the digest of the weights that were not trained is saved.
FROZEN_DIGEST = "frozen_digest"

# Values of each weight that the digest reads.
_SAMPLED = 64

# Linear maps of a block of Qwen2 or Llama that get LoRA: those of the released fine-tuning on small GPUs.
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]


# --- what trains


def trainable_components(profile: Profile) -> TrainableComponents:
    """Return how each component trains, with the named choices spelled out.

    Both of these train LoRA, resampler and language model and leave the ViT frozen (paper section 3.1);
    "released" also freezes the norm and the projection after the resampler.
    """
    components = profile.training.components
    if isinstance(components, TrainableComponents):
        return components

    if profile.lora.mode == "full":
        vision = ComponentTraining(train="full")
    else:
        vision = ComponentTraining(train="lora", lr=profile.training.lora_lr)

    return TrainableComponents(
        vision=vision,
        resampler=ResamplerTraining(train="full"),
        language_model=ComponentTraining(train="full"),
        resampler_output=components == "paper",
    )


def set_trainable(model: MonkeyForConditionalGeneration, profile: Profile) -> None:
    """Put a model into training mode and freeze what a profile does not train; add LoRA to its language
    model where that trains by LoRA."""
    components, training = trainable_components(profile), profile.training
    model.train().freeze_for_finetuning(
        components.vision.train,
        components.resampler.train,
        components.language_model.train,
        components.resampler_output,
    )

    if training.language_model_bits is not None:
        from peft import prepare_model_for_kbit_training  # here, since it takes a second

        model.language_model = prepare_model_for_kbit_training(
            model.language_model, use_gradient_checkpointing=training.checkpointing
        )

    if components.language_model.train == "lora":
        model.language_model = add_lora(
            model.language_model, training.language_model_rank, profile.lora.dropout
        )


def add_lora(language_model: PreTrainedModel, rank: int, dropout: float) -> PeftModel:
    """Freeze a language model and add peft's LoRA beside its projections."""
    from peft import LoraConfig, get_peft_model  # here, since it takes a second

    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=dropout,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft reads an attribute by its former name, which the user can do nothing about.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return get_peft_model(language_model.requires_grad_(False), config)


# --- trained weights


def save_trained(
    model: MonkeyForConditionalGeneration,
    state: dict[str, torch.Tensor],
    processor: MonkeyProcessor,
    profile: Profile,
    folder: Path,
) -> None:
    """Write a trained model and its processor, so that `monkeylib.load_model` reads them.

    All weights make a checkpoint as `save_pretrained` writes it, with the language model's LoRA merged into
    its projections. Trained weights alone come with the profile from which the rest is built.

    Args:
        model: says which weights were trained.
        state: the model's weights; a sharded model itself does not hold them.
        processor: saved with the model.
        profile: says which weights to save.
        folder: a new or an empty folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)

    trained = sorted(name for name, weight in model.named_parameters() if weight.requires_grad)
    if profile.training.keep == "trained":
        frozen = {name: state[name] for name, weight in model.named_parameters() if not weight.requires_grad}
        save_file(
            {name: state[name].contiguous() for name in trained},
            folder / TRAINED_WEIGHTS,
            {FROZEN_DIGEST: frozen_digest(frozen, profile)},
        )
        (folder / PROFILE_FILE).write_text(profile.model_dump_json(indent=1))
        return

    if profile.training.strategy == "fsdp":
        # The model itself holds shards, which nothing can be merged into.
        model = _assemble(model, state, processor, profile)
    save_complete(model, processor, folder)


def _assemble(
    model: MonkeyForConditionalGeneration,
    state: dict[str, torch.Tensor],
    processor: MonkeyProcessor,
    profile: Profile,
) -> MonkeyForConditionalGeneration:
    """Return a model like a sharded one that consists of gathered weights, without a copy of them."""
    with torch.device("meta"):
        complete = MonkeyForConditionalGeneration(build_config(profile, processor.tokenizer))
        set_trainable(complete, profile)

    complete.load_state_dict(state, assign=True)
    # Tied weights, two tensors when they come from shards, are one again.
    language_model = complete.language_model
    if has_language_model_lora(complete):
        language_model = language_model.get_base_model()
    language_model.tie_weights()
    complete.generation_config = model.generation_config
    return complete


def save_complete(
    model: MonkeyForConditionalGeneration, processor: MonkeyProcessor, folder: str | Path
) -> None:
    """Write all weights and the processor; the language model's LoRA is merged into its projections, in the
    model too."""
    folder = resources.to_path(folder)
    if has_language_model_lora(model):
        model.language_model = model.language_model.merge_and_unload()
    state = model.state_dict()

    # Tied weights are saved once.
    tied = model.all_tied_weights_keys or {}
    processor.save_pretrained(folder)
    model.save_pretrained(folder, state_dict={name: state[name] for name in state if name not in tied})


def has_language_model_lora(model: MonkeyForConditionalGeneration) -> bool:
    """Return whether a model's language model has LoRA beside its projections."""
    return any(".lora_" in name for name, _ in model.language_model.named_parameters())


def build_trainable(profile: Profile, processor: MonkeyProcessor) -> MonkeyForConditionalGeneration:
    """Build a profile's model with what trains in it as it is before the first step.

    Weights that the profile neither loads nor trains are drawn as in its run; the random state is left as it
    was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(profile.training.seed)
        model = build_model(profile, processor)
        set_trainable(model, profile)
    return model


def load_trained(
    folder: str | Path, quantized: bool = True
) -> tuple[MonkeyForConditionalGeneration, MonkeyProcessor]:
    """Load the model and the processor of a checkpoint of trained weights, on the base that its profile
    names.

    Args:
        folder: the checkpoint.
        quantized: have the language model in the bits in which it was trained, where LoRA can't be merged.

    Raises:
        FileNotFoundError: the base or a file is missing.
        ValueError: a file is broken, or the weights are not those that the profile trains, or not finite; or
            the base is not the one that they were trained on.
    """
    folder = resources.to_path(folder)
    path = file_inside(folder, PROFILE_FILE)
    trained_profile = profile = validate(Profile, Settings(path, read_json(path)))
    if not quantized:
        profile = profile.with_training(language_model_bits=None)
    shapes = weight_files.read_shapes(folder / TRAINED_WEIGHTS)
    processor = load_saved_processor(folder)
    model = build_trainable(profile, processor)

    expected = {name: weight.shape for name, weight in model.named_parameters() if weight.requires_grad}
    weight_files.check_tensors(
        WeightFiles(folder, {TRAINED_WEIGHTS: list(shapes)}, shapes),
        expected,
        advice="train it again, or restore the files as they were written",
        described_by=PROFILE_FILE,
    )
    with safe_open(folder / TRAINED_WEIGHTS, "pt") as file:
        digest = (file.metadata() or {}).get(FROZEN_DIGEST)
    require_same_frozen(model, trained_profile, digest, folder)

    state = weight_files.read_finite(folder / TRAINED_WEIGHTS)
    # The frozen weights come from the base model.
    model.load_state_dict(state, strict=False)
    return model, processor


# --- the weights that were not trained


def frozen_digest(weights: Mapping[str, torch.Tensor], profile: Profile) -> str:
    """Return the digest of the frozen weights, of which some values are read.

    Files, shards and the precision of training don't count.

    Args:
        weights: the frozen weights by their names.
        profile: the profile of the training; a language model that it quantises is left out.
    """
    is_quantized = profile.training.language_model_bits is not None
    samples = {}
    for name in sorted(weights):
        if is_quantized and name.startswith("language_model."):
            continue
        step = max(1, weights[name].numel() // _SAMPLED)
        samples[name] = weights[name].detach().flatten()[::step].bfloat16()
    return weights_digest(samples)


def require_same_frozen(
    model: MonkeyForConditionalGeneration, profile: Profile, digest: str | None, path: Path
) -> None:
    """Check that trained weights get the base model that they were trained on.

    Args:
        model: as the base gives it.
        profile: the profile of the training.
        digest: of the training's frozen weights; weights that an earlier version saved have none.
        path: the trained weights, for the message.

    Raises:
        ValueError: it is another base.
    """
    frozen = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad}
    if digest is not None and frozen_digest(frozen, profile) != digest:
        base = profile.base_checkpoint or "its base"
        raise ValueError(
            f"{resources.display_path(path)} was trained on other weights than {base} has now: restore them, "
            "or train again on these"
        )
