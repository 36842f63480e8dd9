"""Load pretrained components by name: from a local folder, a fetched asset, or a model hub."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from monkeylib import assets
from monkeylib.checkpoints import dinov2_onnx, hub
from monkeylib.checkpoints.saved import check_tokenizer_sizes
from monkeylib.checkpoints.weight_files import explain_broken

# Name on a hub -> the asset that holds the same weights in another format (ONNX, GGUF).
ASSETS = {
    "facebook/dinov2-small": "dinov2-small",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2-135m-instruct",
}


def load_vision_backbone(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    """Load a vision backbone in fp32, with as many blocks as `config` says.

    Raises:
        FileNotFoundError: there is neither a folder nor an asset, and no hub has it.
        ValueError: it has other sizes than `config`.
    """
    # An asset on disk comes before any hub.
    onnx_file = _find_asset_file(name)
    if onnx_file is not None:
        model = AutoModel.from_config(config)
        model.load_state_dict(dinov2_onnx.read_onnx(onnx_file))
        return model

    with explain_missing(name):
        # Mismatched sizes are reported below, in a sentence that names the profile.
        model, report = AutoModel.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )

    # An entry holds the key, the shape in the file and the expected one.
    mismatched = [key for key, *_ in report["mismatched_keys"]]
    problems = sorted([*report["missing_keys"], *mismatched])
    if problems:
        raise ValueError(
            f"{name} does not fit the profile's encoder: {problems[0]} is missing or has another shape; "
            "check the fields under `vision`"
        )

    return model


def load_language_model(name: str, vocabulary_size: int) -> PreTrainedModel:
    """Load a causal language model in fp32, its token embeddings enlarged to `vocabulary_size`.

    Raises:
        FileNotFoundError: there is neither a folder nor an asset, and no hub has it.
    """
    with explain_missing(name):
        model = AutoModelForCausalLM.from_pretrained(**_source(name), dtype=torch.float32)

    if vocabulary_size > model.config.vocab_size:
        # Rows for the image tokens, which the pretrained vocabulary lacks.
        model.resize_token_embeddings(vocabulary_size)
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a language model; it pads with its end of text where it has no padding token.

    Raises:
        FileNotFoundError: there is neither a folder nor an asset, and no hub has it.
        ValueError: a file in its folder is larger than a tokenizer may be.
    """
    check_tokenizer_sizes(Path(name))
    with explain_missing(name):
        tokenizer = AutoTokenizer.from_pretrained(**_source(name))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


@contextlib.contextmanager
def explain_missing(name: str) -> Iterator[None]:
    """Replace transformers' errors about a missing or broken model by one sentence that says what to do.

    Raises:
        FileNotFoundError: in place of an OSError.
        ValueError: in place of what readers of weights raise about a broken file.
    """
    if _find_asset_file(name) is None:
        hub.go_offline_if_unreachable(name)
    try:
        with explain_broken(name):
            yield
    except OSError as error:
        fetch = f"run `monkeylib assets fetch {ASSETS[name]}`, " if name in ASSETS else ""
        raise FileNotFoundError(
            f"{name} is no local folder with a model, and no model hub gave it: {fetch}connect to a hub, or "
            "name a local folder as `pretrained` in the profile"
        ) from error


def _find_asset_file(name: str) -> Path | None:
    """Return the file of the asset with these weights; None without one, or where a local folder exists."""
    if Path(name).is_dir() or name not in ASSETS:
        return None
    asset = assets.find(ASSETS[name])
    folder = assets.locate(asset)
    return None if folder is None else folder / asset.files[0].name


def _source(name: str) -> dict[str, str]:
    """Return the arguments by which transformers finds a language model: a GGUF file, or the name itself."""
    file = _find_asset_file(name)
    if file is None:
        return {"pretrained_model_name_or_path": name}
    return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
