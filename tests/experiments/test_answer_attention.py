"""Attention of an answer's tokens over the image, and what the answer loses when a part is hidden."""

import numpy as np
import pytest
import torch
from PIL import Image

from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.likelihood import AnswerScores
from monkeylib.experiments import answer_attention
from monkeylib.experiments.answer_attention import AnswerMaps
from monkeylib.experiments.attention import AttentionMaps
from monkeylib.tiling import Grid


def test_attention_of_each_token_falls_on_patches_and_prompt(monkey, make_image):
    image = make_image(1, 112, 112)
    before = monkey.model.language_model.config._attn_implementation
    maps = answer_attention.compute_answer_maps(monkey, image, "which?", "ab")

    # A token per character, and the one that ends the answer.
    assert maps.tokens[:2] == ("a", "b") and len(maps.tokens) == 3
    assert maps.weights.shape == (3, 5, 4, 4)
    shares = maps.by_view().sum(1)
    assert (shares > 0).all() and (shares < 1).all(), "the rest falls on the text"

    assert monkey.model.language_model.config._attn_implementation == before


def test_attention_is_that_of_the_language_model(monkey, make_image):
    """Summed over the queries of a view, it is the attention on the places of the view's visual tokens."""
    image = make_image(1, 112, 112)
    maps = answer_attention.compute_answer_maps(monkey, image, "which?", "ab")

    model, layout = monkey.model, monkey.processor.layout
    ids = [*layout.encode([80, "which?"], "vqa"), *layout.answer_ids("ab")]
    inputs = monkey.processor.image_processor(image)
    model.language_model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(
            torch.tensor([ids]),
            pixel_values=inputs["pixel_values"],
            grids=inputs["grids"],
            output_attentions=True,
        )

    on_places = torch.stack(output.attentions)[:, 0].mean((0, 1))[:, torch.tensor(ids) == 3]
    first_of_answer = on_places[-4].unflatten(0, (5, 16)).sum(1)
    assert torch.allclose(maps.by_view()[0], first_of_answer, atol=1e-5)


def test_maps_of_tiles_and_global_view_are_added_up():
    weights = torch.zeros(1, 5, 2, 2)
    weights[0, 1, 0, 0] = 0.3  # upper left patch of the tile at the top right
    weights[0, 4, 1, 0] = 0.4  # lower left patch of the global view
    resampler = AttentionMaps(torch.zeros(5, 3, 4, 4), torch.zeros(5, 1, 2, 2), Grid(2, 2))

    over_image = AnswerMaps(("a",), weights, resampler).over_image(0)
    expected = torch.zeros(4, 4)
    expected[0, 2] = 0.3
    expected[2:, :2] = 0.1
    assert torch.allclose(over_image, expected)


def test_a_model_with_a_projector_is_refused(monkey):
    del monkey.model.resampler.query
    with pytest.raises(ValueError, match="attention over patches needs a model with a resampler"):
        answer_attention.compute_answer_maps(monkey, Image.new("RGB", (9, 9)), "which?", "a")


def test_occlusion_is_the_loss_of_log_likelihood(monkey, make_image, monkeypatch):
    """With scores that count the bright pixels, a map of where they are."""
    image = Image.new("RGB", (80, 40))
    image.paste((255, 255, 255), (0, 0, 20, 20))
    image.paste((255, 255, 255), (70, 30, 80, 40))

    def count_bright(monkey, examples):
        bright = [int((np.asarray(example.image)[..., 0] > 200).sum()) for example in examples]
        return AnswerScores(np.array(bright, dtype=float), None)

    monkeypatch.setattr(answer_attention, "score_answers", count_bright)
    lost = answer_attention.occlusion_map(monkey, image, "which?", "a", cells=4)
    assert lost.tolist() == [[200, 0, 0, 0], [200, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 100]]


def test_a_map_points_at_the_cell_of_its_largest_value():
    importance = torch.zeros(2, 4)
    importance[1, 2] = 1  # from (50, 50) to (75, 100) of an image of 100 pixels
    assert answer_attention.points_into(importance, (70, 90, 90, 95), (100, 100))
    assert not answer_attention.points_into(importance, (75, 90, 90, 95), (100, 100)), "an edge is no overlap"
    assert not answer_attention.points_into(importance, (55, 10, 60, 50), (100, 100))


def test_pointing_game_counts_hits_and_chance(monkey, make_image):
    def example(number, box):
        return Example(str(number), make_image(number, 112, 112), "which?", ("ab",), meta={"answer_box": box})

    everywhere = [example(0, (0, 0, 112, 112)), example(1, (0, 0, 112, 112))]
    rows = answer_attention.pointing_game(monkey, everywhere, cells=2)
    assert [row["by"] for row in rows] == ["chance", "attention", "occlusion"]
    assert [row["points"] for row in rows] == [1, 1, 1] and rows[0]["n"] == 2

    quarter = answer_attention.pointing_game(monkey, [example(0, (0, 0, 50, 50))], cells=2)
    assert quarter[0]["points"] == 0.25

    with pytest.raises(ValueError, match="1 has no answer_box"):
        answer_attention.pointing_game(monkey, [Example("1", make_image(), "which?", ("ab",))])
