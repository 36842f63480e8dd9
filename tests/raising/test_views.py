import copy
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monkeylib.raising.views import CheckpointedPart, ViewState, plan_parts


@given(st.lists(st.integers(-1, 3), max_size=12))
def test_each_view_with_an_adapter_is_in_one_part(numbers):
    adapter_of_view = {}
    for part in plan_parts(numbers):
        views = range(len(numbers))[part.views]
        adapters = part.adapters * len(views) if len(part.adapters) == 1 else part.adapters
        assert len(adapters) == len(views)
        assert adapter_of_view.keys().isdisjoint(views)
        adapter_of_view |= dict(zip(views, adapters, strict=True))

    assert adapter_of_view == {view: number for view, number in enumerate(numbers) if number >= 0}


@pytest.mark.parametrize(
    ("numbers", "count"),
    [
        ([0, 1, 2, 3, -1], 1),  # one image
        ([0, 1, 2, 3, -1] * 8, 4),  # more images than tiles
        ([2, 2, 2, 2, 2], 1),
        ([-1, -1], 0),
    ],
)
def test_parts_are_few(numbers, count):
    assert len(plan_parts(numbers)) == count


def test_numbers_are_those_of_the_innermost_call():
    state = ViewState([0, 1])
    with state.use(torch.tensor([0, 1, -1])):
        with state.use(None):
            assert state.tile_index == [0, 1, -1]
        with state.use([1]):
            assert state.tile_index == [1]
    assert state.tile_index is None


@pytest.mark.parametrize("number", [2, -2, 0.5])
def test_number_without_a_tile_raises(number):
    with pytest.raises(ValueError, match="from 0 to 1"):
        ViewState([0, 1]).push([0, number])


def test_more_rows_than_numbers_raise():
    state = ViewState([0, 1])
    with state.use([0, 1, -1]), pytest.raises(ValueError, match="names 3 views, the vision tower reads 4"):
        state.begin(4)


def test_threads_and_copies_have_their_own_state():
    state = ViewState([0])
    other: list = []
    with state.use([0, -1]):
        thread = threading.Thread(target=lambda: other.append(state.tile_index))
        thread.start()
        thread.join()
        other.append(copy.deepcopy(state).tile_index)
        assert copy.deepcopy(state).adapter_of_tile == [0]

    assert other == [None, None]


def test_checkpointed_part_runs_again_under_its_own_plan():
    state = ViewState([0, 1])
    delayed = []

    with state.use([0, -1]):
        state.begin(2)
        CheckpointedPart(lambda function: delayed.append(function), state)(lambda: state.plan)
        state.end()
    with state.use([1, 1]):
        state.begin(2)
        state.end()

    assert delayed[0]() == (2, plan_parts([0, -1]))
    assert state.plan is None
