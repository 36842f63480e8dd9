"""Pretrained parts by name: from a local folder, a fetched asset, or a model hub."""

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
from monkeylib.checkpoints import dinov2_onnx

# A hub's id -> the asset that holds the same weights in another format (ONNX, GGUF).
ASSETS = {
    "facebook/dinov2-small": "dinov2-small",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2-135m-instruct",
}


def encoder(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    """The vision encoder of that name in fp32, with as many blocks as `config` says.

    Raises:
        FileNotFoundError: it is not to be had.
        ValueError: it has other sizes than `config`.
    """
    file = _asset_file(name)
    if file is not None:
        model = AutoModel.from_config(config)
        model.load_state_dict(dinov2_onnx.read_onnx(file))
        return model
    with explained(name):
        model, loaded = AutoModel.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    wrong = sorted([*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])])
    if wrong:
        raise ValueError(
            f"{name} does not fit the profile's encoder: {wrong[0]} is missing or has another shape; check "
            "the fields under `vision`"
        )
    return model


def language_model(name: str, vocabulary: int) -> PreTrainedModel:
    """The causal language model of that name in fp32, its token tables enlarged to `vocabulary` rows.

    Raises:
        FileNotFoundError: it is not to be had.
    """
    with explained(name):
        model = AutoModelForCausalLM.from_pretrained(**_place(name), dtype=torch.float32)
    if vocabulary > model.config.vocab_size:
        model.resize_token_embeddings(vocabulary)
    return model


def tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of that language model; it pads with its end of text where it has no padding token.

    Raises:
        FileNotFoundError: it is not to be had.
    """
    with explained(name):
        found = AutoTokenizer.from_pretrained(**_place(name))
    found.pad_token = found.pad_token or found.eos_token
    return found


def _asset_file(name: str) -> Path | None:
    """The file of the asset with these weights, if it is fetched and no local folder has the name."""
    if Path(name).is_dir() or name not in ASSETS:
        return None
    asset = assets.find(ASSETS[name])
    folder = assets.locate(asset)
    return None if folder is None else folder / asset.files[0].name


def _place(name: str) -> dict[str, str]:
    """Where transformers finds a language model: a folder and the GGUF file in it, or the name itself."""
    file = _asset_file(name)
    if file is None:
        return {"pretrained_model_name_or_path": name}
    return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Say in one sentence what to do when a model is not to be had."""
    try:
        yield
    except OSError as error:
        fetch = f"run `monkeylib assets fetch {ASSETS[name]}`, " if name in ASSETS else ""
        raise FileNotFoundError(
            f"{name} is no local folder with a model, and no model hub gave it: {fetch}connect to a hub, or "
            "name a local folder as `pretrained` in the profile"
        ) from error
