"""A profile's processor and model, ready to train."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from monkeylib import profiles, resources
from monkeylib.checkpoints import llava, pretrained, released
from monkeylib.checkpoints.loading import build_with_weights, load_processor
from monkeylib.data.synthetic.tokenizer import build_tokenizer
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor, normalisation
from monkeylib.profiles.schema import Encoder, Part, Parts, Profile
from monkeylib.prompts import SEPARATOR
from monkeylib.tiling import Grid

IMAGE_TOKENS = ("<img>", "</img>", "<imgpad>")


def build_pretrained_tokenizer(profile: Profile) -> PreTrainedTokenizerBase:
    """The tokenizer of the profile's language model, with the image's three tokens at the end; LLaVA-1.5 has
    one of its own.

    Raises:
        FileNotFoundError: it is not to be had.
        ValueError: the profile starts from a whole checkpoint of another kind.
    """
    if not isinstance(profile.vision, Encoder):
        raise ValueError(
            f"The profile {profile.name} starts from {profile.text.pretrained}: convert that checkpoint with "
            "`monkeylib convert`, and name the folder as the profile's base_checkpoint."
        )
    tokenizer = pretrained.tokenizer(profile.text.pretrained)
    if profile.text.image_ids.start is not None:
        tokenizer.add_tokens(list(IMAGE_TOKENS), special_tokens=True)
    return tokenizer


def build_from_pretrained(profile: Profile, config: MonkeyConfig) -> MonkeyForConditionalGeneration:
    """The profile's model: its encoder and language model, or its LLaVA-1.5 whole, and all else fresh.

    Raises:
        FileNotFoundError: the weights are not to be had.
        ValueError: they do not fit the configuration.
    """
    if profile.vision.pretrained is None:
        return build_with_weights(config, llava.state_dict(profile.text.pretrained), llava.FRESH)
    encoder = pretrained.encoder(profile.vision.pretrained, config.vision_config)
    language = pretrained.language_model(profile.text.pretrained, config.text_config.vocab_size)
    state = {f"vision.backbone.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {f"language_model.{name}": tensor for name, tensor in language.state_dict().items()}
    return build_with_weights(config, state, fresh=("vision.lora.", "resampler."))


if TYPE_CHECKING:
    from peft import PeftModel


# In a checkpoint of trained weights alone: they, and the profile that the rest is built from.
TRAINED, PROFILE = "trained.safetensors", "profile.json"
# Linear maps of Qwen2's and Llama's blocks: those that the release's recipe for small GPUs adapts.
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]


def build_processor(profile: Profile) -> MonkeyProcessor:
    """The processor of a profile: its grid of tiles, and the tokenizer of its base checkpoint, of its
    pretrained language model or, without either, of the nano world.

    Raises:
        FileNotFoundError, ValueError: as `build_pretrained_tokenizer`, or there is no base checkpoint.
    """
    mean, std = normalisation(getattr(profile.vision, "model_type", "monkey_vision"))
    images = MonkeyImageProcessor(
        profile.tile_size,
        profile.rows,
        profile.cols,
        profile.views,
        mean,
        std,
        profile.global_from,
        profile.resize_mode,
    )
    prompt_prefix = profile.text.prompt_prefix
    if profile.text.pretrained and profile.base_checkpoint:
        of_base = load_processor(base_folder(profile))
        tokenizer, tokens = of_base.tokenizer, of_base.image_tokens
        return MonkeyProcessor(images, tokenizer, profile.queries, SEPARATOR, tokens, prompt_prefix)
    tokenizer = build_pretrained_tokenizer(profile) if profile.text.pretrained else build_tokenizer()
    tokens = IMAGE_TOKENS
    if profile.text.image_ids.start is None:
        tokens = (tokenizer.convert_ids_to_tokens(profile.text.image_ids.place),)
    return MonkeyProcessor(images, tokenizer, profile.queries, SEPARATOR, tokens, prompt_prefix)


def base_folder(profile: Profile) -> Path:
    """Where the profile's base checkpoint lies.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = resources.REPOSITORY / profile.base_checkpoint
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"There is no base model at {resources.display_path(folder)}: name a checkpoint folder, which holds a "
            "config.json (nano-base is part of the repository, and `make nano-base` trains it anew)."
        )
    return folder


def build_model(profile: Profile, processor: MonkeyProcessor) -> MonkeyForConditionalGeneration:
    """The profile's model: weights of its base checkpoint or its pretrained parts where it names them, fresh
    adapters, everything else random.

    Raises:
        FileNotFoundError: the base checkpoint or a pretrained part is missing.
        ValueError: weights that do not fit the profile.
    """
    config = profiles.build_config(profile, processor.tokenizer)
    if profile.base_checkpoint is None and profile.text.pretrained:
        return build_from_pretrained(profile, config)
    if profile.base_checkpoint is None:
        return MonkeyForConditionalGeneration(config)
    folder, exact = base_folder(profile), profile.training.precision != "bf16-true"
    options: dict[str, Any] = {"dtype": torch.float32 if exact else torch.bfloat16}
    if released.is_released(folder):
        _check_released(profile, config, folder)
        return released.load_released(folder, grid=Grid(profile.rows, profile.cols), **options)
    if bits := profile.training.language_model_bits:
        place = int(os.environ.get("LOCAL_RANK", 0)) if torch.cuda.is_available() else "cpu"
        options |= {"quantization_config": quantisation(bits), "device_map": {"": place}}
    return MonkeyForConditionalGeneration.from_pretrained(folder, config=config, **options)


def quantisation(bits: int) -> BitsAndBytesConfig:
    """The language model in 4 or 8 bits, everything before it untouched.

    Raises:
        ModuleNotFoundError: bitsandbytes is not installed.
        ValueError: other bits.
    """
    if bits not in (4, 8):
        raise ValueError(f"weights are quantised to 4 or 8 bits, got {bits}: pass bits=4, bits=8 or nothing")
    if find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(
            f"loading in {bits} bits needs the package bitsandbytes, which isn't installed here: "
            "`pip install bitsandbytes`"
        )
    kept = ["vision", "resampler", "lm_head"]
    return BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        llm_int8_skip_modules=kept,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _check_released(profile: Profile, config: MonkeyConfig, folder: Path) -> None:
    """Raises:
    ValueError: the profile asks for something else than the model of a released folder has.
    """
    if profile.training.language_model_bits:
        raise ValueError(
            f"{folder} is in the released layout, whose language model is not quantised on the way: convert "
            f"it with `monkeylib convert {folder} NEW_FOLDER` and name the new folder"
        )
    theirs = released.open_released(folder, Grid(profile.rows, profile.cols)).config
    fixed = ("lora_mode", "views", "attention_rank", "mlp_rank", "mlp_lora_input", "lora_dropout")
    for name in fixed:
        if (found := getattr(theirs, name)) != (wanted := getattr(config, name)):
            raise ValueError(
                f"the model of {folder} is in the released layout and has the {name} {found}, the profile "
                f"{profile.name} asks for {wanted}: change the profile"
            )


def parts_of(profile: Profile) -> Parts:
    """What trains, with the named choices spelled out.

    Both train adapters, resampler and language model and leave the ViT frozen (paper section 3.1); "release"
    also leaves the norm and the projection after the resampler.
    """
    if isinstance(profile.training.parts, Parts):
        return profile.training.parts
    if profile.lora.mode == "full":
        vision = Part(train="full")
    else:
        vision = Part(train="lora", lr=profile.training.lora_lr)
    whole = Part(train="full")
    paper = profile.training.parts == "paper"
    return Parts(vision=vision, resampler=whole, language_model=whole, resampler_output=paper)


def choose_what_trains(model: MonkeyForConditionalGeneration, profile: Profile) -> None:
    """Freeze parts as the profile says, and give the language model its LoRA if it trains by adapter."""
    parts = parts_of(profile)
    model.train().freeze_for_finetuning(
        parts.vision.train, parts.resampler.train, parts.language_model.train, parts.resampler_output
    )
    recipe = profile.training
    if recipe.language_model_bits:
        from peft import prepare_model_for_kbit_training  # here, since it takes a second

        model.language_model = prepare_model_for_kbit_training(
            model.language_model, use_gradient_checkpointing=recipe.checkpointing
        )
    if parts.language_model.train == "lora":
        dropout = profile.lora.dropout
        model.language_model = with_lora(model.language_model, recipe.language_model_rank, dropout)


def with_lora(language_model: PreTrainedModel, rank: int, dropout: float) -> PeftModel:
    """The language model, frozen, with LoRA of peft beside its projections."""
    from peft import LoraConfig, get_peft_model  # here, since it takes a second

    lora = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=dropout,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(language_model.requires_grad_(False), lora)


def save(
    model: MonkeyForConditionalGeneration,
    state: dict[str, torch.Tensor],
    processor: MonkeyProcessor,
    profile: Profile,
    folder: Path,
) -> None:
    """Write a trained model and its processor; `load_trained` and `monkeylib.load_model` read it.

    With all weights it is a checkpoint as `save_pretrained` writes it, the language model's LoRA merged into
    its projections. With the trained ones alone it holds them and the profile that the rest is built from.

    Args:
        state: the model's weights, which a sharded model itself doesn't hold.
    """
    folder.mkdir(parents=True)
    processor.save_pretrained(folder)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if profile.training.keep == "trained":
        save_file({name: state[name].contiguous() for name in sorted(trained)}, folder / TRAINED)
        (folder / PROFILE).write_text(profile.model_dump_json(indent=1))
        return
    if any(name.startswith("language_model.") and ".lora_" in name for name in trained):
        model.load_state_dict(state)
        model.language_model = model.language_model.merge_and_unload()
        state = model.state_dict()
    tied = model.all_tied_weights_keys or {}  # they are one tensor in the model, and two when sharded
    model.save_pretrained(folder, state_dict={name: state[name] for name in state if name not in tied})


def load_trained(folder: Path) -> tuple[MonkeyForConditionalGeneration, MonkeyProcessor]:
    """The model and processor of a checkpoint of trained weights, on the base that its profile names.

    Raises:
        FileNotFoundError: the base is missing.
        ValueError: the weights are not those that the profile trains.
    """
    profile = Profile.model_validate_json((folder / PROFILE).read_text())
    processor = MonkeyProcessor.from_pretrained(folder)
    model = build_model(profile, processor)
    choose_what_trains(model, profile)
    expected = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = load_file(folder / TRAINED)
    if different := expected ^ state.keys():
        raise ValueError(
            f"{folder} does not hold what its profile trains, for example {min(different)}: "
            "train it anew, or restore the files as they were written"
        )
    model.load_state_dict(state, strict=False)
    return model, processor


def rates(profile: Profile) -> dict[str, float]:
    """Learning rates by the beginning of parameters' names, for parts that have their own."""
    parts = parts_of(profile)
    named = {
        "vision.": parts.vision.lr,
        "resampler.": parts.resampler.lr,
        "language_model.": parts.language_model.lr,
    }
    return {name: rate for name, rate in named.items() if rate is not None}
