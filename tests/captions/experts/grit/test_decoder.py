"""GRiT's text decoder against the released code's values."""

import copy
import dataclasses

import torch

from monkeylib.captions.experts.grit.config import BEGIN_ID
from monkeylib.captions.experts.grit.decoder import greedy_search
from monkeylib.captions.experts.grit.pooling import pool_boxes
from tests.support.grit_goldens import CONFIG, assert_near, expected, small_grit

VISUAL_ROWS = [0, 1, 13, 14, 97, 195]


@torch.inference_mode()
def test_layers_are_those_of_the_released_code(run):
    """Three ids in; visual places see no text, and text what stands before it."""
    decoder, name = small_grit().decoder, f"{run.name}.text"
    rows = expected()[f"{name}.pooled_index"].long()
    ids = expected()[f"{name}.ids"].long()[rows, :3]

    outputs = {}

    def record(name):
        return lambda module, inputs, output: outputs.setdefault(name, []).append(output)

    handles = [module.register_forward_hook(record(key)) for key, module in decoder.named_modules()]
    memory = decoder.encode(expected()[f"{name}.pooled_rows"])
    for index in range(3):
        logits, memory = decoder.step(ids[:, index], index, memory)
        golden_logits = expected()[f"{name}.step{index}.logits"][rows]
        torch.testing.assert_close(logits, golden_logits, rtol=0, atol=2e-4)
    for handle in handles:
        handle.remove()

    assert_near(outputs["projection_norm"][0][:, VISUAL_ROWS], f"{name}.projected_rows", 2e-4)
    assert_near(torch.stack(outputs["embedding_norm"], dim=1), f"{name}.step2.embeddings", 2e-4)
    for layer in (0, 1):
        visual, *text = (output for output, _ in outputs[f"layers.{layer}"])
        places = torch.cat([visual[:, VISUAL_ROWS], *text], dim=1)
        assert_near(places, f"{name}.step2.layer{layer}_rows", 2e-4)


def test_ids_are_those_of_the_released_code(run):
    ids, mean_logs = run.outputs["decoder"]

    assert torch.equal(ids.int(), expected()[f"{run.name}.text.ids"])
    assert_near(mean_logs, f"{run.name}.text.mean_logprob", 2e-3)


@torch.inference_mode()
def test_begin_id_has_to_fit_the_checkpoint(run):
    """With the other model's begin id every caption is another one, as in the released code."""
    decoder = copy.copy(small_grit().decoder)
    decoder.config = dataclasses.replace(CONFIG, begin_id=BEGIN_ID)
    pooled = pool_boxes(run.maps[:3], expected()[f"{run.name}.detections.boxes"], 14)
    ids, mean_logs = decoder(pooled)

    assert torch.equal(ids.int(), expected()[f"{run.name}.text101.ids"])
    assert_near(mean_logs, f"{run.name}.text101.mean_logprob", 2e-3)
    assert (ids[:, 1:] != expected()[f"{run.name}.text.ids"][:, 1:]).any(dim=1).all()


def search(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Search logits `[step, row, 12]`."""
    begin_ids = torch.full((table.shape[1],), 11)
    return greedy_search(lambda ids: table[ids.shape[1] - 1], begin_ids, end_id=3, max_ids=8)


def test_search_is_that_of_the_released_code():
    ids, mean_logs = search(expected()["unit.search.table"])

    assert torch.equal(ids.int(), expected()["unit.search.ids"])
    assert_near(mean_logs, "unit.search.mean_logprob", 1e-5)


def test_captions_that_all_end_at_once_are_empty():
    """The released code returns a square of scores here; one for each box is what it means."""
    table = expected()["unit.search.table"].clone()
    table[0, :, 3] = 9
    ids, mean_logs = search(table)

    assert ids.tolist() == [[11, *[3] * 7]] * 5
    assert_near(mean_logs[:, None], "unit.search.all_end_logprob", 1e-5)


def test_no_id_follows_itself():
    table = torch.zeros(8, 1, 12)
    table[:, :, 5] = 4.0
    table[:, :, 7] = 2.0
    ids, _ = search(table)
    assert ids.tolist() == [[11, 5, 7, 5, 7, 5, 7, 5]]


def test_begin_id_may_follow_itself():
    table = torch.zeros(8, 1, 12)
    table[:, :, 11] = 4.0
    assert search(table)[0][0, :3].tolist() == [11, 11, 0]


@torch.inference_mode()
def test_no_boxes_give_no_captions():
    ids, mean_logs = small_grit().decoder(torch.zeros(0, CONFIG.channels, 14, 14))
    assert ids.shape == (0, CONFIG.max_ids) and mean_logs.shape == (0,)


@torch.inference_mode()
def test_captions_do_not_depend_on_the_boxes_beside():
    pooled = expected()["a.text.pooled_rows"]
    together, _ = small_grit().decoder(pooled)
    alone, _ = small_grit().decoder(pooled[1:2])
    assert torch.equal(alone, together[1:2])
