"""Tiny Monkey with random weights whose answers depend on image and question, so that a mix-up shows."""

import torch
from transformers import Qwen2Config

from monkeylib.data.synthetic.tokenizer import build_tokenizer
from monkeylib.model import MonkeyConfig, MonkeyForConditionalGeneration
from monkeylib.model.tile_lora import tile_loras
from monkeylib.monkey import Monkey
from monkeylib.processing import MonkeyImageProcessor, MonkeyProcessor
from tests.support import weights


def make_monkey() -> Monkey:
    """Return a model of 2x2 tiles of 16 px, in training mode as fine-tuning leaves it.

    No greedy answer ends before its limit, and all of its tokens are visible.
    """
    tokenizer = build_tokenizer()
    start, end, place = tokenizer.convert_tokens_to_ids(["<img>", "</img>", "<imgpad>"])
    config = MonkeyConfig(
        vision_config={
            "tile_size": 16, "patch_size": 8, "width": 32, "layers": 1, "heads": 2, "mlp_width": 32,
            "position_grid": 2,
        },
        resampler_config={"queries": 4, "heads": 2},
        text_config=Qwen2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=64, vocab_size=len(tokenizer), initializer_range=0.5,
        ),
        grids=[[2, 2]],
        lora_dropout=0.5,
        image_start_id=start, image_end_id=end, image_token_id=place,
    )  # fmt: skip
    processor = MonkeyProcessor(MonkeyImageProcessor(16, 2, 2), tokenizer, queries=4)
    with weights.numpy_numbers():
        model = MonkeyForConditionalGeneration(config).train()
    weights.say_visible_tokens_alone(model, tokenizer)

    return Monkey(model, processor)


def train_loras(model: MonkeyForConditionalGeneration) -> None:
    """Give LoRAs the weights that training might give them: fresh ones change nothing."""
    with weights.numpy_numbers(), torch.no_grad():
        for lora in tile_loras(model):
            lora.lora_B.normal_(std=0.5)
