"""Parity with the released code, run on tiny random weights (see goldens/README.md)."""

import hashlib

import pytest
import torch

from monkeylib.checkpoints.key_map import build_key_map
from monkeylib.checkpoints.released_config import config_from_released
from monkeylib.experiments import parity
from monkeylib.experiments.parity import (
    PAD_ID,
    QUERY_ROWS,
    golden_inputs,
    insert_image_ids,
    released_weights,
)
from monkeylib.label_mask import IGNORE_INDEX
from monkeylib.model import MonkeyForConditionalGeneration
from monkeylib.model.tile_lora import TileLoRA
from tests.support.released_encoding import encode_as_released
from tests.support.released_files import from_released_layout, to_released_layout

VISION, LANGUAGE, STEP = (parity.golden_tensors(name) for name in ("vision_896", "lmm_896", "train_step"))
ABOUT_VISION, ABOUT_LANGUAGE, ABOUT_STEP = (
    parity.golden_facts(name) for name in ("vision_896", "lmm_896", "train_step")
)
TOKEN_ROWS = [0, 1, 31, 32, 517, 1023]


def build() -> MonkeyForConditionalGeneration:
    config = config_from_released(parity.released_config())
    model = MonkeyForConditionalGeneration(config)
    model.load_state_dict(from_released_layout(released_weights(), config))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def images():
    return parity.golden_images()


@pytest.fixture(scope="module")
def tokens(model, images):
    """Visual tokens of both images `[10, 256, 128]`."""
    with torch.no_grad():
        return model.get_image_features(**images)


@pytest.mark.parametrize("row, name", [(0, "a"), (1, "b")])
def test_preprocessing_gives_the_released_views(row, name, images):
    views = images["pixel_values"][5 * row : 5 * row + 5]
    full_image = torch.cat([torch.cat([views[0], views[1]], 2), torch.cat([views[2], views[3]], 2)], 1)
    assert torch.allclose(full_image[:, ::64, ::64], VISION[f"{name}.pixels896_grid64"], atol=1e-6)
    assert torch.allclose(views[4][:, ::32, ::32], VISION[f"{name}.pixels448_grid32"], atol=1e-5)
    for pixels, size in ((full_image, "pixels896"), (views[4], "pixels448")):
        about = ABOUT_VISION["images"][name][size]
        assert pixels.double().mean().item() == pytest.approx(about["mean"], abs=1e-6)
        assert pixels.double().std().item() == pytest.approx(about["std_unbiased"], abs=1e-6)
        extremes = [pixels.min().item(), pixels.max().item()]
        assert extremes == pytest.approx([about["min"], about["max"]], abs=1e-5)
        channels = ABOUT_VISION["images"][name][f"{size}_mean_per_channel"]
        assert pixels.double().mean((1, 2)).tolist() == pytest.approx(channels, abs=1e-6)


@pytest.mark.parametrize("row, name", [(0, "a"), (1, "b")])
def test_resized_image_is_that_of_the_released_code_byte_for_byte(row, name, images):
    about = ABOUT_VISION["images"][name]
    tiles = images["pixel_values"][5 * row : 5 * row + 4]
    assert tiles.double().mean((1, 2, 3)).tolist() == pytest.approx(about["tile_mean"], abs=1e-6)

    full_image = torch.cat([torch.cat([tiles[0], tiles[1]], 2), torch.cat([tiles[2], tiles[3]], 2)], 1)
    mean, std = (torch.tensor(ABOUT_VISION[part])[:, None, None] for part in ("mean", "std"))
    rgb = ((full_image * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()

    assert torch.equal(rgb[::32, ::32], VISION[f"{name}.resized896_rgb_u8_grid32"])
    assert hashlib.sha256(rgb.numpy().tobytes()).hexdigest() == about["resized896_rgb_sha256"]


def test_visual_tokens_are_those_of_the_released_code(tokens):
    assert torch.allclose(tokens[:5], VISION["a.tokens"], rtol=0, atol=2e-4)
    assert torch.allclose(tokens[5:, QUERY_ROWS], VISION["b.tokens_rows"], rtol=0, atol=2e-4)


@torch.no_grad()
def test_hidden_states_of_the_vit_are_those_of_the_released_code(model, images):
    outputs_of = {}
    vision, resampler = model.vision, model.resampler
    probes = {
        "embed": vision.ln_pre,
        "ln_pre": vision.ln_pre,
        "block0": vision.blocks[0],
        "block1": vision.blocks[1],
    }
    probes |= {"ln_kv": resampler.ln_kv, "attn_pool": resampler.out, "ln_post": resampler.ln_post}

    def record(name):
        # `embed` is what enters the first norm.
        return lambda _, args, output: outputs_of.setdefault(name, []).append(
            args[0] if name == "embed" else output
        )

    hooks = [module.register_forward_hook(record(name)) for name, module in probes.items()]
    # One view at a time, so that the probes come in the order of the views.
    for view, lora in enumerate([0, 1, 2, 3, -1]):
        resampler(vision(images["pixel_values"][view : view + 1], [lora]))
    for hook in hooks:
        hook.remove()

    for name, outputs in outputs_of.items():
        rows = QUERY_ROWS if name in ("attn_pool", "ln_post") else TOKEN_ROWS
        expected = VISION[f"a.probe.{name}"]
        assert torch.allclose(torch.cat(outputs)[:, rows], expected, rtol=0, atol=2e-4), name
    assert len(outputs_of) == len(probes)


def test_bfloat16_stays_close_to_float32(tokens, images):
    with torch.no_grad():
        rounded = (
            build().to(torch.bfloat16).get_image_features(images["pixel_values"][:5], images["grids"][:1])
        )
    assert (rounded.float() - VISION["a.tokens"]).abs().mean() < 0.03


def test_spliced_embeddings(model, tokens):
    embeds = model.splice(insert_image_ids(LANGUAGE["single.input_ids"]), tokens[:5])[0]
    assert torch.allclose(embeds[parity.EMBEDDED_ROWS], LANGUAGE["single.embeds_rows"], rtol=0, atol=2e-4)

    about = ABOUT_LANGUAGE["embeds_statistics"]
    assert embeds.double().square().sum().item() == pytest.approx(about["sum_of_squares"], rel=1e-5)
    # Eight ids, the tag with its own embedding, five views of 256, the other tag, 23 ids.
    parts = embeds.split([8, 1, *[256] * 5, 1, 23])
    means = [part.abs().mean().item() for part in parts]

    assert means == pytest.approx(list(about["per_segment_abs_mean"].values()), abs=1e-5)


@pytest.mark.parametrize("name", parity.PROMPT_IMAGES)
@torch.no_grad()
def test_logits_are_those_of_the_released_code(name, model, images):
    logits = model(**golden_inputs(name, images), logits_to_keep=16).logits
    expected = LANGUAGE[f"{name}.logits_last16"].view_as(logits)
    assert torch.allclose(logits, expected, rtol=0, atol=3e-4 if name == "two" else 2e-4)


@torch.no_grad()
def test_last_norm_of_the_language_model(model, images):
    outputs = []
    norm = model.language_model.model.norm
    hook = norm.register_forward_hook(lambda _, __, out: outputs.append(out[0, -4:]))
    model(**golden_inputs("single", images), logits_to_keep=1)
    hook.remove()

    assert torch.allclose(outputs[0], LANGUAGE["single.ln_f_last4"], rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "name, answers", [("single", "single"), ("batch", "batch"), ("short", "short_alone")]
)
def test_greedy_ids_are_those_of_the_released_code(name, answers, model, images):
    expected = torch.tensor(ABOUT_LANGUAGE["greedy"][answers]).view(len(parity.PROMPT_IMAGES[name]), -1)
    inputs = golden_inputs(name, images)
    ids = model.generate(
        **inputs, do_sample=False, eos_token_id=None, pad_token_id=PAD_ID, max_new_tokens=expected.shape[1]
    )

    assert torch.equal(ids[:, inputs["input_ids"].shape[1] :], expected)


@torch.no_grad()
def test_long_prompt_does_not_change_later_losses(model, images, row_pair):
    """In the released code the stretch of a long prompt stays in the model and changes the next loss."""
    before = model(**row_pair).loss
    model(**golden_inputs("two", images), logits_to_keep=1)
    assert model(**row_pair).loss == before

    model(**golden_inputs("two", images), logits_to_keep=1)
    model.language_model.train()
    training = model(**row_pair).loss
    model.language_model.eval()

    assert training.item() == pytest.approx(ABOUT_STEP["loss"]["batch"], abs=1e-4)


def build_training() -> MonkeyForConditionalGeneration:
    """Return a model that trains what the released code trains, without dropout."""
    model = build().train()
    model.freeze_for_finetuning()
    model.resampler.positions.requires_grad_(True)  # the released code trains them by accident
    for module in model.modules():
        if isinstance(module, TileLoRA):
            module.dropout = 0.0

    return model


@pytest.fixture(scope="module")
def training():
    return build_training()


@pytest.fixture(scope="module")
def row_pair(images):
    inputs = {name: STEP[name].long() for name in ("attention_mask", "labels")}
    return {"input_ids": insert_image_ids(STEP["input_ids"]), **inputs, **images}


def trained_tensors(model) -> dict[str, torch.Tensor]:
    positions = {"resampler.positions": model.resampler.positions}
    return {name: p for name, p in model.named_parameters() if p.requires_grad} | positions


@pytest.fixture(scope="module")
def first_step(training, row_pair):
    output = training(**row_pair)
    output.loss.backward()
    return output


def test_training_loss_is_that_of_the_released_code(first_step):
    assert first_step.loss.item() == pytest.approx(ABOUT_STEP["loss"]["batch"], abs=1e-4)
    assert torch.allclose(first_step.logits, STEP["logits_supervised"], rtol=0, atol=2e-4)


def test_supervised_positions_are_those_of_the_released_code(row_pair):
    """Each logit predicts the label after it, the end-of-text token of each answer among them."""
    predicting = (row_pair["labels"][:, 1:] != IGNORE_INDEX).nonzero()
    assert torch.equal(predicting, STEP["supervised_row_col_of_logit"].long())
    assert (row_pair["labels"] == PAD_ID).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("row", [0, 1])
@torch.no_grad()
def test_loss_of_single_rows_is_that_of_the_released_code(row, training, row_pair):
    """The loss of a batch is the mean over its tokens, not over its rows."""
    views = slice(5 * row, 5 * row + 5)
    alone = {
        name: part[views if name == "pixel_values" else slice(row, row + 1)]
        for name, part in row_pair.items()
    }

    assert training(**alone).loss.item() == pytest.approx(ABOUT_STEP["loss"][f"row{row}"], abs=1e-4)


def test_gradients_are_those_of_the_released_code(first_step, training):
    norm = torch.stack([p.grad.norm() for p in trained_tensors(training).values()]).norm()
    assert norm.item() == pytest.approx(ABOUT_STEP["total_grad_norm"], rel=1e-4)

    monkeylib_gradients = {name: p.grad for name, p in trained_tensors(training).items()}
    gradients = to_released_layout(monkeylib_gradients, training.config)
    assert gradients.keys() == ABOUT_STEP["grads"].keys() and len(gradients) == 102
    for name, about in ABOUT_STEP["grads"].items():
        assert gradients[name].norm().item() == pytest.approx(about["norm"], rel=2e-3), name
        first = torch.tensor(about["first8"])
        allowed = 2e-3 * max(first.norm().item(), about["norm"] * 1e-2)
        assert (gradients[name].flatten()[: len(first)] - first).norm() <= allowed, name
    for name in ("transformer.wte.weight", "lm_head.weight"):
        rows, expected = gradients[name].norm(dim=1), STEP[f"grad_rownorm.{name}"]
        assert (rows - expected).norm() <= 2e-3 * expected.norm(), name

    words = gradients["transformer.wte.weight"].norm(dim=1)

    assert words[parity.IMAGE_ID] == 0, "the visual tokens stand there"

    tags = [words[parity.IMAGE_START_ID].item(), words[parity.IMAGE_END_ID].item()]
    about = ABOUT_STEP["wte_grad_rows"]

    assert tags == pytest.approx([about["img"], about["img_end"]], rel=2e-3)

    for key, expected in STEP.items():
        if key.startswith("grad."):
            gradient = gradients[key.removeprefix("grad.")]
            assert (gradient - expected).norm() <= 2e-3 * expected.norm(), key


def test_three_optimiser_steps_end_as_in_the_released_code(row_pair):
    about = ABOUT_STEP["optimizer"]
    model = build_training()
    without_decay = {
        entry.name for entry in build_key_map(model.config) if entry.released_key in about["no_decay"]
    }
    trained = trained_tensors(model)
    before = {name: tensor.detach().clone() for name, tensor in trained.items()}
    decayed = [p for name, p in trained.items() if name not in without_decay]
    groups = [
        {"params": decayed, "weight_decay": about["weight_decay"]},
        {"params": [p for name, p in trained.items() if name in without_decay], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=about["lr"], betas=about["betas"], eps=about["eps"])

    for step in about["steps"]:
        loss = model(**row_pair).loss
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), about["clip_global_norm"])
        optimiser.step()
        assert loss.item() == pytest.approx(step["loss_before"], abs=5e-3)
        assert norm.item() == pytest.approx(step["grad_norm_before_clip"], rel=5e-3)

    with torch.no_grad():
        assert model(**row_pair).loss.item() == pytest.approx(about["loss_after_3"], abs=5e-3)
        after = to_released_layout({name: tensor.detach() for name, tensor in trained.items()}, model.config)
        moved = to_released_layout(
            {name: tensor - before[name] for name, tensor in trained.items()}, model.config
        )

    assert after.keys() == moved.keys() == about["update_norm_after_3"].keys() == about["sum_after_3"].keys()
    for name, norm in about["update_norm_after_3"].items():
        # A bias on keys without rotation changes no softmax: its gradient is rounding, which Adam enlarges.
        exact = 5e-2 if name.endswith("attn_pool.attn.in_proj_bias") else 5e-3
        assert moved[name].norm().item() == pytest.approx(norm, rel=exact), name
        allowed = exact * norm * moved[name].numel() ** 0.5
        assert after[name].double().sum().item() == pytest.approx(about["sum_after_3"][name], abs=allowed), (
            name
        )


def test_parity_report_holds_and_detects_a_difference(model):
    rows = parity.parity_report(model)
    assert len(rows) == 12 and all(row["holds"] for row in rows), rows

    other = build()  # x and y swapped in the resampler's positions
    with torch.no_grad():
        other.resampler.positions.copy_(
            other.resampler.positions.roll(other.resampler.positions.shape[1] // 2, 1)
        )

    broken = {row["quantity"] for row in parity.parity_report(other) if not row["holds"]}

    assert "visual tokens, five views" in broken and "logits, text alone" not in broken


@pytest.mark.parametrize("case", ABOUT_STEP["preprocess_cases"], ids=lambda case: case["note"].split(":")[0])
def test_labels_are_those_of_the_released_code(case):
    row = encode_as_released(case["user"], case["answer"], PAD_ID, case["max_len"])
    assert {name: tensor.tolist() for name, tensor in row.items()} == {name: case[name] for name in row}
