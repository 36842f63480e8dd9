"""The released layout of GRiT's checkpoints: every key has its place, and broken files are refused."""

import pickle

import pytest
import torch

from monkeylib.captions.experts.grit.checkpoint import (
    build_grit,
    expected_shapes,
    load_grit,
    read_checkpoint,
    released_key,
)
from monkeylib.captions.experts.grit.config import BEGIN_ID, JOINT_BEGIN_ID, GritConfig
from tests.support.grit_goldens import CONFIG, facts, small_grit, weights

RELEASED = facts()["released_state_dict"]
SHAPES = RELEASED["GRiT_B_DenseCap"]["shapes"]


def test_every_released_key_has_its_place():
    assert len(SHAPES) == RELEASED["GRiT_B_DenseCap"]["keys"] == 355
    assert expected_shapes(GritConfig()) == SHAPES


def test_checkpoint_of_the_true_size_becomes_a_model():
    """On the meta device, which holds shapes alone; with the mask head of the joint model."""
    shapes = SHAPES | RELEASED["GRiT_B_DenseCap_ObjectDet_extra"]
    assert len(shapes) == RELEASED["GRiT_B_DenseCap_ObjectDet"]["keys"] == 367
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    grit = build_grit(tensors, GritConfig())

    own_tensors = grit.state_dict()
    assert sum(tensor.numel() for tensor in own_tensors.values()) == 229_445_462 - 30522 * 768
    assert all(list(own_tensors[name].shape) == shapes[released_key(name)] for name in own_tensors)
    assert {tensor.dtype for tensor in own_tensors.values()} == {torch.float32}


def test_tensors_lie_where_the_key_map_says():
    own_tensors = small_grit().state_dict()
    keys = [released_key(name) for name in own_tensors]
    repeated = {"roi_heads.text_decoder.textual.output.weight"}

    assert set(keys) == set(weights()) - repeated and len(set(keys)) == len(keys)
    assert all(torch.equal(own_tensors[name], weights()[released_key(name)].float()) for name in own_tensors)
    with pytest.raises(KeyError, match="no rule of the key map gives the released key of vit.norm"):
        released_key("vit.norm.weight")


def save(path, tensors):
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize("wrapped", [False, True])
def test_tensors_may_lie_under_model(tmp_path, wrapped):
    contents = {"model": weights(), "iteration": 3} if wrapped else weights()
    grit = load_grit(save(tmp_path / "grit.pth", contents), CONFIG)
    assert torch.equal(grit.vit.positions, small_grit().vit.positions)


def test_begin_id_fits_the_checkpoint(tmp_path):
    """A model of several tasks has a mask head, and an id of its own for captions of regions."""
    assert load_grit(save(tmp_path / "a.pth", weights()), CONFIG).config.begin_id == BEGIN_ID == 101
    joint = weights() | {"roi_heads.mask_head.predictor.bias": torch.zeros(1)}
    assert load_grit(save(tmp_path / "b.pth", joint), CONFIG).config.begin_id == JOINT_BEGIN_ID == 104


def without(key):
    return {name: tensor for name, tensor in weights().items() if name != key}


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        (without("backbone.top_block.p6.bias"), "lack backbone.top_block.p6.bias: take the released grit"),
        ({"conv.weight": torch.zeros(1)}, "lack .* hold conv.weight .*, which GRiT-B knows nothing of"),
        (
            weights() | {"backbone.bottom_up.pos_embed": torch.zeros(1, 5, 48)},
            r"bottom_up.pos_embed in .*grit.pth has the shape \[1, 5, 48\], GRiT-B asks for \[1, 197",
        ),
        (
            weights() | {"backbone.top_block.p6.bias": torch.full((64,), torch.nan)},
            "p6.bias in .*grit.pth holds 64 of 64 values that are not finite",
        ),
        ({"model": [1, 2]}, "grit.pth holds something other than tensors by name: take the weights alone"),
        ([weights()], "grit.pth holds something other than tensors by name"),
    ],
)
def test_foreign_checkpoint_is_refused_in_one_sentence(tmp_path, contents, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        load_grit(save(tmp_path / "grit.pth", contents), CONFIG)
    assert "\n" not in str(error.value)


def test_broken_file_is_refused_in_one_sentence(tmp_path):
    path = save(tmp_path / "grit.pth", weights())
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], content[:100], b"", b"<html>not found</html>"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="grit.pth is (cut off|no file).*: fetch it again"):
            read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"the file of weights .*none.pth is missing"):
        read_checkpoint(tmp_path / "none.pth")


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    path = tmp_path / "grit.pth"
    torch.save({"model": Harmful()}, path)
    with pytest.raises(ValueError, match="which could run code when loaded, and was not loaded"):
        read_checkpoint(path)

    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match="no file of weights that PyTorch has written"):
        read_checkpoint(path)
    assert "executed" not in capsys.readouterr().out
