"""What several tests share: a tiny tokenizer, a tiny model with its processor, and the golden vectors."""

import string

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from monkeylib import profiles
from monkeylib.inference import Monkey
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.lora import tile_loras
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor

settings.register_profile("any machine", deadline=None)  # a busy one needs long for the quickest example
settings.load_profile("any machine")

LONGEST = (
    "test_smoke_series.py",
    "test_notebooks.py",
    "test_killed.py",
    "test_devices.py",
    "test_distributed.py",
    "test_series.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: side by side, the suite takes as long as what is begun last."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per ASCII character, and the special ones."""
    pieces = ["<|endoftext|>", "<img>", "</img>", "<imgpad>", "<unk>", *string.printable]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=characters,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=["<img>", "</img>", "<imgpad>"],
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def tiny(tokenizer):
    """Make a tiny model: `tiny(lora_mode="shared")`. All weights matter: no zero B, no unit scale."""

    def make(seed: int = 0, **changes) -> MonkeyForConditionalGeneration:
        torch.manual_seed(seed)
        config = profiles.build_config(profiles.load("smoke"), tokenizer)
        for name, value in changes.items():
            setattr(config, name, value)
        model = MonkeyForConditionalGeneration(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
            for lora in tile_loras(model):
                lora.lora_B.normal_(std=0.3)
                lora.scaling.uniform_(0.5, 1.5)
        return model

    return make


@pytest.fixture(scope="session")
def processor(tokenizer) -> MonkeyProcessor:
    profile = profiles.load("smoke")
    images = MonkeyImageProcessor(profile.tile_size, profile.rows, profile.cols, profile.views)
    return MonkeyProcessor(images, tokenizer, queries=profile.queries)


@pytest.fixture()
def monkey(tiny, processor) -> Monkey:
    return Monkey(tiny(), processor)


@pytest.fixture(scope="session")
def make_image():
    """Make an image: `make_image(seed, width, height)`."""

    def make(seed: int = 0, width: int = 90, height: int = 70) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return make
