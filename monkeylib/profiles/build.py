"""Build the configuration, the processor and the model of a profile."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from monkeylib import resources
from monkeylib.checkpoints import llava, pretrained, released, saved, weight_files
from monkeylib.checkpoints.loading import build_with_weights, check_checkpoint, load_processor
from monkeylib.checkpoints.saved import (
    CONFIGURATION_ERRORS,
    check_tokenizer_sizes,
    describe_problem,
    explain_tokenizer,
)
from monkeylib.checkpoints.weight_files import WeightFiles
from monkeylib.errors import is_out_of_memory, nearest
from monkeylib.model import (
    MonkeyConfig,
    MonkeyForConditionalGeneration,
    MonkeyProjectorConfig,
    MonkeyResamplerConfig,
    MonkeyVisionConfig,
)
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor, normalisation
from monkeylib.profiles.schema import HFVisionConfig, Profile
from monkeylib.prompts import IMAGE_TOKENS, SEPARATOR
from monkeylib.tiling import Grid

# What a model in the released layout fixes, and a profile on it has to agree with.
_FIXED_BY_RELEASE = (
    "lora_mode",
    "views",
    "attention_rank",
    "mlp_rank",
    "mlp_lora_input",
    "lora_on_global_view",
    "lora_dropout",
)


# --- configuration


def build_config(profile: Profile, tokenizer: PreTrainedTokenizerBase | None = None) -> MonkeyConfig:
    """Return the configuration of a profile's model.

    Args:
        profile: sizes of the components, tile grid and LoRA.
        tokenizer: takes vocabulary size and special ids from it rather than from the profile.
    """
    text_fields = dict(profile.language_model.config)
    ids = profile.language_model.image_token_ids
    start_id, end_id, placeholder_id = ids.start, ids.end, ids.placeholder

    if tokenizer is not None:
        # A pretrained model may have more embeddings than its tokenizer has tokens.
        embeddings = text_fields.get("vocab_size", 0) if profile.language_model.pretrained else 0
        text_fields["vocab_size"] = max(len(tokenizer), embeddings)
        text_fields["eos_token_id"] = tokenizer.eos_token_id
        text_fields["pad_token_id"] = tokenizer.pad_token_id
        # LLaVA-1.5 has a placeholder alone, whose id its own configuration states.
        if start_id is not None:
            start_id, end_id, placeholder_id = tokenizer.convert_tokens_to_ids(list(IMAGE_TOKENS))

    vision_config = _vision_config(profile)
    if profile.resampler_heads is None:
        resampler_config: PreTrainedConfig = MonkeyProjectorConfig(pooling=profile.pooling)
    else:
        resampler_config = MonkeyResamplerConfig(
            queries=profile.queries, pooling=profile.pooling, heads=profile.resampler_heads
        )

    has_fixed_grid = profile.views != "global" and profile.auto_tiles is None
    return MonkeyConfig(
        vision_config=vision_config,
        resampler_config=resampler_config,
        text_config=_hf_config(profile, "language_model", text_fields),
        tile_size=profile.tile_size,
        image_start_id=start_id,
        image_end_id=end_id,
        image_token_id=placeholder_id,
        grids=[[profile.rows, profile.cols]] if has_fixed_grid else [],
        max_tiles=profile.auto_tiles,
        views=profile.views,
        lora_mode=profile.lora.mode,
        attention_rank=profile.lora.attention_rank,
        mlp_rank=profile.lora.mlp_rank,
        lora_on_global_view=profile.lora.on_global_view,
        lora_dropout=profile.lora.dropout,
    )


def _hf_config(profile: Profile, section: str, fields: dict[str, Any]) -> PreTrainedConfig:
    """Build a configuration of transformers from a section of a profile.

    Raises:
        ValueError: an unknown type, or a value that fits no model.
    """
    model_type = getattr(profile, section).model_type
    place = f"the profile {profile.name}, {section}"
    if model_type not in CONFIG_MAPPING:
        hint = nearest(model_type, CONFIG_MAPPING)
        raise ValueError(f"{place}.model_type: transformers knows no {model_type!r}; {hint}".rstrip("; "))

    try:
        return AutoConfig.for_model(model_type, **fields)
    except CONFIGURATION_ERRORS as error:
        raise ValueError(f"{place}.config: {describe_problem(error)}") from error


def _vision_config(profile: Profile) -> PreTrainedConfig:
    if isinstance(profile.vision, HFVisionConfig):
        return _hf_config(profile, "vision", profile.vision.config)
    return MonkeyVisionConfig(
        tile_size=profile.tile_size, **profile.vision.model_dump(exclude={"pretrained"})
    )


# --- processor


def build_processor(profile: Profile, tokenizer: PreTrainedTokenizerBase | None = None) -> MonkeyProcessor:
    """Build the processor of a profile.

    Args:
        profile: tile grid and prompt prefix.
        tokenizer: by default that of the profile's `language_model.tokenizer`, of its base checkpoint, or of
            its pretrained language model.

    Raises:
        FileNotFoundError: the tokenizer or the base checkpoint is missing.
        ValueError: the profile starts from a complete checkpoint of another kind.
    """
    language_model = profile.language_model
    image_tokens: tuple[str, ...] = IMAGE_TOKENS
    if tokenizer is None and language_model.tokenizer is None and profile.base_checkpoint is not None:
        base_processor = load_processor(base_folder(profile))
        tokenizer, image_tokens = base_processor.tokenizer, tuple(base_processor.image_tokens)
    else:
        tokenizer = tokenizer or _load_tokenizer(profile)
        if language_model.image_token_ids.start is None:
            image_tokens = (tokenizer.convert_ids_to_tokens(language_model.image_token_ids.placeholder),)

    # Pixels are normalised as the vision backbone was trained.
    mean, std = normalisation(getattr(profile.vision, "model_type", "monkey_vision"))
    image_processor = MonkeyImageProcessor(
        tile_size=profile.tile_size,
        rows=profile.rows,
        cols=profile.cols,
        views=profile.views,
        image_mean=mean,
        image_std=std,
        global_from=profile.global_from,
        resize_mode=profile.resize_mode,
        max_tiles=profile.auto_tiles,
        tile_overlap=profile.tile_overlap,
        exact=profile.exact,
    )
    return MonkeyProcessor(
        image_processor,
        tokenizer,
        queries=profile.tokens_per_view,
        separator=SEPARATOR,
        image_tokens=image_tokens,
        prompt_prefix=language_model.prompt_prefix,
    )


def _load_tokenizer(profile: Profile) -> PreTrainedTokenizerBase:
    """Load the tokenizer that a profile names, or that of its pretrained language model."""
    if profile.language_model.tokenizer is None:
        return load_pretrained_tokenizer(profile)

    folder = resources.REPOSITORY / profile.language_model.tokenizer
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no tokenizer at {resources.display_path(folder)}: name a folder with a "
            f"tokenizer as language_model.tokenizer of the profile {profile.name}"
        )

    check_tokenizer_sizes(folder)
    with explain_tokenizer(folder):
        return PreTrainedTokenizerFast.from_pretrained(folder)


def load_pretrained_tokenizer(profile: Profile) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a profile's pretrained language model, and append the image's three tokens;
    LLaVA-1.5 has one of its own.

    Raises:
        FileNotFoundError: it is neither a local folder nor on a hub.
        ValueError: the profile starts from a complete checkpoint of another kind.
    """
    require_start(profile)
    tokenizer = pretrained.load_tokenizer(profile.language_model.pretrained)
    if profile.language_model.image_token_ids.start is not None:
        tokenizer.add_tokens(list(IMAGE_TOKENS), special_tokens=True)
    return tokenizer


# --- model


def build_model(profile: Profile, processor: MonkeyProcessor) -> MonkeyForConditionalGeneration:
    """Build the model of a profile, with the weights of its base checkpoint or of its pretrained components
    where it names them. LoRA is fresh, and everything else random.

    Raises:
        FileNotFoundError: the base checkpoint or a pretrained component is missing.
        ValueError: weights that do not fit the profile.
    """
    config = build_config(profile, processor.tokenizer)
    if profile.base_checkpoint is not None:
        return _load_base(profile, config)
    if profile.language_model.pretrained is not None:
        return _load_pretrained(profile, config)
    try:
        return MonkeyForConditionalGeneration(config)
    except CONFIGURATION_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"the profile {profile.name}: {describe_problem(error)}") from error


def require_start(profile: Profile) -> None:
    """Check that there is something to start from, before anything is computed.

    Of a base checkpoint, everything is checked, whatever of it the profile uses: what is broken there was
    meant for another model, or is no base at all.

    Raises:
        FileNotFoundError: the base checkpoint, or a part of it, isn't there.
        ValueError: the base checkpoint is broken, or the profile starts from a complete checkpoint of another
            kind, which has to be converted.
    """
    if profile.base_checkpoint is not None:
        check_checkpoint(base_folder(profile), Grid(profile.rows, profile.cols))
        if profile.projector is not None:
            projector_file(profile)
        return

    name, has_tokenizer = profile.language_model.pretrained, profile.language_model.tokenizer is not None
    if not has_tokenizer and (name is None or not isinstance(profile.vision, HFVisionConfig)):
        raise ValueError(
            f"The profile {profile.name} starts from {name}: convert that checkpoint with "
            "`monkeylib convert`, and name the folder as the profile's base_checkpoint."
        )


def base_folder(profile: Profile) -> Path:
    """Return the folder of a profile's base checkpoint.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = resources.REPOSITORY / profile.base_checkpoint
    if not (folder / "config.json").is_file():
        otherwise = (
            "name a checkpoint folder, which holds a config.json (nano-base is part of the repository, and "
            "`make nano-base` trains it anew)"
        )
        raise FileNotFoundError(
            f"there is no base model at {resources.display_path(folder)}: "
            f"{resources.suggest_model(folder.name, otherwise)}"
        )
    return folder


def require_bits(bits: int) -> None:
    """Check that weights can be quantised to so many bits here.

    Raises:
        ModuleNotFoundError: bitsandbytes is not installed.
        ValueError: neither 4 nor 8 bits.
    """
    if bits not in (4, 8):
        raise ValueError(f"weights are quantised to 4 or 8 bits, got {bits}: pass bits=4, bits=8 or nothing")
    if find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(
            f"loading in {bits} bits needs the package bitsandbytes, which isn't installed here: "
            "`pip install bitsandbytes`"
        )


def quantization_config(bits: int) -> BitsAndBytesConfig:
    """Quantise the language model to 4 or 8 bits, and leave vision and resampler as they are.

    Raises:
        ModuleNotFoundError, ValueError: as `require_bits`.
    """
    require_bits(bits)
    return BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        llm_int8_skip_modules=["vision", "resampler", "lm_head"],
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _load_base(profile: Profile, config: MonkeyConfig) -> MonkeyForConditionalGeneration:
    """Load the weights of a profile's base checkpoint."""
    folder = base_folder(profile)
    # In mixed precision weights stay in float32.
    dtype = torch.bfloat16 if profile.training.precision == "bf16-true" else torch.float32
    if released.is_released(folder):
        _check_released(profile, config, folder)
        model = released.load_released(folder, grid=Grid(profile.rows, profile.cols), dtype=dtype)
        return _with_queries(_with_auto_grid(model, profile), profile)

    options: dict[str, Any] = {}
    if profile.training.language_model_bits is not None:
        # A quantised model is loaded straight to the device of its process.
        device = int(os.environ.get("LOCAL_RANK", 0)) if torch.cuda.is_available() else "cpu"
        options["quantization_config"] = quantization_config(profile.training.language_model_bits)
        options["device_map"] = {"": device}

    # Tile LoRA of other positions is loaded as it is, and then rearranged.
    own_config = saved.read_config(folder)
    if profile.auto_tiles is not None and own_config.lora_mode == config.lora_mode == "per_tile":
        config.grids, config.max_tiles = own_config.grids, own_config.max_tiles

    # A projector comes from its own file.
    projector_config = config.resampler_config
    if profile.projector is not None:
        config.resampler_config = own_config.resampler_config

    # Queries of another number are loaded as they are, too.
    if profile.resampler_heads is not None and isinstance(own_config.resampler_config, MonkeyResamplerConfig):
        config.resampler_config.queries = own_config.resampler_config.queries

    model = saved.load_saved(folder, dtype, config, **options)
    if profile.projector is not None:
        model.use_projector(projector_config, _read_projector(profile, model.config))
    return _with_queries(_with_auto_grid(model, profile), profile)


def _read_projector(profile: Profile, config: MonkeyConfig) -> dict[str, torch.Tensor]:
    """Read the weights of a profile's projector.

    Args:
        profile: names the file.
        config: of the model that it is for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds other weights than the model's projector has, or some that are not finite.
    """
    file = projector_file(profile)
    widths = (config.vision_config.hidden_size, config.text_config.hidden_size)
    expected = {
        "linear_1.weight": torch.Size([widths[1], widths[0]]),
        "linear_1.bias": torch.Size([widths[1]]),
        "linear_2.weight": torch.Size([widths[1], widths[1]]),
        "linear_2.bias": torch.Size([widths[1]]),
    }
    shapes = weight_files.read_shapes(file)
    weight_files.check_tensors(
        WeightFiles(file.parent, {file.name: list(shapes)}, shapes),
        expected,
        advice="name a projector that was trained for this ViT and this language model",
        described_by="the profile",
    )
    return weight_files.read_finite(file)


def projector_file(profile: Profile) -> Path:
    """Return the file of a profile's projector.

    Raises:
        FileNotFoundError: it isn't there.
    """
    file = resources.REPOSITORY / profile.projector
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no projector at {resources.display_path(file)}: name a safetensors file (that of "
            "nano-llava is part of the repository, and `make nano-llava` trains it anew)."
        )
    return file


def _with_queries(model: MonkeyForConditionalGeneration, profile: Profile) -> MonkeyForConditionalGeneration:
    """Return the model with as many queries as a profile has, interpolated from the base's or fresh."""
    if profile.resampler_heads is None:
        return model
    if model.config.resampler_config.queries != profile.queries:
        model.use_queries(profile.queries)
    if profile.fresh_queries:
        model.resampler.reset_queries()
    return model


def _with_auto_grid(
    model: MonkeyForConditionalGeneration, profile: Profile
) -> MonkeyForConditionalGeneration:
    """Return the model with LoRA for the automatic grids of a profile, copied from that of a fixed grid."""
    if profile.auto_tiles is not None and model.config.max_tiles != profile.auto_tiles:
        model.use_auto_grid(profile.auto_tiles)
    return model


def _check_released(profile: Profile, config: MonkeyConfig, folder: Path) -> None:
    """Check that the model in a released folder is what a profile describes.

    Raises:
        ValueError: it is another one, or the profile quantises it.
    """
    if profile.training.language_model_bits is not None:
        raise ValueError(
            f"{folder} is in the released layout, whose language model is not quantised on the way: convert "
            f"it with `monkeylib convert {resources.shell_path(folder)} NEW_FOLDER` and name the new folder"
        )

    if profile.pooling != 1:
        raise ValueError(
            f"the model of {folder} is in the released layout, which averages no visual tokens: leave "
            f"pooling out of the profile {profile.name}, or convert the model with `monkeylib convert`"
        )

    # Read from the configuration and the shapes alone, before any weight is loaded.
    released_config = released.open_released(folder, Grid(profile.rows, profile.cols)).config
    for name in _FIXED_BY_RELEASE:
        released_value, profile_value = getattr(released_config, name), getattr(config, name)
        if released_value != profile_value:
            raise ValueError(
                f"the model of {folder} is in the released layout and has the {name} {released_value}, the "
                f"profile {profile.name} asks for {profile_value}: change the profile"
            )


def _load_pretrained(profile: Profile, config: MonkeyConfig) -> MonkeyForConditionalGeneration:
    """Load the pretrained vision backbone and language model of a profile, or its complete LLaVA-1.5."""
    if profile.vision.pretrained is None:
        state = llava.read_llava_weights(profile.language_model.pretrained)
        return build_with_weights(config, state, llava.FRESH)

    backbone = pretrained.load_vision_backbone(profile.vision.pretrained, config.vision_config)
    language_model = pretrained.load_language_model(
        profile.language_model.pretrained, config.text_config.vocab_size
    )

    # LoRA and resampler have no pretrained weights: they start fresh.
    state = {f"vision.backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    state |= {f"language_model.{name}": tensor for name, tensor in language_model.state_dict().items()}
    return build_with_weights(config, state, fresh=("vision.lora.", "resampler."))
