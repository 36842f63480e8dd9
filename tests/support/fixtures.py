"""Fixtures that many tests share: a tiny tokenizer, tiny models with their processor, and images."""

import string
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from monkeylib import profiles
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.tile_lora import tile_loras
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from tests.support import training_processes, weights

# On a busy machine the quickest example may take long.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _short_training_runs() -> Iterator[None]:
    """Have training runs leave out what takes most of the time of a tiny model's run.

    No step's memory is measured and estimated, a validation takes two batches and answers one question, and
    data is prepared where it is used.
    """
    with pytest.MonkeyPatch.context() as patch:
        training_processes.shorten_runs(patch.setattr)
        yield


@pytest.fixture(autouse=True)
def _gradients() -> Iterator[None]:
    """Compute gradients again after a test that imports VLMEvalKit, which turns them off for the process."""
    yield
    torch.set_grad_enabled(True)


@pytest.fixture()
def complete_training_runs(monkeypatch) -> None:
    """Have training runs do all that they do for users."""
    training_processes.complete_runs(monkeypatch.setattr)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per ASCII character, and the special ones."""
    special_tokens = ["<img>", "</img>", "<imgpad>"]
    vocabulary = ["<|endoftext|>", *special_tokens, "<unk>", *string.printable]
    token_ids = {token: i for i, token in enumerate(vocabulary)}

    characters = Tokenizer(models.WordLevel(token_ids, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    characters.decoder = decoders.Fuse()

    return PreTrainedTokenizerFast(
        tokenizer_object=characters,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=special_tokens,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def tiny(tokenizer) -> Callable[..., MonkeyForConditionalGeneration]:
    """Return a function that builds a tiny model: `tiny(lora_mode="shared")`.

    All weights matter: no lora_B is zero, no scaling is one. No greedy answer ends before its limit,
    and all of its tokens are visible.
    """

    def build(seed: int = 0, **changes) -> MonkeyForConditionalGeneration:
        config = profiles.build_config(profiles.load_profile("smoke"), tokenizer)
        for name, value in changes.items():
            setattr(config, name, value)

        with weights.numpy_numbers(seed), torch.no_grad():
            model = MonkeyForConditionalGeneration(config).eval()
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3)
                else:
                    parameter.add_(0.1 * torch.randn_like(parameter))

            for lora in tile_loras(model):
                lora.lora_B.normal_(std=0.3)
                lora.scaling.uniform_(0.5, 1.5)

        weights.say_visible_tokens_alone(model, tokenizer)

        return model

    return build


@pytest.fixture(scope="session")
def processor(tokenizer) -> MonkeyProcessor:
    """Return the processor of the tiny models."""
    profile = profiles.load_profile("smoke")
    images = MonkeyImageProcessor(profile.tile_size, profile.rows, profile.cols, profile.views)
    return MonkeyProcessor(images, tokenizer, queries=profile.queries)


@pytest.fixture()
def monkey(tiny, processor) -> Monkey:
    """Return a tiny model with its processor."""
    return Monkey(tiny(), processor)


@pytest.fixture(scope="session")
def make_image() -> Callable[..., Image.Image]:
    """Return a function that makes an image of noise: `make_image(seed, width, height)`."""

    def make(seed: int = 0, width: int = 90, height: int = 70) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return make
