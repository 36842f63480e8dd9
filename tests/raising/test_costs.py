"""What raising costs: counted without weights as in a real forward pass, and the table of the guide."""

import importlib.util

import pytest
import torch

from monkeylib import resources, tables
from monkeylib.raising.adapters import layer_adapters
from monkeylib.raising.costs import count_operations, raising_costs
from tests.support import refused_vlms, tiny_vlms

FILE = resources.REPOSITORY / "benchmarks" / "raising_costs.py"
spec = importlib.util.spec_from_file_location("raising_costs", FILE)
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)

# Giga operations of CLIP's ViT-L/14 at 336 pixels, `image_gflops` in docs/model_profile.csv of open_clip.
OPEN_CLIP_GFLOPS = 381.92


def test_costs_are_those_of_a_real_forward(raised, inputs):
    """The same number of places, operations, cached values and parameters as in a model with weights."""
    model = raised.model
    model.set_attn_implementation("eager")
    places = int((inputs["input_ids"] == model.config.image_token_id).sum())
    text_tokens = inputs["input_ids"].numel() - places
    costs = raising_costs(model, rank=4, text_tokens=text_tokens)

    with torch.no_grad(), count_operations() as operations:
        output = model(**inputs, logits_to_keep=1, use_cache=True)
    with torch.no_grad(), count_operations() as without:
        model(**{**inputs, "tile_index": None}, logits_to_keep=1)

    assert costs.raised.flops == operations.get_total_flops()
    assert costs.raised.adapters == operations.get_total_flops() - without.get_total_flops() > 0
    assert costs.raised.visual_tokens == places == 5 * costs.tokens_per_view

    cached = sum(layer.keys.numel() + layer.values.numel() for layer in output.past_key_values.layers)
    assert costs.raised.cache_bytes == 2 * cached

    adapters = sum(
        parameter.numel()
        for module in layer_adapters(model).values()
        for parameter in module.parameters()
        if parameter.requires_grad
    )
    assert costs.adapter_parameters == adapters
    base = sum(parameter.numel() for name, parameter in model.named_parameters() if "tile_lora" not in name)
    assert (costs.parameters, costs.weight_bytes) == (base, 2 * (base + adapters))


def test_views_cost_alike_and_the_model_is_only_read(llava):
    with torch.device("meta"):
        model = type(llava.model)(llava.model.config)
    costs = raising_costs(model, grid="1x2", text_tokens=8)

    assert (costs.base.views, costs.raised.views) == (1, 3)
    assert (costs.raised.tower, costs.raised.connector) == (3 * costs.base.tower, 3 * costs.base.connector)
    assert costs.base.adapters == 0 < costs.raised.language_model - costs.base.language_model
    assert costs.fits and not layer_adapters(model)
    assert type(model).__name__ in str(costs) and "of 512 positions" in str(costs)


@pytest.mark.parametrize("family", ["blip2", "smolvlm", "mistral3"])
def test_families_that_look_at_values_are_counted(family):
    """Which places or pixels there are is known, though weights have no values."""
    vlm = tiny_vlms.build(family)
    costs = raising_costs(vlm.model, rank=4, text_tokens=8, tile_size=vlm.tile_size)
    assert costs.tokens_per_view == 4 and costs.raised.visual_tokens == 20
    assert min(costs.raised.tower, costs.raised.adapters, costs.raised.connector) > 0


def test_what_cannot_be_counted_raises(llava):
    with pytest.raises(ValueError, match="expected one grid"):
        raising_costs(llava.model, grid=[(2, 2), (1, 2)])
    model, _ = refused_vlms.llava_next()
    with pytest.raises(ValueError, match="tiles of its own"):
        raising_costs(model)


def test_page_shows_the_committed_results():
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert benchmark.fill_page(page, benchmark.RESULTS) == page, "run benchmarks/raising_costs.py"
    names = [row["name"] for row in tables.read_csv(benchmark.RESULTS)]
    assert names == [name for name in benchmark.MODELS if name in names]


def test_tower_of_llava_has_the_operations_that_open_clip_counts():
    row = tables.read_csv(benchmark.RESULTS)[0]
    assert row["model"] == "LLaVA-1.5 7B"
    assert row["base tower"] / 1e9 == pytest.approx(OPEN_CLIP_GFLOPS, rel=0.02)
