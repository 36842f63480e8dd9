"""Sizes that are computed agree with the models, the released code and the paper."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config

from monkeylib import profiles, sizing
from monkeylib.model import build_on_meta
from monkeylib.tiling import Grid


def config_of(name, mode=None, **fields):
    profile = profiles.load_profile(name)
    if mode is not None:
        fields["lora"] = profile.lora.model_copy(update={"mode": mode})
    return profiles.build_config(profile.model_copy(update=fields))


def shallow(config, layers=2):
    """Return the configuration with fewer layers, since operations are counted slowly."""
    config.vision_config.num_hidden_layers = config.text_config.num_hidden_layers = layers
    return config


def count_operations():
    """Count operations, those of LoRA's in-place product too, which torch does not know."""

    def product(_, a, b, **kwargs):
        return 2 * a.numel() * b[-1]

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: product})


@pytest.mark.parametrize("name", profiles.profile_names())
def test_parameters_are_those_of_the_model(name):
    config = config_of(name)
    assert sizing.count_parameters(config) == sizing.count_in_model(build_on_meta(config))


@pytest.mark.parametrize("mode", ["per_tile", "shared", "none", "full"])
def test_trained_parameters_are_those_that_fine_tuning_trains(mode):
    config = config_of("small", mode)
    model = build_on_meta(config)
    model.freeze_for_finetuning()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(sizing.count_trained_parameters(config).values()) == trained
    assert sizing.count_parameters(config) == sizing.count_in_model(model)


def test_paper_model_has_the_size_of_the_released_code():
    assert sizing.count_parameters(config_of("paper-896")) == sizing.RELEASED_PARAMETERS
    assert sum(sizing.RELEASED_PARAMETERS.values()) == 9_708_053_824
    assert sizing.count_parameters(config_of("paper-1344"))["LoRA"] == 76_677_984


@pytest.mark.parametrize("name", ["smoke", "nano", "small", "llava-448"])
@pytest.mark.parametrize(
    ("views", "mode"),
    [("tiles+global", "per_tile"), ("tiles", "shared"), ("tiles+global", "none"), ("global", "none")],
)
def test_operations_are_those_of_the_model(name, views, mode):
    config = shallow(config_of(name, mode, views=views))
    model, side = build_on_meta(config), config.tile_size
    grid = sizing.default_grid(config)
    pixels = torch.empty(sum(sizing.count_views(config)), 3, side, side, device="meta")
    prompt = torch.empty(1, sizing.count_visual_tokens(config) + 2 + 7, model.config.text_config.hidden_size)
    with torch.no_grad(), count_operations() as image_operations:
        model.get_image_features(pixels, torch.tensor([list(grid)]))
    with torch.no_grad(), count_operations() as prompt_operations:
        model(inputs_embeds=prompt.to("meta"), logits_to_keep=1)
    flops = sizing.count_flops(config, text_tokens=7)

    assert prompt_operations.get_total_flops() == flops.pop("language model")
    assert image_operations.get_total_flops() == sum(flops.values())
    assert (flops["LoRA"] > 0) == (mode != "none")


@pytest.mark.parametrize(
    "lora", [{"attention_rank": 0}, {"mlp_rank": 0}, {"on_global_view": True}], ids=lambda lora: min(lora)
)
@pytest.mark.parametrize("name", ["smoke", "small"])
def test_sizes_follow_where_lora_stands(name, lora):
    profile = profiles.load_profile(name)
    config = shallow(config_of(name, lora=profile.lora.model_copy(update=lora)))
    model, side = build_on_meta(config), config.tile_size
    assert sizing.count_parameters(config) == sizing.count_in_model(model)

    pixels = torch.empty(5, 3, side, side, device="meta")
    with torch.no_grad(), count_operations() as operations:
        model.get_image_features(pixels, torch.tensor([[2, 2]]))
    flops = sizing.count_flops(config)
    assert operations.get_total_flops() == sum(flops.values()) - flops["language model"]


def test_visual_tokens_follow_the_grid():
    paper = config_of("paper-896")
    assert sizing.count_visual_tokens(paper) == 1280
    assert sizing.count_visual_tokens(paper, Grid(2, 3)) == 1792
    assert sizing.count_visual_tokens(config_of("paper-896", views="tiles")) == 1024
    assert sizing.count_visual_tokens(config_of("paper-896", "none", views="global")) == 256
    assert sizing.count_visual_tokens(config_of("nano")) == profiles.load_profile("nano").visual_tokens


def test_more_tiles_cost_in_proportion_and_the_global_view_has_no_lora():
    config = config_of("paper-896")
    four, six = sizing.count_flops(config), sizing.count_flops(config, Grid(2, 3))
    assert six["LoRA"] * 4 == four["LoRA"] * 6
    assert six["ViT"] * 5 == four["ViT"] * 7


def test_unknown_language_model_raises():
    config = config_of("smoke")
    config.text_config = GPT2Config()
    with pytest.raises(ValueError, match="'gpt2'.*'qwen2'.*meta device"):
        sizing.count_parameters(config)
