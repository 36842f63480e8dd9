import pytest
import torch
from torch.nn import functional as F

from monkeylib.model import cpu
from monkeylib.model import vision as vision_module
from monkeylib.model.tile_lora import NO_LORA
from monkeylib.model.vision import PositionEmbeddingCache, attend, interpolate_position_embedding
from tests.support.checkpointing import compare_checkpointed

LORA_INDEX = [2, NO_LORA, 0, 3, 1, 0, NO_LORA, 2]


@pytest.fixture()
def views():
    return torch.randn(len(LORA_INDEX), 3, 56, 56, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_views_in_any_order_are_encoded_as_each_alone(tiny, views):
    vision = tiny().vision
    together = vision(views, LORA_INDEX)
    alone = [vision(view[None], [number]) for view, number in zip(views, LORA_INDEX, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@torch.no_grad()
def test_each_lora_gives_other_features(tiny, views):
    same_view = views[:1].expand(5, -1, -1, -1)
    features = tiny().vision(same_view, [NO_LORA, 0, 1, 2, 3])
    for i in range(5):
        for j in range(i):
            assert (features[i] - features[j]).abs().max() > 0.1


@torch.no_grad()
def test_chunk_size_does_not_change_the_features(tiny, views, monkeypatch):
    vision = tiny().vision
    expected = vision(views, LORA_INDEX)
    for chunk_bytes in (0, 3 * 16 * 64 * 4):  # one view, three views
        monkeypatch.setattr(vision_module, "CPU_CHUNK_BYTES", chunk_bytes)
        assert torch.allclose(vision(views, LORA_INDEX), expected, atol=1e-5)


@pytest.mark.parametrize(("device", "views_at_once"), [("cpu", 1), ("meta", 3)])
def test_views_go_through_at_once_up_to_the_budget_of_the_device(tiny, monkeypatch, device, views_at_once):
    """A meta tensor stands for one on an accelerator."""
    vision = tiny().vision
    pixels = torch.empty(5, 3, 28, 28, device=device)
    bytes_of_view = 4 * (28 // vision.patch_size) ** 2 * vision.mlp_width
    monkeypatch.setattr(vision_module, "CPU_CHUNK_BYTES", 0)
    monkeypatch.setattr(vision_module, "ACCELERATOR_CHUNK_BYTES", 3 * bytes_of_view)
    assert vision.chunk_size(pixels) == views_at_once

    vision.chunk_bytes = 2 * bytes_of_view
    assert vision.chunk_size(pixels) == 2


def test_features_and_what_hooks_see_are_the_same_with_and_without_gradients(tiny, views):
    """Without gradients the GELU is computed in place, unless a hook looks at what goes into it."""
    vision = tiny().vision
    expected = vision(views, LORA_INDEX)
    seen = []
    with torch.no_grad():
        assert torch.equal(vision(views, LORA_INDEX), expected)
        vision.blocks[0].fc.register_forward_hook(lambda _, inputs, output: seen.append(output))
        assert torch.equal(vision(views, LORA_INDEX), expected)
    assert min(output.min() for output in seen) < -0.2  # below the least value of the GELU


@torch.no_grad()
@pytest.mark.parametrize("lora_input", ["residual", "normed"])
def test_lora_of_the_mlp_reads_the_residual_stream_or_its_norm(tiny, lora_input):
    block = tiny(mlp_lora_input=lora_input).vision.blocks[0]
    x, group = torch.randn(1, 16, 32), torch.tensor([3])

    y = x + block.attention(block.ln_1(x), group)
    mlp = block.proj(F.gelu(block.fc(block.ln_2(y))))
    lora_reads = y if lora_input == "residual" else block.ln_2(y)
    expected = y + block.mlp_lora.add(mlp.clone(), lora_reads, group)

    assert torch.allclose(block(x, group), expected, atol=1e-5)


def test_global_views_build_no_graph_while_the_backbone_is_frozen(tiny, views):
    model = tiny()
    model.freeze_for_finetuning()
    assert not model.vision(views, [NO_LORA] * 8).requires_grad
    assert model.vision(views, LORA_INDEX).requires_grad


@pytest.mark.parametrize("mode", ["per_tile", "full"])
def test_gradient_checkpointing_changes_no_value(tiny, processor, make_image, mode):
    plain, checkpointed = (tiny(lora_mode=mode, lora_dropout=0.0) for _ in range(2))
    checkpointed.gradient_checkpointing_enable()
    inputs = processor([make_image()], ["What is it? Answer: a cat"])
    compare_checkpointed(plain, checkpointed, inputs | {"labels": inputs["input_ids"]})


@torch.no_grad()
def test_larger_views_interpolate_the_position_embedding(tiny):
    model = tiny()
    assert model.vision(torch.randn(2, 3, 112, 112)).shape == (2, 64, 32)
    assert model.vision(torch.randn(2, 3, 56, 112)).shape == (2, 32, 32)


def test_view_that_does_not_divide_into_patches_raises(tiny):
    with pytest.raises(ValueError, match="60x56 pixels.*patches of 14"):
        tiny().vision(torch.zeros(1, 3, 60, 56))


def test_position_embedding_of_the_right_size_is_not_resampled():
    embedding = torch.randn(9, 4)
    assert interpolate_position_embedding(embedding, 3, 3) is embedding


def test_resampled_position_embedding_is_cached_until_it_changes():
    cache, embedding = PositionEmbeddingCache(), torch.nn.Parameter(torch.randn(9, 4))
    # A tensor that was cached in inference mode must be usable in training later.
    with torch.inference_mode():
        first = cache(embedding, 6, 6)
    with torch.no_grad():
        assert cache(embedding, 6, 6) is first
        embedding += 1
        assert torch.allclose(cache(embedding, 6, 6), first + 1, atol=1e-5)

        # Autograd counts no changes by `.data`, or by kernels of other libraries.
        for grid in (3, 6):
            before = cache(embedding, grid, grid).clone()
            embedding.data += 1
            assert torch.allclose(cache(embedding, grid, grid), before + 1, atol=1e-5)

    # While it is trained, gradients flow through the resampling.
    resampled = cache(embedding, 6, 6)
    resampled.sum().backward()

    assert embedding.grad.sum() == pytest.approx(36 * 4, rel=1e-4)


@pytest.mark.parametrize("is_plain", [False, True])
def test_attention_in_bfloat16_is_that_of_the_fused_kernel(monkeypatch, is_plain):
    calls = []
    monkeypatch.setattr(cpu, "prefers_plain_attention", lambda: calls.append(is_plain) or is_plain)
    # Query, key and value [V, heads, tokens, head_dim] as they come out of a joint projection.
    qkv = torch.randn(3, 20, 2, 3, 8, generator=torch.Generator().manual_seed(0)).permute(3, 0, 2, 1, 4)
    expected = F.scaled_dot_product_attention(*qkv)
    assert expected.abs().max() > 0.5

    q, k, v = qkv.bfloat16()
    with torch.no_grad():
        assert torch.allclose(attend(q, k, v).float(), expected, atol=2e-2)
        # Fewer queries than patches, as in the resampler.
        assert torch.allclose(attend(q[:, :, :5], k, v).float(), expected[:, :, :5], atol=2e-2)
        assert len(calls) == 2

        # In training, also where checkpointing runs without gradients, it is the fused kernel.
        attend(q, k, v, training=True)
    attend(q, k, v)
    assert torch.equal(attend(*qkv), expected) and len(calls) == 2


def test_attention_is_measured_once():
    cpu.prefers_plain_attention.cache_clear()
    assert cpu.prefers_plain_attention() in (True, False)
    assert cpu.prefers_plain_attention() is cpu.prefers_plain_attention()
    assert cpu.prefers_plain_attention.cache_info().misses == 1
