import copy
import inspect

import pytest
import torch

from monkeylib.raising.adapters import layer_adapters
from monkeylib.raising.model import merge_adapters, ranks_of_layers
from monkeylib.raising.tower import encode_image, find_tower
from tests.raising.conftest import noise_image, train_adapters
from tests.support import tiny_vlms


def features(model, inputs, tile_index):
    with torch.no_grad(), model.view_state.use(tile_index):
        return torch.cat(encode_image(model, inputs))


def test_class_has_the_name_of_the_base_and_takes_tile_index(raised, llava):
    model = raised.model
    assert type(model).__name__ == type(llava.model).__name__
    assert isinstance(model, type(llava.model))
    parameters = inspect.signature(model.forward).parameters
    assert parameters["tile_index"].default is None
    assert parameters.keys() - {"tile_index"} == inspect.signature(llava.model.forward).parameters.keys()


def test_only_adapters_learn(raised):
    trainable = {name for name, parameter in raised.model.named_parameters() if parameter.requires_grad}
    assert len(trainable) == 12 * 4 * 2
    assert all("tile_lora" in name for name in trainable)


@pytest.mark.parametrize(
    ("mode", "adapters", "trainable"),
    [
        ("per_tile", 4, "tile_lora"),
        ("shared", 1, "tile_lora"),
        ("none", 0, None),
        ("full", 0, "vision_tower"),
    ],
)
def test_modes(mode, adapters, trainable, raise_llava):
    model = raise_llava(mode=mode).model
    counts = {len(module) for module in layer_adapters(model).values()}
    assert counts == ({adapters} if adapters else set())

    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert bool(names) == (trainable is not None)
    assert all(trainable in name for name in names)


def test_tiles_of_the_shared_mode_meet_one_adapter(raise_llava):
    raised = raise_llava(mode="shared")
    view = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    # [12, width] -> 3 x [4, width]
    views = features(raised.model, {"pixel_values": view.repeat(3, 1, 1, 1)}, [0, 3, -1])
    first, second, global_view = views.chunk(3)
    assert torch.equal(first, second)
    assert not torch.allclose(first, global_view, atol=1e-3)


@pytest.mark.parametrize("rank", [{"q_proj": 3}, {"q_proj": 3, "0.self_attn.q_proj": 2}])
def test_rank_by_name_of_layers(rank, raise_llava):
    adapters = layer_adapters(raise_llava(rank=rank).model)
    ranks = {name.split("layers.")[1]: module[0].lora_A.shape[1] for name, module in adapters.items()}
    assert ranks == {"0.self_attn.q_proj": min(rank.values()), "1.self_attn.q_proj": 3}


@pytest.mark.parametrize(
    ("rank", "message"), [(0, "whole number from 1"), ({"q": 4}, "no layer .* 'q': there are fc1, q_proj")]
)
def test_impossible_rank_raises(rank, message):
    with pytest.raises(ValueError, match=message):
        ranks_of_layers(["0.q_proj", "0.fc1"], rank)


def test_raising_twice_raises(raised, llava, raise_llava):
    from monkeylib.raising import raise_resolution

    with pytest.raises(ValueError, match="raised already"):
        raise_resolution(raised.model, llava.processor)


def test_too_few_places_raise(raised, inputs):
    cut = {name: inputs[name][:, 4:] for name in ("input_ids", "attention_mask")}
    short = {**inputs, **cut}
    for call in (raised.model, raised.model.generate):
        with pytest.raises(ValueError, match="holds 16 places for visual tokens, 5 views x 4 tokens are 20"):
            call(**short)
    assert raised.model.view_state.tile_index is None


def test_views_without_numbers_raise(raised, inputs):
    with pytest.raises(ValueError, match="names 4 views, the vision tower reads 5"):
        with raised.model.view_state.use(inputs["tile_index"][:4]):
            encode_image(raised.model, inputs)


def test_blip2_with_places_for_one_view_raises():
    """transformers fills what places there are, and leaves the other views out."""
    vlm = tiny_vlms.build("blip2")
    inputs = vlm.processor(images=noise_image(), text="ab", return_tensors="pt")
    five = {**inputs, "pixel_values": inputs["pixel_values"].repeat(5, 1, 1, 1)}
    is_silent = torch.allclose(vlm.model(**five).logits, vlm.model(**inputs).logits, atol=1e-4)
    assert is_silent

    from monkeylib.raising import raise_resolution

    model, _ = raise_resolution(vlm.model, vlm.processor, rank=4)
    with pytest.raises(ValueError, match="holds 4 places for visual tokens, 5 views x 4 tokens are 20"):
        model(**five, tile_index=[0, 1, 2, 3, -1])


def test_forward_that_accelerate_has_put_on_the_model_is_used(llava, raise_llava, inputs):
    """A device map replaces `forward` on the instance, so that a class's own is bypassed."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    from monkeylib.raising import raise_resolution

    reference = raise_llava().model
    expected = reference(**inputs).logits
    greedy = reference.generate(**inputs, max_new_tokens=3)
    add_hook_to_module(llava.model, ModelHook())
    hooked_before, _ = raise_resolution(llava.model, llava.processor, rank=4)
    hooked_after = raise_llava().model
    add_hook_to_module(hooked_after, ModelHook())

    # The same adapters, whose first factors are drawn at random.
    for model in (hooked_before, hooked_after):
        model.load_state_dict(reference.state_dict())
        assert "forward" in vars(model)
        assert "tile_index" in inspect.signature(model.forward).parameters
        assert torch.equal(model(**inputs).logits, expected)
        assert torch.equal(model.generate(**inputs, max_new_tokens=3), greedy)
        without_index = {name: value for name, value in inputs.items() if name != "tile_index"}
        assert not torch.allclose(model(**without_index).logits, expected, atol=1e-3)


def test_copy_has_a_state_and_adapters_of_its_own(raised, inputs):
    copied = copy.deepcopy(raised.model)
    before = raised.model(**inputs).logits
    assert torch.equal(copied(**inputs).logits, before)

    with torch.no_grad():
        for adapters in layer_adapters(copied).values():
            adapters[0].lora_B.zero_()
    with copied.view_state.use([0, 1, 2, 3, -1]):
        assert raised.model.view_state.tile_index is None
    assert torch.equal(raised.model(**inputs).logits, before)
    assert not torch.allclose(copied(**inputs).logits, before, atol=1e-3)


def loss_of(model, inputs):
    return model(**inputs).logits.square().mean()


def gradients_of(model, losses):
    model.zero_grad()
    sum(losses).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) > 20
    return gradients


@pytest.mark.parametrize("reentrant", [False, True])
def test_two_forwards_before_one_backward_with_checkpointing(reentrant, raised, inputs):
    """The tower runs again on the way back, first for the call that came last."""
    model = raised.model.train()
    other = raised.processor(images=noise_image(3), text="<image>ab", grid=(1, 2), return_tensors="pt")
    plain = gradients_of(model, [loss_of(model, inputs), loss_of(model, other)])

    model.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    # Re-entrant checkpointing needs an input with a gradient.
    embeddings = find_tower(model).get_input_embeddings()
    embeddings.register_forward_hook(lambda _, __, output: output.requires_grad_())
    checkpointed = gradients_of(model, [loss_of(model, inputs), loss_of(model, other)])

    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        assert torch.allclose(checkpointed[name], gradient, rtol=1e-4, atol=1e-6), name


def test_checkpointing_that_is_on_before_is_remembered(llava, inputs):
    from monkeylib.raising import raise_resolution

    llava.model.activation_checkpointing_enable({"use_reentrant": False})
    model, _ = raise_resolution(llava.model, llava.processor, rank=4)
    train_adapters(model)
    model.train()
    checkpointed = gradients_of(model, [loss_of(model, inputs)])
    model.activation_checkpointing_disable()
    plain = gradients_of(model, [loss_of(model, inputs)])
    for name, gradient in plain.items():
        assert torch.allclose(checkpointed[name], gradient, rtol=1e-4, atol=1e-6), name


def test_checkpointing_by_another_way_raises(raised, inputs):
    model = raised.model.train()
    layer = find_tower(model).encoder.layers[0]
    forward = layer.forward
    layer.forward = lambda *args, **kwargs: torch.utils.checkpoint.checkpoint(
        forward, *args, use_reentrant=False, **kwargs
    )
    loss = loss_of(model, inputs)
    with pytest.raises(RuntimeError, match="by a way that does not say for which views"):
        loss.backward()


def test_merging_gives_the_base_class_with_the_features_of_tiles(raise_llava):
    raised = raise_llava(mode="shared")
    model = raised.model
    inputs = {"pixel_values": torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))}
    expected = features(model, inputs, [0, 3])
    names = {name for name in model.state_dict() if "tile_lora" not in name}

    assert merge_adapters(model) is model
    with torch.no_grad():
        assert torch.allclose(torch.cat(encode_image(model, inputs)), expected, atol=1e-5)
    assert model.state_dict().keys() == names
    assert "tile_index" not in inspect.signature(model.forward).parameters
    assert not find_tower(model)._forward_hooks and not model._forward_pre_hooks


def test_merging_adapters_of_tiles_raises(raised):
    with pytest.raises(ValueError, match="can be merged"):
        raised.merge()
