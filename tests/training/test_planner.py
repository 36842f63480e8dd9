"""The plan agrees with what real steps measure, and follows from the recipe as it should."""

import sys
from dataclasses import replace

import pytest
import torch

from monkeylib import measuring, planner, profiles, sizing
from monkeylib.model import build_on_meta
from monkeylib.recipes import Recipe

NANO = Recipe(rows=4, text_tokens=48, answer_tokens=16, on_gpu=False)
CLOSE = 0.1  # asked are 20 %


def config_of(name):
    return profiles.build_config(profiles.load(name))


def states(plan):
    return plan.weights + plan.optimiser


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"checkpointing": True},
        {"language_model": "frozen"},
        {"language_model": "lora"},
        {"vision": "full"},
        {"rows": 1, "resampler_output": True},
        {"rows": 2, "passes": 2},
        {"rows": 2, "passes": 2, "checkpointing": True},
        {"vision": "frozen", "resampler": "frozen", "language_model": "lora", "rows": 2},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())) or "release",
)
def test_a_nano_step_takes_what_was_planned(changes):
    recipe = replace(NANO, **changes)
    plan, measured = planner.plan(config_of("nano"), recipe), measuring.step(config_of("nano"), recipe)
    assert plan.peak == pytest.approx(measured, rel=CLOSE)
    # and so do activations alone, which weights don't hide
    assert plan.peak - states(plan) == pytest.approx(measured - states(plan), rel=CLOSE)


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize("changes", [{}, {"checkpointing": True}], ids=["release", "checkpointing"])
def test_the_process_grows_by_what_was_planned(changes):
    recipe = replace(NANO, **changes)
    plan, grown = planner.plan(config_of("nano"), recipe), measuring.process_growth(config_of("nano"), recipe)
    assert plan.peak == pytest.approx(grown, rel=0.2)


def shrunk(name):
    """A profile with an encoder of transformers, or nano, at sizes that take a moment."""
    config = config_of(name)
    if name == "nano":
        config.tile_size = config.vision_config.tile_size = 48
        config.resampler_config.queries = 16
        return config
    vision, text, config.tile_size, config.image_token_id = config.vision_config, config.text_config, 84, 299
    vision.num_hidden_layers = text.num_hidden_layers = vision.num_attention_heads = 2
    vision.hidden_size = 64
    if hasattr(vision, "intermediate_size"):
        vision.intermediate_size = 256
    text.vocab_size, text.hidden_size, text.intermediate_size, text.pad_token_id = 300, 144, 384, 0
    text.num_attention_heads, text.head_dim = 9, 16
    text.num_key_value_heads = 3 if name == "small" else 9
    return config


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["small", "llava-448"])
def test_a_step_with_an_encoder_of_transformers_takes_what_was_planned(name, checkpointing):
    recipe = replace(NANO, rows=2, checkpointing=checkpointing)
    plan = planner.plan(shrunk(name), recipe)
    assert plan.peak == pytest.approx(measuring.step(shrunk(name), recipe), rel=0.2)


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("bf16-mixed", {}),
        ("bf16-mixed", {"checkpointing": True}),
        ("bf16-true", {"language_model": "lora"}),
    ],
)
def test_a_step_in_lower_precision_takes_what_was_planned(precision, changes):
    recipe = replace(NANO, rows=2, precision=precision, **changes)
    plan, measured = planner.plan(shrunk("nano"), recipe), measuring.step(shrunk("nano"), recipe)
    assert plan.peak == pytest.approx(measured, rel=CLOSE)
    assert plan.peak - states(plan) == pytest.approx(measured - states(plan), rel=0.2)


def test_states_are_bytes_of_what_is_held_and_of_what_trains():
    config, every = config_of("paper-896"), 9_708_053_824
    trained = sum(sizing.trained(config).values())
    exact, mixed, true = (
        planner.plan(config, Recipe(precision=name)) for name in ("32-true", "bf16-mixed", "bf16-true")
    )
    assert (exact.weights, exact.optimiser) == (4 * every, 8 * exact.gradients // 4)
    assert (mixed.weights, mixed.gradients) == (exact.weights, exact.gradients)
    assert (true.weights, true.gradients) == (2 * every, exact.gradients // 2)
    # Norms and patches outside of the blocks are spread over them.
    assert exact.gradients == pytest.approx(4 * trained, rel=1e-5)


def test_ddp_copies_and_fsdp_shares():
    config = config_of("paper-896")
    single, ddp, fsdp = (
        planner.plan(config, Recipe(precision="bf16-mixed", checkpointing=True, strategy=name, devices=count))
        for name, count in (("single", 1), ("ddp", 8), ("fsdp", 8))
    )
    assert states_of(ddp) == states_of(single)
    assert ddp.communication == ddp.gradients
    assert states_of(fsdp) == pytest.approx([whole / 8 for whole in states_of(single)], rel=1e-6)
    assert 0 < fsdp.communication < single.weights / 4
    assert fsdp.peak < 80e9 < single.peak < ddp.peak


def states_of(plan):
    return plan.weights, plan.gradients, plan.optimiser


def test_quantised_weights_fit_a_small_gpu():
    config = config_of("paper-896")
    recipe = Recipe(language_model="lora", language_model_bits=4, precision="bf16-true", checkpointing=True)
    plan = planner.plan(config, recipe)
    assert plan.peak < 0.9 * 24e9
    tables = 2 * 151_936 * 4096
    layers = sizing.parameters(config)["language model"] - tables
    in_sixteen = planner.plan(config, replace(recipe, language_model_bits=None))
    assert in_sixteen.weights - plan.weights == pytest.approx(layers * (2 - 0.5625), rel=1e-6)


def test_checkpointing_and_fewer_rows_take_less():
    config = config_of("paper-896")
    four, two = (planner.plan(config, Recipe(rows=rows)).activations for rows in (4, 2))
    assert two < four
    assert planner.plan(config, Recipe(rows=4, checkpointing=True)).activations < four / 4
    longer = planner.plan(config, Recipe(rows=4, text_tokens=768)).activations
    assert longer > four


def test_answering_takes_weights_and_a_cache():
    config = config_of("paper-896")
    taken = planner.inference(config, text_tokens=100)
    assert taken["weights"] == 2 * 9_708_053_824
    assert taken["cache"] == 2 * 32 * 2 * 4096 * (1280 + 2 + 100)
    assert planner.inference(config, value_bytes=4)["weights"] == 2 * taken["weights"]


def test_the_cache_is_that_of_a_model_whose_heads_share_keys():
    config = shrunk("small")
    model = build_on_meta(config)
    with torch.device("meta"):
        output = model(inputs_embeds=torch.empty(1, 40, 144), use_cache=True)
    kept = sum(
        tensor.numel() for layer in output.past_key_values.layers for tensor in (layer.keys, layer.values)
    )
    expected = kept // 40 * (sizing.visual_tokens(config) + 2)
    assert planner.inference(config, text_tokens=0, value_bytes=1)["cache"] == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "16"}, "32-true, bf16-mixed, bf16-true, got '16'"),
        ({"strategy": "deepspeed"}, "single, ddp or fsdp, got 'deepspeed'"),
        ({"devices": 2}, "'single' does not go with 2 device"),
        ({"strategy": "fsdp"}, "'fsdp' does not go with 1 device"),
        ({"language_model_bits": 4}, "4 bits trains by LoRA, got language_model='full'"),
        (
            {"language_model": "lora", "language_model_bits": 4, "strategy": "fsdp", "devices": 2},
            "not divided over devices",
        ),
        ({"answer_tokens": 200}, "1 to text_tokens=128 tokens, got 200"),
    ],
)
def test_recipes_that_do_not_exist_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)
