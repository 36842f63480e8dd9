"""Absurd sizes are refused before anything is built of them."""

import pytest

from monkeylib.model.limits import LARGEST, MAX_TILES, check_file_size, check_grids, check_size, check_sizes


@pytest.mark.parametrize("name", LARGEST)
def test_largest_size_is_accepted_and_one_more_is_refused(name):
    check_sizes({name: LARGEST[name]})
    one_more = LARGEST[name] + 1
    with pytest.raises(ValueError, match=f"{name} is {one_more}: expected a whole number from [01] to"):
        check_sizes({name: one_more})


@pytest.mark.parametrize("name", ["attention_rank", "mlp_rank"])
def test_rank_may_be_zero(name):
    check_sizes({name: 0})
    with pytest.raises(ValueError, match=f"{name} is -1: expected a whole number from 0 to"):
        check_sizes({name: -1})


@pytest.mark.parametrize("size", [0, -1, 2.0, "8", True, [8, 0], {"height": 8}, "9" * 100])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match="image_size is .*: expected a whole number") as raised:
        check_sizes({"image_size": size} if not isinstance(size, dict) else {"image_size": str(size)})
    assert len(str(raised.value)) < 120


def test_sizes_of_sections_are_named_with_their_section():
    check_sizes({"layers": None, "note": -1, "vision_config": {"width": 8}})
    with pytest.raises(ValueError, match=r"^vision_config\.width is 0"):
        check_sizes({"vision_config": {"width": 0}})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "a multiple of the 4 heads of keys"),
        ({"num_attention_heads": 5, "hidden_size": 64}, "a multiple of the 5 attention heads"),
    ],
)
def test_heads_that_do_not_divide_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check_sizes(settings)


def test_heads_of_each_layer_are_no_one_number():
    check_sizes({"num_attention_heads": [4, 8], "num_key_value_heads": 3, "hidden_size": 63})


def test_heads_of_a_stated_width_need_not_divide():
    check_sizes({"num_attention_heads": 5, "hidden_size": 64, "head_dim": 16})


@pytest.mark.parametrize(
    "grids, message",
    [
        ("2x2", "expected a list such as"),
        ([2, 2], "holds 2: expected rows and columns"),
        ([[2, 2, 2]], "expected rows and columns"),
        ([[2, 0]], "grids is 0"),
        ([[2, 2], [1.5, 2]], "grids is 1.5"),
        ([[MAX_TILES, 2]], "the number of tiles in grids is 2048"),
    ],
)
def test_what_is_no_grid_is_refused(grids, message):
    check_grids([[2, 2], (1, MAX_TILES)])
    with pytest.raises(ValueError, match=message):
        check_grids(grids)


def test_file_that_is_too_large_is_refused_by_its_name(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"12345")
    check_file_size(path, 5, "a tokenizer")
    with pytest.raises(
        ValueError, match=r"tokenizer\.json has 5 bytes, more than the 4 that a file of a tokenizer"
    ):
        check_file_size(path, 4, "a tokenizer")


def test_one_size():
    check_size("max_length", 1, 1)
    with pytest.raises(ValueError, match="max_length is 2: expected a whole number from 1 to 1"):
        check_size("max_length", 2, 1)
