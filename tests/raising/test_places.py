import numpy as np
import pytest
import torch

from monkeylib.raising.places import count_places

IDS = [[4, 9, 9, 5], [9, 1, 2, 3]]


@pytest.mark.parametrize(
    "convert", [torch.tensor, np.array, list, lambda rows: [np.array(row) for row in rows]]
)
def test_places_of_a_batch(convert):
    assert count_places({"input_ids": convert(IDS)}, 9) == 3


def test_rows_of_different_lengths():
    assert count_places({"input_ids": [[9, 9, 1], [9]]}, 9) == 3


def test_mask_of_places_goes_before_ids():
    assert (
        count_places({"input_ids": IDS, "image_embeds_position_mask": [[0, 1, 1, 1], [0, 0, 0, 0]]}, 9) == 3
    )


def test_nothing_tells():
    assert count_places({"input_ids": IDS}, None) is None
    assert count_places({"inputs_embeds": torch.zeros(1, 2, 3)}, 9) is None
